// What the C and Python share of a hart (emu/engine/native.py has the same structures).

#ifndef HART_H
#define HART_H

#include <stdbool.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define NEVER (~0ul)

enum clock_kind { ASK_PYTHON, HOST_CLOCK, BLOCKS };

// What `time` reads, in ticks: since + (what has passed of the source) / per_tick.
struct clock {
    uint64_t kind;
    uint64_t host_clock;       // HOST_CLOCK: its number, for clock_gettime
    uint64_t start;            // HOST_CLOCK: nanoseconds
    const volatile uint64_t *blocks;  // BLOCKS: bytes of code executed
    uint64_t per_tick;
    uint64_t since;            // ticks
};

struct hart {
    uint64_t *words;           // emu/spec/words.py, the engine's CPURISCVState; NULL: none now
    struct hart *next;
    void *cpu;

    // What follows, to `alarm_at`, changes under this lock alone (docs/hart.md, "Who orders what").
    // Nobody sleeps or calls Python with it.
    uint32_t lock, unused;
    uint64_t wires;            // what devices drive
    uint64_t written;          // what software has written, in the bits of S_INTERRUPTS
    uint64_t timer_is_wire;    // STIP is stimecmp's wire: menvcfg.STCE
    uint64_t pending;          // what mip reads: always the sum of these
    uint64_t held;             // nothing is shown: somebody steps, or undoes what was done
    uint64_t python_levels;    // a bit for each level that Python holds
    uint64_t stimecmp;
    uint64_t alarm_at;         // when the clock looks at stimecmp at the latest; NEVER

    void (*take)(void);        // Python may take the interrupt that comes next
    void (*set_alarm)(void);   // Python's clock is to look at stimecmp
    const struct clock *clock;
    uint64_t mcounteren, scounteren;

    // CSRs that Python does for this hart: a bit for each number.
    int (*python_csr)(uint64_t *words, int csr, uint64_t *old, uint64_t value, uint64_t mask);
    uint64_t by_python[4096 / 64];
};

// Functions of the engine's library and of the C library, and places in a CPU.
struct hart_engine {
    void (*tlb_flush)(void *cpu);
    int (*get_csr)(int csr, void *operations);
    int (*set_csr)(int csr, void *operations);
    int (*clock_gettime)(int clock, int64_t *seconds_nanoseconds);
    int (*sched_yield)(void);
    uint64_t interrupt_request;  // u32: offset in the CPU
    uint64_t icount_high;        // u16: likewise
};

extern struct hart_engine hart_engine;

struct hart *hart_of(const uint64_t *words);
uint64_t hart_time(const struct hart *hart);
uint64_t write_pending(struct hart *hart, uint64_t mask, uint64_t value);
void present(struct hart *hart);
void write_stimecmp(struct hart *hart, uint64_t when);

#endif
