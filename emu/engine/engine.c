// What the engine asks too often for Python: a callback of Python's costs a microsecond, these
// cost a nanosecond or two. Plain functions with a C ABI that QEMU and Unicorn call; what each
// does, a Python callback does too where this library is missing, and tests compare the two.
//
// The hart's state is an array of 64-bit words (emu/spec/words.py); the build passes their numbers as
// WORD_* and the fields of mstatus as MSTATUS_* (emu/spec/csr.py).

#include <stdbool.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

#define M_MODE 3
#define PAGE_SIZE 4096
#define PAGE_READ 1  // and so are the PMP's privileges
#define PAGE_WRITE 2
#define PAGE_EXEC 4
enum access { LOAD, STORE, FETCH };  // QEMU's MMUAccessType

typedef bool fill_function(void *cpu, uint64_t va, int size, int access, int mode, bool probe,
                           uintptr_t from);

// Functions of the engine's library, and the place in its CPU of the pointer to the words.
struct engine {
    fill_function *tlb_fill;
    bool (*pmp_allows)(uint64_t *words, uint64_t pa, uint64_t size, int privileges, uint64_t mode);
    void (*set_page)(void *cpu, uint64_t va, uint64_t pa, int prot, int mode, uint64_t size);
    uint64_t (*physical_page)(void *cpu, uint64_t va);
    bool (*exec_interrupt)(void *cpu, int request);
    void (*tlb_flush)(void *cpu);
    uint64_t words_at;
};

static struct engine engine;

// Once in a process, before anything else: every engine in it is of the same library.
EXPORT void use_engine(const struct engine *known) { engine = *known; }

static uint64_t *words_of(void *cpu) {
    return *(uint64_t **)((char *)cpu + engine.words_at);
}

// A hook of blocks: counts their bytes and, where there is a table of them, their instructions.

#define WAYS 4  // places in which a block may be found
#define HASH 0x9e3779b97f4a7c15ul  // 2^64 over the golden ratio: spreads addresses that lie close

struct length {  // of one block: bytes, and instructions
    uint64_t va;
    uint32_t size, instructions;
};

struct block_counter {
    uint64_t count, deadline;  // bytes
    void (*reached)(void *uc, uint64_t va, uint32_t size, struct block_counter *counter);
    struct length *lengths;  // or NULL
    uint64_t bits;           // their number is 2 to that, and WAYS more
    void (*unknown)(void *uc, uint64_t va, uint32_t size, struct block_counter *counter);
    const volatile uint16_t *leaves;  // not 0: the engine leaves this block before it begins
    uint64_t instructions;
    uint64_t va, size;  // of the block that began last
};

struct block {  // Unicorn's uc_tb
    uint64_t va;
    uint16_t instructions, size;
};

static struct length *places_of(struct block_counter *counter, uint64_t va) {
    return &counter->lengths[va * HASH >> (64 - counter->bits)];
}

EXPORT void count_block(void *uc, uint64_t va, uint32_t size, struct block_counter *counter) {
    counter->count += size;
    if (counter->count >= counter->deadline)
        counter->reached(uc, va, size, counter);
    // It is told of again when it does begin.
    if (!counter->lengths || *counter->leaves)
        return;
    counter->va = va;
    counter->size = size;
    struct length *places = places_of(counter, va);
    for (int i = 0; i < WAYS; i++) {
        if (places[i].va == va && places[i].size == size) {
            counter->instructions += places[i].instructions;
            return;
        }
    }
    counter->unknown(uc, va, size, counter);
}

// A hook of new blocks: what was known of one at this address may not be true of this one.
EXPORT void forget_block(void *uc, struct block *block, struct block *previous,
                         struct block_counter *counter) {
    struct length *places = places_of(counter, block->va);
    for (int i = 0; i < WAYS; i++) {
        if (places[i].va == block->va)
            places[i].size = 0;
    }
}

// In the place of CPUClass.tlb_fill. The engine gives R, W and X to a page that is not
// translated, and each store to a page with X takes its slow way. Here a load or store makes an
// entry with R and W, if the PMP has no objection; the rest is the engine's.

