// The translation, to the letter of the privileged spec (20240411, sections 3.7 and 12.3.2): in the
// place of the engine's own. emu/spec/walk.py and emu/spec/pmp.py say the same in Python, with the
// same names in the same order, and are the ones to read first; tests compare the two.
//
// An access that the TLB cannot answer comes to `fill`. It looks at the address, the page tables,
// the PMP and the map of what is there, and enters the page into the TLB, or raises the exception.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "walk.h"

#define EXPORT __attribute__((visibility("default")))
#define PAGE_SIZE 4096ul
#define NONE (-1ul)
enum { U_MODE, S_MODE, M_MODE = 3 };

// Functions of the engine's library. `raise` does not return.
struct engine_functions {
    void (*set_page)(void *cpu, uint64_t va, uint64_t pa, int prot, int mode, uint64_t size);
    void (*raise)(uint64_t *words, uint32_t cause, uintptr_t from) __attribute__((noreturn));
    bool (*restore_state)(void *cpu, uintptr_t from, bool will_exit);
};

static struct engine_functions engine;
static struct mmu *mmus;  // of all harts of the process

EXPORT void use_engine_functions(const struct engine_functions *known) { engine = *known; }

EXPORT void add_mmu(struct mmu *mmu) {
    mmu->next = mmus;
    mmus = mmu;
}

EXPORT void remove_mmu(struct mmu *mmu) {
    for (struct mmu **at = &mmus; *at; at = &(*at)->next) {
        if (*at == mmu) {
            *at = mmu->next;
            return;
        }
    }
}

static struct mmu *mmu_of(void *cpu) {
    struct mmu *mmu = mmus;
    while (mmu->cpu != cpu)
        mmu = mmu->next;
    return mmu;
}

// Physical memory protection (section 3.7).

// Bytes from `*first` to `*last` that entry i matches; false: none.
static bool pmp_range(const struct mmu *mmu, int i, uint64_t *first, uint64_t *last) {
    uint64_t address = mmu->pmpaddr[i];
    switch (mmu->pmpcfg[i] >> 3 & 3) {
    case 1: {  // TOR
        uint64_t bottom = i ? mmu->pmpaddr[i - 1] : 0;
        if (bottom >= address)
            return false;
        *first = bottom << 2;
        *last = (address << 2) - 1;
        return true;
    }
    case 2:  // NA4
        *first = address << 2;
        *last = *first + 3;
        return true;
    case 3: {  // NAPOT: the trailing ones say how large
        uint64_t ones = address ^ (address + 1);  // and the zero above them
        *first = (address & ~ones) << 2;
        *last = *first + (ones << 2 | 3);
        return true;
    }
    default:
        return false;
    }
}

// Call it when a register of the PMP has changed.
EXPORT void update_pmp(struct mmu *mmu) {
    int count = 0;
    for (int i = 0; i < PMP_ENTRIES; i++) {
        struct pmp_match *match = &mmu->matches[count];
        if (pmp_range(mmu, i, &match->first, &match->last)) {
            match->entry = i;
            match->cfg = mmu->pmpcfg[i];
            count++;
        }
    }
    mmu->match_count = count;
    for (int i = 0; i < 2; i++)
        mmu->uniform[i] = (struct uniform){.first = 1, .last = 0};
}

static int pmp_rights(const struct pmp_match *match, bool machine) {
    return machine && !(match->cfg & PMP_L) ? PMP_R | PMP_W | PMP_X : match->cfg & 7;
}

// The rights of an access to all of [first, last], and the entry that says so (-1: none matches).
static int pmp_check(const struct mmu *mmu, uint64_t first, uint64_t last, bool machine,
                     int *entry) {
    *entry = -1;
    if (!mmu->has_pmp)
        return PMP_R | PMP_W | PMP_X;
    for (uint64_t i = 0; i < mmu->match_count; i++) {
        const struct pmp_match *match = &mmu->matches[i];
        if (last < match->first || first > match->last)
            continue;
        *entry = match->entry;
        // It has to match all bytes of the access, whatever it allows.
        return first >= match->first && last <= match->last ? pmp_rights(match, machine) : 0;
    }
    return machine ? PMP_R | PMP_W | PMP_X : 0;
}

