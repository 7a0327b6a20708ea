// The CSRs that the engine has wrong, or does not have, for the harts that are ours.
//
// The engine has one table of CSRs for all engines of a process. What is installed there asks
// whose state it is called with: for an engine that nobody has made a hart, it does what was
// there before. For a hart of ours a CSR is done by `repairs`, or by Python, or as before.

#include <stddef.h>

#include "hart.h"

// Harts.

static struct hart *harts;

// Python calls these one at a time. The memory of a hart is never freed, but used again: who
// goes through the list while it changes still comes to its end, past every hart that stays.
EXPORT void add_hart(struct hart *hart) {
    hart->next = harts;
    __atomic_store_n(&harts, hart, __ATOMIC_RELEASE);
}

EXPORT void remove_hart(struct hart *hart) {
    struct hart **at = &harts;
    while (*at && *at != hart)
        at = &(*at)->next;
    if (*at)
        __atomic_store_n(at, hart->next, __ATOMIC_RELEASE);
}

struct hart *hart_of(const uint64_t *words) {
    struct hart *hart = __atomic_load_n(&harts, __ATOMIC_ACQUIRE);
    while (hart && hart->words != words)
        hart = __atomic_load_n(&hart->next, __ATOMIC_ACQUIRE);
    return hart;
}

// The table.

typedef int predicate_function(uint64_t *words, int csr);
typedef int read_function(uint64_t *words, int csr, uint64_t *value);
typedef int write_function(uint64_t *words, int csr, uint64_t value);
typedef int operate_function(uint64_t *words, int csr, uint64_t *old, uint64_t value,
                             uint64_t mask);

struct operations {  // QEMU's riscv_csr_operations
    predicate_function *predicate;
    read_function *read;
    write_function *write;
    operate_function *operate;
};

#define CSRS 4096
#define ILLEGAL (-1)

static struct operations originals[CSRS];
static uint64_t installed[CSRS / 64];

// What QEMU does with an entry (riscv_csrrw).
EXPORT int original_csr(uint64_t *words, int csr, uint64_t *old, uint64_t value, uint64_t mask) {
    const struct operations *original = &originals[csr];
    if (original->operate)
        return original->operate(words, csr, old, value, mask);
    if (!original->read)
        return ILLEGAL;
    uint64_t before;
    int status = original->read(words, csr, &before);
    if (status < 0)
        return status;
    if (mask && original->write) {
        status = original->write(words, csr, (before & ~mask) | (value & mask));
        if (status < 0)
            return status;
    }
    if (old)
        *old = before;
    return 0;
}

// The original's write alone, for repairs that only change what is written.
static int write_original(uint64_t *words, int csr, uint64_t value) {
    write_function *write = originals[csr].write;
    return write ? write(words, csr, value) : 0;
}

// Repairs. Each says what is wrong without it.

// The engine keeps TW and TSR at bits 29 and 30, the spec has 21 and 22.
#define ENGINE_TW_TSR_SHIFT 29
#define TW_TSR_SHIFT 21

// SD says that FS or XS is dirty, whoever has made it so; the engine's fcsr writes forget it.
static uint64_t with_sd(uint64_t status) {
    bool dirty = (status & MSTATUS_FS) == MSTATUS_FS || (status & MSTATUS_XS) == MSTATUS_XS;
    return dirty ? status | MSTATUS_SD : status & ~MSTATUS_SD;
}

static int read_mstatus(struct hart *hart, int csr, uint64_t *value) {
    uint64_t status = with_sd(hart->words[WORD_MSTATUS]);
    uint64_t moved = status >> ENGINE_TW_TSR_SHIFT & 3;
    *value = (status & ~(3ul << ENGINE_TW_TSR_SHIFT)) | moved << TW_TSR_SHIFT;
    return 0;
}

// MPP = 2 (reserved, WARL) and the hypervisor's fields are storable.
static int write_mstatus(struct hart *hart, int csr, uint64_t value) {
    if ((value & MSTATUS_MPP) == 2ul << MSTATUS_MPP_SHIFT)
        value = (value & ~MSTATUS_MPP) | (hart->words[WORD_MSTATUS] & MSTATUS_MPP);
    value &= MSTATUS_WRITABLE;
    uint64_t moved = value >> TW_TSR_SHIFT & 3;
    value = (value & ~(3ul << TW_TSR_SHIFT)) | moved << ENGINE_TW_TSR_SHIFT;
    int status = write_original(hart->words, csr, value);
    if (hart->python_levels)  // see write_sstatus
        present(hart);
    return status;
}

// UXL reads 0.
static int read_sstatus(struct hart *hart, int csr, uint64_t *value) {
    *value = with_sd(hart->words[WORD_MSTATUS]) & SSTATUS_MASK;
    return 0;
}

