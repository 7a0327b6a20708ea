// What is pending for a hart, what the engine is shown of it, and the timer that belongs to it.
//
// emu/hart/interrupts.py says what wires and written bits are, and does the same where this
// cannot be; a test compares the two.

#include "hart.h"

#define INTERRUPT_HARD 2  // QEMU's CPU_INTERRUPT_HARD
#define SPINS 100

struct hart_engine hart_engine;

EXPORT void use_hart_engine(const struct hart_engine *known) { hart_engine = *known; }

static void lock(struct hart *hart) {
    for (int i = 1; __atomic_exchange_n(&hart->lock, 1, __ATOMIC_ACQUIRE); i++) {
        if (i % SPINS == 0)  // who has it may wait for this processor
            hart_engine.sched_yield();
    }
}

static void unlock(struct hart *hart) { __atomic_store_n(&hart->lock, 0, __ATOMIC_RELEASE); }

static uint64_t pending_now(const struct hart *hart) {
    if (hart->timer_is_wire)
        return hart->wires | (hart->written & ~IRQ_STIP);
    return (hart->wires & ~IRQ_STIP) | hart->written;
}

// "decreasing priority order: MEI, MSI, MTI, SEI, SSI, STI" (section 3.1.9), those to M first.
static const uint8_t priority[] = {11, 3, 7, 9, 1, 5};

static uint64_t first_of(uint64_t group) {
    for (unsigned i = 0; i < sizeof priority; i++) {
        if (group >> priority[i] & 1)
            return 1ul << priority[i];
    }
    return 0;
}