// Whether all bytes of the page at `pa` have the same rights, and which.
static bool pmp_page(struct mmu *mmu, uint64_t pa, bool machine, int *rights) {
    struct uniform *known = &mmu->uniform[machine], around = {.first = 0, .last = NONE};
    if (pa >= known->first && pa <= known->last) {
        *rights = known->rights;
        return true;
    }
    around.rights = machine || !mmu->has_pmp ? PMP_R | PMP_W | PMP_X : 0;
    for (uint64_t i = 0; mmu->has_pmp && i < mmu->match_count; i++) {
        const struct pmp_match *match = &mmu->matches[i];
        if (pa > match->last) {
            if (around.first <= match->last)
                around.first = match->last + 1;
        } else if (pa + PAGE_SIZE - 1 < match->first) {
            if (around.last >= match->first)
                around.last = match->first - 1;
        } else if (pa >= match->first && pa + PAGE_SIZE - 1 <= match->last) {
            around.first = around.first > match->first ? around.first : match->first;
            around.last = around.last < match->last ? around.last : match->last;
            around.rights = pmp_rights(match, machine);
            break;
        } else {
            return false;
        }
    }
    // The border may lie in the page's neighbours; whole pages are asked for.
    around.first = (around.first + PAGE_SIZE - 1) & -PAGE_SIZE;
    around.last = around.last == NONE ? NONE : ((around.last + 1) & -PAGE_SIZE) - 1;
    *known = around;
    *rights = around.rights;
    return true;
}

// What may be done at `pa` as far as the board goes: PMP_R, PMP_W, PMP_X, or 0 for a hole.
static int board_rights(const struct mmu *mmu, uint64_t pa) {
    if (pa - mmu->ram_base < mmu->ram_size)
        return PMP_R | PMP_W | PMP_X;
    for (uint64_t i = 0; i < mmu->region_count; i++) {
        if (pa - mmu->regions[i].first < mmu->regions[i].size)
            return mmu->regions[i].rights;
    }
    return 0;
}

// The walk (section 12.3.2).

static const int rights_of[] = {[LOAD] = PMP_R, [STORE] = PMP_W, [FETCH] = PMP_X};

static bool refuse(struct outcome *out, int rule, int level, uint64_t pte_pa) {
    out->rule = rule;
    out->level = level;
    out->pte_pa = pte_pa;
    return false;
}

static bool refuse_by_pmp(struct outcome *out, int rule, int level, uint64_t pte_pa, int entry) {
    out->pmp_entry = entry;
    return refuse(out, rule, level, pte_pa);
}

static bool is_ram(const struct mmu *mmu, uint64_t pa, uint64_t size) {
    return pa >= mmu->ram_base && pa - mmu->ram_base <= mmu->ram_size - size;
}

// Reserved bits and encodings, as the extensions have them (chapters 13 and 14: Svnapot, Svpbmt).
static int reserved(const struct mmu *mmu, uint64_t pte, int level, bool leaf) {
    if (pte & PTE_RESERVED)
        return RULE_RESERVED_BITS;
    if (pte & PTE_PBMT) {
        if (!leaf || !mmu->pbmte)
            return RULE_RESERVED_BITS;
        if ((pte & PTE_PBMT) == PTE_PBMT)
            return RULE_PBMT_RESERVED;
    }
    if (pte & PTE_N) {
        if (!leaf || !mmu->has_svnapot)
            return RULE_RESERVED_BITS;
        if (level != 0 || (pte >> PTE_PPN_SHIFT & 15) != 8)  // 64 KiB is the only size
            return RULE_NAPOT_RESERVED;
    }
    return RULE_OK;
}

