/* Spinlocks of one hart, with the checks of CONFIG_DEBUG_SPINLOCK.
 *
 * Nothing spins: preemption (and with _irq interrupts) off is the lock. A lock that is taken twice
 * would spin for good on more harts; it is reported as Linux does and let through, as its
 * kernels for one processor do. */
#ifndef _LINUX_SPINLOCK_H
#define _LINUX_SPINLOCK_H

#include <linux/kernel.h>
#include <linux/preempt.h>

#define SPINLOCK_MAGIC 0xdead4ead

typedef struct spinlock {
    unsigned int slock;
    unsigned int magic;
    struct task_struct *owner;
} spinlock_t;
typedef spinlock_t raw_spinlock_t;
typedef spinlock_t rwlock_t; /* slock: readers, or -1 for a writer */

#define __SPIN_LOCK_UNLOCKED(name) {0, SPINLOCK_MAGIC, NULL}
#define __RAW_SPIN_LOCK_UNLOCKED(name) __SPIN_LOCK_UNLOCKED(name)
#define __RW_LOCK_UNLOCKED(name) __SPIN_LOCK_UNLOCKED(name)
#define DEFINE_SPINLOCK(name) spinlock_t name = __SPIN_LOCK_UNLOCKED(name)
#define DEFINE_RAW_SPINLOCK(name) raw_spinlock_t name = __SPIN_LOCK_UNLOCKED(name)
#define DEFINE_RWLOCK(name) rwlock_t name = __SPIN_LOCK_UNLOCKED(name)

void spin_bug(spinlock_t *lock, const char *what);

#define spin_lock_init(lock) (*(lock) = (spinlock_t)__SPIN_LOCK_UNLOCKED(lock))
#define rwlock_init(lock) spin_lock_init(lock)

static inline void spin_acquire(spinlock_t *lock)
{
    if (unlikely(lock->magic != SPINLOCK_MAGIC))
        spin_bug(lock, "bad magic");
    if (unlikely(lock->slock))
        spin_bug(lock, "recursion");
    lock->slock = 1;
    lock->owner = current;
    barrier();
}

static inline void spin_release(spinlock_t *lock)
{
    barrier();
    if (unlikely(lock->magic != SPINLOCK_MAGIC))
        spin_bug(lock, "bad magic");
    if (unlikely(!lock->slock))
        spin_bug(lock, "already unlocked");
    lock->slock = 0;
    lock->owner = NULL;
}

static inline int spin_is_locked(spinlock_t *lock)
{
    return lock->slock != 0;
}

static inline void spin_lock(spinlock_t *lock)
{
    preempt_disable();
    spin_acquire(lock);
}

static inline void spin_unlock(spinlock_t *lock)
{
    spin_release(lock);
    preempt_enable();
}

static inline int spin_trylock(spinlock_t *lock)
{
    if (lock->slock)
        return 0;
    spin_lock(lock);
    return 1;
}

static inline void read_acquire(rwlock_t *lock)
{
    if (unlikely(lock->magic != SPINLOCK_MAGIC))
        spin_bug(lock, "bad magic");
    if (unlikely(lock->slock == -1u))
        spin_bug(lock, "recursion");
    else
        lock->slock++;
    barrier();
}

static inline void read_release(rwlock_t *lock)
{
    barrier();
    if (unlikely(!lock->slock || lock->slock == -1u))
        spin_bug(lock, "already unlocked");
    else
        lock->slock--;
}

static inline void write_acquire(rwlock_t *lock)
{
    spin_acquire(lock);
    lock->slock = -1u;
}

static inline void read_lock(rwlock_t *lock)
{
    preempt_disable();
    read_acquire(lock);
}

static inline void read_unlock(rwlock_t *lock)
{
    read_release(lock);
    preempt_enable();
}

static inline void write_lock(rwlock_t *lock)
{
    preempt_disable();
    write_acquire(lock);
}

static inline void write_unlock(rwlock_t *lock)
{
    spin_unlock(lock);
}

static inline int read_trylock(rwlock_t *lock)
{
    if (lock->slock == -1u)
        return 0;
    read_lock(lock);
    return 1;
}

static inline int write_trylock(rwlock_t *lock)
{
    if (lock->slock)
        return 0;
    write_lock(lock);
    return 1;
}

/* The four ways around a lock: interrupts off, off and as they were, softirqs off. */
#define LOCK_VARIANTS(type, kind)                                                             \
    static inline void kind##_lock_irq(type *lock)                                            \
    {                                                                                         \
        local_irq_disable();                                                                  \
        kind##_lock(lock);                                                                    \
    }                                                                                         \
    static inline void kind##_unlock_irq(type *lock)                                          \
    {                                                                                         \
        kind##_unlock(lock);                                                                  \
        local_irq_enable();                                                                   \
    }                                                                                         \
    static inline void kind##_unlock_irqrestore(type *lock, unsigned long flags)              \
    {                                                                                         \
        kind##_unlock(lock);                                                                  \
        local_irq_restore(flags);                                                             \
    }                                                                                         \
    static inline void kind##_lock_bh(type *lock)                                             \
    {                                                                                         \
        local_bh_disable();                                                                   \
        kind##_lock(lock);                                                                    \
    }                                                                                         \
    static inline void kind##_unlock_bh(type *lock)                                           \
    {                                                                                         \
        kind##_unlock(lock);                                                                  \
        local_bh_enable();                                                                    \
    }
LOCK_VARIANTS(spinlock_t, spin)
LOCK_VARIANTS(rwlock_t, read)
LOCK_VARIANTS(rwlock_t, write)

#define lock_irqsave(kind, lock, flags)                                                       \
    do {                                                                                      \
        (void)(&(flags) == (unsigned long *)0);                                               \
        local_irq_save(flags);                                                                \
        kind##_lock(lock);                                                                    \
    } while (0)
#define spin_lock_irqsave(lock, flags) lock_irqsave(spin, lock, flags)
#define read_lock_irqsave(lock, flags) lock_irqsave(read, lock, flags)
#define write_lock_irqsave(lock, flags) lock_irqsave(write, lock, flags)
#define spin_trylock_irqsave(lock, flags)                                                     \
    ({                                                                                        \
        local_irq_save(flags);                                                                \
        int trylock_taken = spin_trylock(lock);                                               \
        if (!trylock_taken)                                                                   \
            local_irq_restore(flags);                                                         \
        trylock_taken;                                                                        \
    })
#define spin_lock_nested(lock, subclass) spin_lock(lock)
#define assert_spin_locked(lock) BUG_ON(!spin_is_locked(lock))
#define lockdep_assert_held(lock) WARN_ON(!spin_is_locked(lock))
#define lockdep_is_held(lock) 1

#define raw_spin_lock_init(lock) spin_lock_init(lock)
#define raw_spin_lock(lock) spin_lock(lock)
#define raw_spin_unlock(lock) spin_unlock(lock)
#define raw_spin_trylock(lock) spin_trylock(lock)
#define raw_spin_lock_irq(lock) spin_lock_irq(lock)
#define raw_spin_unlock_irq(lock) spin_unlock_irq(lock)
#define raw_spin_lock_irqsave(lock, flags) spin_lock_irqsave(lock, flags)
#define raw_spin_unlock_irqrestore(lock, flags) spin_unlock_irqrestore(lock, flags)

#endif
