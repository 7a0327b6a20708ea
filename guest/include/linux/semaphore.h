#ifndef _LINUX_SEMAPHORE_H
#define _LINUX_SEMAPHORE_H

#include <linux/mutex.h>

struct semaphore {
    unsigned int count;
};

#define __SEMAPHORE_INITIALIZER(name, n) {n}
#define DEFINE_SEMAPHORE(name, n) struct semaphore name = __SEMAPHORE_INITIALIZER(name, n)

static inline void sema_init(struct semaphore *semaphore, int count)
{
    semaphore->count = (unsigned int)count;
}

/* 0 when it was taken. */
static inline int down_trylock(struct semaphore *semaphore)
{
    if (!semaphore->count)
        return 1;
    semaphore->count--;
    return 0;
}

static inline void down(struct semaphore *semaphore)
{
    might_sleep();
    if (unlikely(down_trylock(semaphore)))
        wait_forever("down", semaphore);
}

static inline int __must_check down_interruptible(struct semaphore *semaphore)
{
    down(semaphore);
    return 0;
}

#define down_killable(semaphore) down_interruptible(semaphore)

static inline void up(struct semaphore *semaphore)
{
    semaphore->count++;
}

#endif