// The engine takes the lowest number first, the spec has another order. It is never given a
// choice: only the one that comes next is shown. Returns whether that is Python's to take.
static bool show(struct hart *hart) {
    uint64_t candidates = hart->pending & hart->words[WORD_MIE];
    uint64_t to_s = hart->words[WORD_MIDELEG];
    uint64_t next = first_of(candidates & ~to_s);
    unsigned level = 3;
    if (!next) {
        next = first_of(candidates & to_s);
        level = 1;
    }
    bool for_python = next && hart->python_levels >> level & 1;
    if (hart->held || for_python)
        next = 0;
    hart->words[WORD_MIP] = next;
    // What QEMU's cpu_interrupt and cpu_reset_interrupt do: chained blocks look at the counter
    // alone. The engine's thread changes both, too.
    uint32_t *request = (uint32_t *)((char *)hart->cpu + hart_engine.interrupt_request);
    if (next) {
        __atomic_fetch_or(request, INTERRUPT_HARD, __ATOMIC_SEQ_CST);
        uint16_t *leave = (uint16_t *)((char *)hart->cpu + hart_engine.icount_high);
        __atomic_store_n(leave, 0xffff, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(request, ~INTERRUPT_HARD, __ATOMIC_SEQ_CST);
    }
    return for_python && !hart->held;
}

static bool update(struct hart *hart) {
    uint64_t pending = pending_now(hart);
    if (pending == hart->pending)
        return false;
    __atomic_store_n(&hart->pending, pending, __ATOMIC_SEQ_CST);
    return hart->words && show(hart);
}

static void tell(struct hart *hart, bool for_python) {
    if (for_python)
        hart->take();
}

EXPORT void present(struct hart *hart) {
    lock(hart);
    bool for_python = show(hart);
    unlock(hart);
    tell(hart, for_python);
}

// With what Python knows: see `held` and `python_levels`.
EXPORT void present_as(struct hart *hart, uint64_t held, uint64_t python_levels) {
    lock(hart);
    hart->held = held;
    hart->python_levels = python_levels;
    bool for_python = show(hart);
    unlock(hart);
    tell(hart, for_python);
}

// The wires of `mask` become those of `value`; whether `pending` has changed.
EXPORT uint64_t drive(struct hart *hart, uint64_t mask, uint64_t value) {
    lock(hart);
    uint64_t before = hart->pending;
    hart->wires = (hart->wires & ~mask) | (value & mask);
    bool for_python = update(hart);
    bool changed = hart->pending != before;
    unlock(hart);
    tell(hart, for_python);
    return changed;
}

// Software writes the bits of `mask`; returns what was pending before.
EXPORT uint64_t write_pending(struct hart *hart, uint64_t mask, uint64_t value) {
    lock(hart);
    uint64_t before = hart->pending;
    mask &= S_INTERRUPTS & ~(hart->timer_is_wire ? IRQ_STIP : 0);
    hart->written = (hart->written & ~mask) | (value & mask);
    bool for_python = update(hart);
    unlock(hart);
    tell(hart, for_python);
    return before;
}

// A device drives the wire of an interrupt, or writes its bit where it has no wire.
EXPORT uint64_t set_interrupt(struct hart *hart, uint64_t bit, uint64_t level) {
    lock(hart);
    uint64_t before = hart->pending, value = level ? bit : 0;
    bool is_wire = bit & (WIRES | (hart->timer_is_wire ? IRQ_STIP : 0));
    uint64_t *at = is_wire ? &hart->wires : &hart->written;
    *at = (*at & ~bit) | value;
    bool for_python = update(hart);
    bool changed = hart->pending != before;
    unlock(hart);
    tell(hart, for_python);
    return changed;
}

// As a snapshot has kept them.
EXPORT void become_pending(struct hart *hart, uint64_t wires, uint64_t written) {
    lock(hart);
    hart->wires = wires;
    hart->written = written;
    bool for_python = update(hart);
    unlock(hart);
    tell(hart, for_python);
}

// As software finds it after a reset.
EXPORT void reset_pending(struct hart *hart) {
    lock(hart);
    hart->written = hart->timer_is_wire = 0;
    bool for_python = update(hart);
    unlock(hart);
    tell(hart, for_python);
}

EXPORT void let_timer_be_wire(struct hart *hart, uint64_t on) {
    lock(hart);
    hart->timer_is_wire = on;
    bool for_python = update(hart);
    unlock(hart);
    tell(hart, for_python);
}

// Where what is shown and what should be differ: the first in the lower half, the second in the
// upper; they are looked at together.
EXPORT uint64_t look_shown(struct hart *hart) {
    lock(hart);
    uint64_t shown = hart->words[WORD_MIP], wanted = 0;
    if (!hart->held) {
        uint64_t candidates = hart->pending & hart->words[WORD_MIE];
        uint64_t to_s = hart->words[WORD_MIDELEG];
        wanted = first_of(candidates & ~to_s);
        if (wanted ? hart->python_levels >> 3 & 1 : hart->python_levels >> 1 & 1)
            wanted = 0;
        else if (!wanted)
            wanted = first_of(candidates & to_s);
    }
    unlock(hart);
    return wanted << 32 | shown;
}

// Time, and stimecmp (chapter 14)

EXPORT uint64_t hart_time(const struct hart *hart) {
    const struct clock *clock = hart->clock;
    if (clock->kind == BLOCKS)
        return clock->since + *clock->blocks / clock->per_tick;
    int64_t now[2];
    hart_engine.clock_gettime((int)clock->host_clock, now);
    uint64_t passed = (uint64_t)now[0] * 1000000000ul + (uint64_t)now[1] - clock->start;
    return clock->since + passed / clock->per_tick;
}

// STIP as stimecmp has it, with the lock; whether it is Python's to take.
static bool compare(struct hart *hart) {
    if (!hart->timer_is_wire)
        return false;
    bool due = hart_time(hart) >= hart->stimecmp;
    hart->wires = due ? hart->wires | IRQ_STIP : hart->wires & ~IRQ_STIP;
    return update(hart);
}

// The clock has come to `alarm_at`, or menvcfg.STCE is written: then stimecmp's wire is STIP.
// Returns whether the clock is to be set, to stimecmp.
EXPORT uint64_t compare_time(struct hart *hart, uint64_t timer_is_wire) {
    lock(hart);
    hart->alarm_at = NEVER;
    hart->timer_is_wire = timer_is_wire;
    bool for_python = update(hart);
    for_python |= compare(hart);
    bool waits = timer_is_wire && !(hart->wires & IRQ_STIP) && hart->stimecmp != NEVER;
    unlock(hart);
    tell(hart, for_python);
    return waits;
}

EXPORT void write_stimecmp(struct hart *hart, uint64_t when) {
    lock(hart);
    hart->stimecmp = when;
    bool for_python = compare(hart);
    bool due = hart->wires & IRQ_STIP;
    // With the host's clock an alarm that comes too early does no harm: it looks again.
    bool enough = hart->clock->kind == HOST_CLOCK &&
        (due || (hart->alarm_at <= when && when != NEVER));
    bool alarm = hart->timer_is_wire && !enough && (!due || hart->alarm_at != NEVER) &&
        (when != NEVER || hart->alarm_at != NEVER);
    unlock(hart);
    tell(hart, for_python);
    if (alarm)
        hart->set_alarm();
}
