/* Mutexes and semaphores that are free.
 * init: mutex 1, locked 1, again 0, then 0
 * init: semaphore: 0 0 1
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/semaphore.h>

static DEFINE_MUTEX(mutex);
static struct semaphore places;

static int __init mutexes_init(void)
{
    int first = mutex_trylock(&mutex), locked = mutex_is_locked(&mutex);
    int again = mutex_trylock(&mutex);
    mutex_unlock(&mutex);
    pr_info("mutex %d, locked %d, again %d, then %d\n", first, locked, again,
            mutex_is_locked(&mutex));
    mutex_lock(&mutex);
    if (mutex_is_locked(&mutex))
        mutex_unlock(&mutex);
    sema_init(&places, 2);
    first = down_interruptible(&places);
    again = down_trylock(&places);
    pr_info("semaphore: %d %d %d\n", first, again, down_trylock(&places));
    up(&places);
    return 0;
}

static void __exit mutexes_exit(void)
{
}

module_init(mutexes_init);
module_exit(mutexes_exit);
MODULE_LICENSE("GPL");