// Nothing is wrong with the engine's, which writes mstatus; but where Python holds S, the
// write may enable an interrupt to it.
static int write_sstatus(struct hart *hart, int csr, uint64_t value) {
    int status = write_original(hart->words, csr, value);
    if (hart->python_levels)
        present(hart);
    return status;
}

// A new root or mode under the same ASID does not flush the TLB.
static int write_satp(struct hart *hart, int csr, uint64_t value) {
    uint64_t before = hart->words[WORD_SATP];
    int status = write_original(hart->words, csr, value);
    if (hart->words[WORD_SATP] != before)
        hart_engine.tlb_flush(hart->cpu);
    return status;
}

// Bit 0 is always zero (section 3.1.14), here it is kept.
static int write_mepc(struct hart *hart, int csr, uint64_t value) {
    hart->words[WORD_MEPC] = value & ~1ul;
    return 0;
}

static int write_sepc(struct hart *hart, int csr, uint64_t value) {
    hart->words[WORD_SEPC] = value & ~1ul;
    return 0;
}

// Bits of the hypervisor extension, and the ecall from M, are storable; and what is shown to the
// engine follows these registers.
static int write_masked(struct hart *hart, int csr, uint64_t value, uint64_t writable) {
    int status = write_original(hart->words, csr, value & writable);
    present(hart);
    return status;
}

static int write_mie(struct hart *hart, int csr, uint64_t value) {
    return write_masked(hart, csr, value, M_INTERRUPTS | S_INTERRUPTS);
}

static int write_mideleg(struct hart *hart, int csr, uint64_t value) {
    return write_masked(hart, csr, value, S_INTERRUPTS);
}

static int write_medeleg(struct hart *hart, int csr, uint64_t value) {
    return write_masked(hart, csr, value, MEDELEG_WRITABLE);
}

// A view of mie's delegated bits (section 12.1.3); all of S's could be written.
static int read_sie(struct hart *hart, int csr, uint64_t *value) {
    *value = hart->words[WORD_MIE] & hart->words[WORD_MIDELEG];
    return 0;
}

static int write_sie(struct hart *hart, int csr, uint64_t value) {
    uint64_t delegated = hart->words[WORD_MIDELEG];
    hart->words[WORD_MIE] = (hart->words[WORD_MIE] & ~delegated) | (value & delegated);
    present(hart);
    return 0;
}

// The engine's mip holds the one interrupt that it is shown. Bits that an instruction does not
// set or clear are not written: another thread may have changed them.
static int operate_mip(struct hart *hart, int csr, uint64_t *old, uint64_t value, uint64_t mask) {
    uint64_t before = write_pending(hart, mask, value);
    if (old)
        *old = before;
    return 0;
}

static int operate_sip(struct hart *hart, int csr, uint64_t *old, uint64_t value, uint64_t mask) {
    uint64_t delegated = hart->words[WORD_MIDELEG];
    uint64_t before = write_pending(hart, mask & delegated & IRQ_SSIP, value);
    if (old)
        *old = before & delegated;
    return 0;
}

// Of version 1.9 of the privileged spec, gone since.
static int read_absent(struct hart *hart, int csr, uint64_t *value) { return ILLEGAL; }

static int write_absent(struct hart *hart, int csr, uint64_t value) { return ILLEGAL; }

// Kept, but they gate nothing (sections 3.1.11 and 12.1.5).
static uint64_t *counter_enable(struct hart *hart, int csr) {
    return csr == CSR_MCOUNTEREN ? &hart->mcounteren : &hart->scounteren;
}

static int read_counter_enable(struct hart *hart, int csr, uint64_t *value) {
    *value = *counter_enable(hart, csr);
    return 0;
}

static int write_counter_enable(struct hart *hart, int csr, uint64_t value) {
    *counter_enable(hart, csr) = (uint32_t)value;
    return 0;
}

static bool may_count(const struct hart *hart, int csr) {
    uint64_t level = hart->words[WORD_PRIV], enabled = hart->mcounteren;
    if (level == 0)
        enabled &= hart->scounteren;
    return level == 3 || enabled >> (csr - CSR_CYCLE) & 1;
}

// hpmcounter3 to 31 count nothing here, as a hart may choose, but are gated like the others.
static int read_gated(struct hart *hart, int csr, uint64_t *value) {
    return may_count(hart, csr) ? original_csr(hart->words, csr, value, 0, 0) : ILLEGAL;
}

// The engine has no `time` unless it is given a function.
static int read_time(struct hart *hart, int csr, uint64_t *value) {
    if (!may_count(hart, csr))
        return ILLEGAL;
    *value = hart_time(hart);
    return 0;
}

// Sstc is younger than the engine. S-mode needs menvcfg.STCE and mcounteren.TM.
static bool may_compare(const struct hart *hart) {
    return hart->words[WORD_PRIV] == 3 || (may_count(hart, CSR_TIME) && hart->timer_is_wire);
}

