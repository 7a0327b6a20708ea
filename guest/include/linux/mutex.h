/* Mutexes and semaphores. With one task nobody else gives back what it waits for: such a wait is
 * reported, and is the end. */
#ifndef _LINUX_MUTEX_H
#define _LINUX_MUTEX_H

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/preempt.h>

struct mutex {
    struct task_struct *owner;
};

#define __MUTEX_INITIALIZER(name) {NULL}
#define DEFINE_MUTEX(name) struct mutex name = __MUTEX_INITIALIZER(name)
#define mutex_init(mutex) ((mutex)->owner = NULL)
#define mutex_destroy(mutex) mutex_init(mutex)

void wait_forever(const char *what, const void *lock) __noreturn;

static inline bool mutex_is_locked(struct mutex *mutex)
{
    return mutex->owner != NULL;
}

static inline int mutex_trylock(struct mutex *mutex)
{
    if (mutex->owner)
        return 0;
    mutex->owner = current;
    return 1;
}

static inline void mutex_lock(struct mutex *mutex)
{
    might_sleep();
    if (unlikely(!mutex_trylock(mutex)))
        wait_forever("mutex_lock", mutex);
}

static inline int __must_check mutex_lock_interruptible(struct mutex *mutex)
{
    mutex_lock(mutex);
    return 0;
}

#define mutex_lock_killable(mutex) mutex_lock_interruptible(mutex)
#define mutex_lock_nested(mutex, subclass) mutex_lock(mutex)

static inline void mutex_unlock(struct mutex *mutex)
{
    WARN(!mutex->owner, "mutex_unlock of a mutex that nobody holds\n");
    mutex->owner = NULL;
}

#endif