// The page of `va` for one access of `priv` (U or S). `out->missing`: the A and D bits to be set.
static bool walk(struct mmu *mmu, uint64_t va, int access, int priv, uint64_t status,
                 struct outcome *out) {
    uint64_t satp = mmu->words[WORD_SATP];
    int levels = (int)(satp >> 60) - 5;  // 8: Sv39, 9: Sv48, 10: Sv57
    // Section 12.4.1: before the walk, the VA itself.
    int64_t top = (int64_t)va >> (12 + 9 * levels - 1);
    if (top != 0 && top != -1)
        return refuse(out, RULE_NON_CANONICAL, -1, NONE);
    // Steps 1 and 2: a is the table, i the level.
    uint64_t a = (satp & SATP_PPN_MASK) << 12, pte, pte_pa;
    int i = levels - 1, rights, entry;
    for (;; i--) {
        pte_pa = a + (va >> (12 + 9 * i) & 511) * 8;
        if (!is_ram(mmu, pte_pa, 8))
            return refuse(out, RULE_TABLE_NOT_RAM, i, pte_pa);
        if (!pmp_page(mmu, pte_pa & -PAGE_SIZE, false, &rights) || !(rights & PMP_R)) {
            if (!(pmp_check(mmu, pte_pa, pte_pa + 7, false, &entry) & PMP_R))
                return refuse_by_pmp(out, RULE_TABLE_NOT_READABLE, i, pte_pa, entry);
        }
        out->pte_at = (uint64_t *)(mmu->ram + (pte_pa - mmu->ram_base));
        pte = __atomic_load_n(out->pte_at, __ATOMIC_RELAXED);
        // Step 3: valid, and nothing reserved set.
        if (!(pte & PTE_V))
            return refuse(out, RULE_NOT_VALID, i, pte_pa);
        if (pte & PTE_W && !(pte & PTE_R))
            return refuse(out, RULE_WRITE_WITHOUT_READ, i, pte_pa);
        bool leaf = pte & (PTE_R | PTE_X);
        int rule = reserved(mmu, pte, i, leaf);
        if (rule != RULE_OK)
            return refuse(out, rule, i, pte_pa);
        // Step 4: a leaf, or one level down.
        if (leaf)
            break;
        if (pte & (PTE_A | PTE_D | PTE_U))
            return refuse(out, RULE_POINTER_HAS_AD_U, i, pte_pa);
        if (i == 0)
            return refuse(out, RULE_NO_LEAF, i, pte_pa);
        a = (pte & PTE_PPN_MASK) >> PTE_PPN_SHIFT << 12;
    }
    // Step 5: a superpage is aligned to its size.
    uint64_t pa = (pte & PTE_PPN_MASK) >> PTE_PPN_SHIFT << 12, span = PAGE_SIZE << 9 * i;
    if (pa & (span - 1))
        return refuse(out, RULE_MISALIGNED_SUPERPAGE, i, pte_pa);
    // Step 6: the U bit against the privilege.
    bool is_user = pte & PTE_U;
    if (priv == U_MODE && !is_user)
        return refuse(out, RULE_USER_PAGE_NOT_USER, i, pte_pa);
    if (priv == S_MODE && is_user) {
        if (access == FETCH)
            return refuse(out, RULE_USER_PAGE_EXECUTE, i, pte_pa);
        if (!(status & MSTATUS_SUM))
            return refuse(out, RULE_USER_PAGE_NO_SUM, i, pte_pa);
    }
    // Step 8: R, W and X (step 7 is the shadow stack's, an extension that is absent).
    bool readable = pte & PTE_R || (status & MSTATUS_MXR && pte & PTE_X);
    if (access == LOAD && !readable)
        return refuse(out, RULE_NOT_READABLE, i, pte_pa);
    if (access == STORE && !(pte & PTE_W))
        return refuse(out, RULE_NOT_WRITABLE, i, pte_pa);
    if (access == FETCH && !(pte & PTE_X))
        return refuse(out, RULE_NOT_EXECUTABLE, i, pte_pa);
    // Step 9: A and D.
    out->missing = (PTE_A | (access == STORE ? PTE_D : 0)) & ~pte;
    if (out->missing) {
        if (!mmu->updates_ad) {
            int rule = out->missing & PTE_A ? RULE_NOT_ACCESSED : RULE_NOT_DIRTY;
            return refuse(out, rule, i, pte_pa);
        }
        if (!(pmp_check(mmu, pte_pa, pte_pa + 7, false, &entry) & PMP_W))
            return refuse_by_pmp(out, RULE_TABLE_NOT_WRITABLE, i, pte_pa, entry);
    }
    // Step 10: the offset inside the (super)page comes from the VA.
    if (pte & PTE_N)
        span = PAGE_SIZE << 4;
    out->level = i;
    out->pte_pa = pte_pa;
    out->pte = pte;
    out->pa = (pa & -span) | (va & (span - 1));
    out->prot = (readable ? PMP_R : 0) | ((pte | out->missing) & PTE_D && pte & PTE_W ? PMP_W : 0);
    if (pte & PTE_X && !(priv == S_MODE && is_user))
        out->prot |= PMP_X;
    return true;
}

