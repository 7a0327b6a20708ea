#ifndef _ASM_BARRIER_H
#define _ASM_BARRIER_H

#define mb() __asm__ volatile("fence iorw, iorw" ::: "memory")
#define rmb() __asm__ volatile("fence ir, ir" ::: "memory")
#define wmb() __asm__ volatile("fence ow, ow" ::: "memory")
#define smp_mb() __asm__ volatile("fence rw, rw" ::: "memory")
#define smp_rmb() __asm__ volatile("fence r, r" ::: "memory")
#define smp_wmb() __asm__ volatile("fence w, w" ::: "memory")
#define smp_mb__before_atomic() smp_mb()
#define smp_mb__after_atomic() smp_mb()
#define smp_store_mb(variable, value)                                                         \
    do {                                                                                      \
        WRITE_ONCE(variable, value);                                                          \
        smp_mb();                                                                             \
    } while (0)
#define smp_load_acquire(pointer) __atomic_load_n(pointer, __ATOMIC_ACQUIRE)
#define smp_store_release(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_RELEASE)

#endif