static bool fill_bare(void *cpu, uint64_t va, int size, int prot, int mode) {
    if (!engine.pmp_allows(words_of(cpu), va, size, prot, mode))
        return false;
    uint64_t page = va & -PAGE_SIZE;
    engine.set_page(cpu, page, page, prot, mode, PAGE_SIZE);
    return true;
}

// M-mode with MPRV set: loads and stores are translated as those of MPP are, fetches are not
// (section 3.1.6.3). The engine has one entry for both. Here an entry serves fetches or data,
// so each of the two asks again when the other was the last.

static bool fill_mprv(void *cpu, uint64_t va, int size, int access, int mode, bool probe,
                      uintptr_t from) {
    if (access == FETCH && fill_bare(cpu, va, size, PAGE_EXEC, mode))
        return true;
    if (!engine.tlb_fill(cpu, va, size, access, mode, probe, from))
        return false;
    uint64_t page = va & -PAGE_SIZE, pa = engine.physical_page(cpu, page);
    if (access != FETCH && pa != -1ul)
        engine.set_page(cpu, page, pa, PAGE_READ | (access == STORE ? PAGE_WRITE : 0), mode,
                        PAGE_SIZE);
    return true;
}

EXPORT bool tlb_fill(void *cpu, uint64_t va, int size, int access, int mode, bool probe,
                     uintptr_t from) {
    uint64_t *words = words_of(cpu);
    if (mode == M_MODE && words[WORD_MSTATUS] & MSTATUS_MPRV)
        return fill_mprv(cpu, va, size, access, mode, probe, from);
    bool translated = mode != M_MODE && words[WORD_SATP] >> 60;
    if (access != FETCH && !translated && fill_bare(cpu, va, size, PAGE_READ | PAGE_WRITE, mode))
        return true;
    return engine.tlb_fill(cpu, va, size, access, mode, probe, from);
}

// In the place of CPUClass.cpu_exec_interrupt, which delivers an interrupt. Below M-mode MPRV is
// 0: each return there clears it (section 3.1.6.3), which the engine's returns do not. It counts
// in M-mode alone, so it is enough to clear it on the way in. emu/spec/trap.py does so for the rest.

EXPORT bool exec_interrupt(void *cpu, int request) {
    uint64_t *words = words_of(cpu), from = words[WORD_PRIV];
    bool taken = engine.exec_interrupt(cpu, request);
    if (taken && words[WORD_PRIV] == M_MODE && words[WORD_MSTATUS] & MSTATUS_MPRV) {
        if (from != M_MODE)
            words[WORD_MSTATUS] &= ~MSTATUS_MPRV;
        engine.tlb_flush(cpu);  // MPP is another
    }
    return taken;
}

// A hook of new blocks: calls `unseen` for those in a chunk of RAM that has not been seen, and
// for those that cross into another page.

struct block_filter {
    void *cpu;
    uint64_t *words;
    uint64_t ram_base, chunks, chunk_shift;
    const uint8_t *seen;  // a byte for each chunk
    void (*unseen)(void *uc, struct block *block, struct block *previous, struct block_filter *);
};

EXPORT void filter_block(void *uc, struct block *block, struct block *previous,
                         struct block_filter *filter) {
    uint64_t va = block->va;
    if (va % PAGE_SIZE + block->size <= PAGE_SIZE) {
        // M-mode fetches from the PA; elsewhere -1 says that there is no page.
        uint64_t pa = filter->words[WORD_PRIV] == M_MODE
            ? va : engine.physical_page(filter->cpu, va & -PAGE_SIZE);
        uint64_t chunk = (pa - filter->ram_base) >> filter->chunk_shift;
        if (chunk < filter->chunks && filter->seen[chunk])
            return;
    }
    filter->unseen(uc, block, previous, filter);
}

// A device's read that answers one register from memory (emu/engine/polled_register.py).

struct polled_register {
    uint64_t offset, value, reads;
    uint64_t (*read)(void *uc, uint64_t offset, unsigned size, struct polled_register *);
};

EXPORT uint64_t read_register(void *uc, uint64_t offset, unsigned size,
                              struct polled_register *reg) {
    if (offset != reg->offset || !reg->value)
        return reg->read(uc, offset, size, reg);
    reg->reads++;
    return reg->value;
}