static int read_stimecmp(struct hart *hart, int csr, uint64_t *value) {
    *value = hart->stimecmp;
    return may_compare(hart) ? 0 : ILLEGAL;
}

static int write_stimecmp_csr(struct hart *hart, int csr, uint64_t value) {
    if (!may_compare(hart))
        return ILLEGAL;
    write_stimecmp(hart, value);
    return 0;
}

static const struct repair {
    int first, last;  // CSRs
    int (*read)(struct hart *hart, int csr, uint64_t *value);
    int (*write)(struct hart *hart, int csr, uint64_t value);
    int (*operate)(struct hart *hart, int csr, uint64_t *old, uint64_t value, uint64_t mask);
} repairs[] = {
    {CSR_SSTATUS, CSR_SSTATUS, read_sstatus, write_sstatus, NULL},
    {CSR_SIE, CSR_SIE, read_sie, write_sie, NULL},
    {CSR_SCOUNTEREN, CSR_SCOUNTEREN, read_counter_enable, write_counter_enable, NULL},
    {CSR_SEPC, CSR_SEPC, NULL, write_sepc, NULL},
    {CSR_SIP, CSR_SIP, NULL, NULL, operate_sip},
    {CSR_STIMECMP, CSR_STIMECMP, read_stimecmp, write_stimecmp_csr, NULL},
    {CSR_SATP, CSR_SATP, NULL, write_satp, NULL},
    {CSR_MSTATUS, CSR_MSTATUS, read_mstatus, write_mstatus, NULL},
    {CSR_MEDELEG, CSR_MEDELEG, NULL, write_medeleg, NULL},
    {CSR_MIDELEG, CSR_MIDELEG, NULL, write_mideleg, NULL},
    {CSR_MIE, CSR_MIE, NULL, write_mie, NULL},
    {CSR_MCOUNTEREN, CSR_MCOUNTEREN, read_counter_enable, write_counter_enable, NULL},
    {CSR_MSCOUNTEREN, CSR_MSCOUNTEREN, read_absent, write_absent, NULL},
    {CSR_MEPC, CSR_MEPC, NULL, write_mepc, NULL},
    {CSR_MIP, CSR_MIP, NULL, NULL, operate_mip},
    {CSR_TIME, CSR_TIME, read_time, NULL, NULL},
    {CSR_INSTRET + 1, CSR_CYCLE + 31, read_gated, NULL, NULL},
};

static const struct repair *repair_of[CSRS];

static int repair_csr(const struct repair *repair, struct hart *hart, int csr, uint64_t *old,
                      uint64_t value, uint64_t mask) {
    if (repair->operate)
        return repair->operate(hart, csr, old, value, mask);
    uint64_t before;
    int status = repair->read ? repair->read(hart, csr, &before)
                              : original_csr(hart->words, csr, &before, 0, 0);
    if (status >= 0 && mask) {
        uint64_t after = (before & ~mask) | (value & mask);
        status = repair->write ? repair->write(hart, csr, after)
                               : write_original(hart->words, csr, after);
    }
    if (status >= 0 && old)
        *old = before;
    return status;
}

static bool is_of_python(const struct hart *hart, int csr) {
    return hart->by_python[csr / 64] >> csr % 64 & 1;
}

// stimecmp and time are there for a hart that has a clock.
static bool is_repaired(const struct hart *hart, int csr) {
    return repair_of[csr] && (hart->clock || (csr != CSR_TIME && csr != CSR_STIMECMP));
}

static int operate_csr(uint64_t *words, int csr, uint64_t *old, uint64_t value, uint64_t mask) {
    struct hart *hart = hart_of(words);
    if (hart && is_of_python(hart, csr))
        return hart->python_csr(words, csr, old, value, mask);
    if (hart && is_repaired(hart, csr))
        return repair_csr(repair_of[csr], hart, csr, old, value, mask);
    return original_csr(words, csr, old, value, mask);
}

// Who may: a CSR that was absent, and is for this engine, is found out by operate_csr.
static int predicate_csr(uint64_t *words, int csr) {
    return originals[csr].predicate ? originals[csr].predicate(words, csr) : 0;
}

// Once for each CSR. The engine's library is one in a process, and so is its table.
EXPORT void install_csr(int csr) {
    if (installed[csr / 64] >> csr % 64 & 1)
        return;
    installed[csr / 64] |= 1ul << csr % 64;
    struct operations ours = {predicate_csr, NULL, NULL, operate_csr};
    hart_engine.get_csr(csr, &originals[csr]);
    hart_engine.set_csr(csr, &ours);
}

EXPORT void install_repairs(void) {
    for (unsigned i = 0; i < sizeof repairs / sizeof *repairs; i++) {
        for (int csr = repairs[i].first; csr <= repairs[i].last; csr++) {
            repair_of[csr] = &repairs[i];
            install_csr(csr);
        }
    }
}
