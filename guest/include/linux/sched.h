/* The task that runs. There is one: what would switch to another comes back at once. */
#ifndef _LINUX_SCHED_H
#define _LINUX_SCHED_H

#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/preempt.h>
#include <linux/smp.h>
#include <pagewalk/task.h>

#define TASK_COMM_LEN 16
#define TASK_RUNNING 0
#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define MAX_SCHEDULE_TIMEOUT LONG_MAX

#define get_current() current
#define task_pid_nr(task) ((task)->pid)
#define task_tgid_nr(task) ((task)->tgid)
#define task_cpu(task) 0
#define get_task_comm(buffer, task) strscpy(buffer, (task)->comm, sizeof(buffer))
#define __set_current_state(new_state) WRITE_ONCE(current->state, new_state)
#define set_current_state(state) __set_current_state(state)

static inline int cond_resched(void)
{
    might_sleep();
    return 0;
}

static inline void yield(void)
{
    might_sleep();
}

#define need_resched() 0
#define signal_pending(task) 0
#define cpu_relax() barrier()

long schedule_timeout(long timeout);
long schedule_timeout_interruptible(long timeout);
long schedule_timeout_uninterruptible(long timeout);

#endif