// Whether an access of `size` bytes at `va`, all in one page, is allowed, and to which page. It is
// translated as one of `priv`; `sets`: A and D are set, if it is allowed.
static bool translate(struct mmu *mmu, uint64_t va, uint64_t size, int access, int priv,
                      bool sets, struct outcome *out) {
    uint64_t status = mmu->words[WORD_MSTATUS];
    bool translated = priv != M_MODE && mmu->words[WORD_SATP] >> 60;
    int want = rights_of[access];
    for (;;) {
        *out = (struct outcome){.rule = RULE_OK, .level = -1, .pte_pa = NONE, .pmp_entry = -1};
        out->pa = va;
        out->prot = PMP_R | PMP_W | PMP_X;
        if (translated && !walk(mmu, va, access, priv, status, out))
            return false;
        if (!(board_rights(mmu, out->pa) & want))
            return refuse(out, RULE_NOT_MEMORY, out->level, out->pte_pa);
        int rights, entry;
        out->is_uniform = pmp_page(mmu, out->pa & -PAGE_SIZE, priv == M_MODE, &rights);
        if (!out->is_uniform || !(rights & want))
            rights = pmp_check(mmu, out->pa, out->pa + size - 1, priv == M_MODE, &entry);
        if (!(rights & want))
            return refuse_by_pmp(out, RULE_PMP_DENIES, out->level, out->pte_pa, entry);
        out->prot &= rights & board_rights(mmu, out->pa);
        uint64_t pte = out->pte;
        if (!sets || !out->missing ||
            __atomic_compare_exchange_n(out->pte_at, &pte, pte | out->missing, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return true;
        // Somebody has changed the PTE meanwhile: step 9 says to begin again.
    }
}

// For the test that compares with the reference: what an access would do. Nothing is set.
EXPORT bool predict(struct mmu *mmu, uint64_t va, uint64_t size, int access, int priv,
                    struct outcome *out) {
    return translate(mmu, va, size, access, priv, false, out);
}

// What refuses an access.

static bool is_access_fault(int rule) {
    return rule == RULE_TABLE_NOT_RAM || rule == RULE_TABLE_NOT_READABLE ||
           rule == RULE_TABLE_NOT_WRITABLE || rule == RULE_NOT_MEMORY || rule == RULE_PMP_DENIES;
}

// Whether the instruction at `from` is an AMO. Leaves its address in pc, where the engine has it
// at the end of a block only.
static bool is_amo(struct mmu *mmu, uintptr_t from) {
    uint64_t *words = mmu->words;
    uint32_t bits = 0;
    struct outcome out;
    if (!from || !engine.restore_state(mmu->cpu, from, true))
        return false;
    for (int half = 0; half < 2; half++) {
        uint64_t va = words[WORD_PC] + 2 * half;
        if (!translate(mmu, va, 2, FETCH, (int)words[WORD_PRIV], false, &out) ||
            !is_ram(mmu, out.pa, 2))
            return false;
        bits |= (uint32_t)*(uint16_t *)(mmu->ram + (out.pa - mmu->ram_base)) << 16 * half;
    }
    return (bits & 0x7f) == 0x2f && bits >> 27 != 2;  // 2: LR
}

static void raise_fault(struct mmu *mmu, uint64_t va, int access, int rule, uintptr_t from) {
    static const uint32_t page_faults[] = {[LOAD] = 13, [STORE] = 15, [FETCH] = 12};
    static const uint32_t access_faults[] = {[LOAD] = 5, [STORE] = 7, [FETCH] = 1};
    mmu->words[WORD_BADADDR] = va;
    engine.raise(mmu->words, (is_access_fault(rule) ? access_faults : page_faults)[access], from);
}

// In the place of CPUClass.tlb_fill. `mode` is the privilege that the TLB has the entry for, that of
// the hart; with MPRV loads and stores are those of MPP, fetches are not (section 3.1.6.3).
EXPORT bool fill(void *cpu, uint64_t va, int size, int access, int mode, bool probe,
                 uintptr_t from) {
    struct mmu *mmu = mmu_of(cpu);
    uint64_t status = mmu->words[WORD_MSTATUS];
    bool mprv = mode == M_MODE && status & MSTATUS_MPRV;
    int priv = mprv && access != FETCH ? (int)((status & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT) : mode;
    uint64_t bytes = size ? size : 2, left = PAGE_SIZE - va % PAGE_SIZE;
    struct outcome out, store;
    if (bytes > left)
        bytes = left;  // what crosses into the next page is asked about apart
    if (access == STORE) {
        // Behind a misaligned store the engine asks about its last bytes again, as of the page that
        // it crosses into, also where it crosses into none: then for all from the page's start.
        if (from == mmu->store_from && va == (mmu->store_va & -PAGE_SIZE) &&
            bytes == (mmu->store_va + mmu->store_size) % PAGE_SIZE) {
            va = mmu->store_va;
            bytes = mmu->store_size;
        }
        mmu->store_va = va;
        mmu->store_size = bytes;
        mmu->store_from = from;
    }
    bool allowed = translate(mmu, va, bytes, access, priv, false, &out);
    // The engine begins an AMO with a load. It is translated as a store, and faults as one (section
    // 3.1.15), and nothing is set for it before that is known. SC begins with its store.
    if (access == LOAD && (!allowed || out.missing) && !probe && is_amo(mmu, from)) {
        if (!translate(mmu, va, bytes, STORE, priv, false, &store) || !allowed)
            raise_fault(mmu, va, STORE, store.rule ? store.rule : out.rule, from);
    }
    if (allowed && out.missing)
        allowed = translate(mmu, va, bytes, access, priv, true, &out);
    if (!allowed && access == FETCH && va == mmu->stops_before && out.rule == RULE_PMP_DENIES &&
        !out.is_uniform) {
        out.prot = PMP_X;
        allowed = true;
    }
    if (!allowed) {
        if (!probe)
            raise_fault(mmu, va, access, out.rule, from);
        return false;
    }
    // The engine has one entry for the three kinds of access. Where they must not share it, each
    // asks again when another was the last.
    bool split = mprv || (mmu->splits && (out.prot & (PMP_W | PMP_X)) == (PMP_W | PMP_X));
    if (split)
        out.prot &= access != FETCH ? PMP_R | PMP_W : mprv ? PMP_X : PMP_R | PMP_X;
    // An entry of less than a page is good for one access.
    engine.set_page(cpu, va & -PAGE_SIZE, out.pa & -PAGE_SIZE, out.prot, mode,
                    out.is_uniform ? PAGE_SIZE : 1);
    return true;
}
