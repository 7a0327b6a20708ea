// What `walk.c` shares with Python: emu/engine/mmu.py declares the same structures.

#include <stdbool.h>
#include <stdint.h>

#define PMP_ENTRIES 16
enum { PMP_R = 1, PMP_W = 2, PMP_X = 4, PMP_L = 128 };  // the engine's PAGE_READ ... are the same
enum access { LOAD, STORE, FETCH };                     // QEMU's MMUAccessType

// Bytes of physical memory, whole pages, with the PMP_R, PMP_W and PMP_X that the board allows.
struct region {
    uint64_t first, size, rights;
};

struct pmp_match {  // an entry that is not OFF, and the bytes that it matches
    uint64_t first, last;
    int32_t entry;
    uint32_t cfg;
};

struct uniform {  // whole pages around the last that was asked for, of which each byte is alike
    uint64_t first, last;
    int32_t rights, unused;
};

// Of one hart.
struct mmu {
    void *cpu;
    uint64_t *words;  // emu/spec/words.py
    uint8_t *ram;     // `ram_size` bytes, which the guest has at `ram_base`
    uint64_t ram_base, ram_size;
    const struct region *regions;  // all else that is there
    uint64_t region_count;
    uint64_t pmpaddr[PMP_ENTRIES];
    uint8_t pmpcfg[PMP_ENTRIES];
    // Options of the machine, and what menvcfg says of them.
    uint8_t has_pmp, has_svnapot, pbmte, updates_ad;
    // Loads and stores of a page that may be written and executed, and fetches from it, have
    // entries of their own: else the engine makes each store to it slow, to keep code coherent. For
    // those who see to that themselves.
    uint8_t splits;
    // The VA before which the engine is to stop. It looks at the bytes there, and does not execute
    // them, so the PMP does not say no. All ones: nowhere.
    uint64_t stops_before;
    uint64_t store_va, store_size;  // the last store that was asked about
    uintptr_t store_from;
    // Made by `update_pmp` from the registers.
    struct pmp_match matches[PMP_ENTRIES];
    uint64_t match_count;
    struct uniform uniform[2];  // of S and U, and of M
    struct mmu *next;
};

struct outcome {
    uint64_t pa;      // of the access
    uint64_t pte_pa;  // of the PTE at fault, or of the leaf; all ones: none was read
    uint64_t pte, missing;
    uint64_t *pte_at;
    int32_t rule, level, pmp_entry, prot;
    uint8_t is_uniform;
};
