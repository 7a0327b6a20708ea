/* The preempt count: a byte each for preemption and softirqs that are off, as Linux has it. */
#ifndef _LINUX_PREEMPT_H
#define _LINUX_PREEMPT_H

#include <linux/compiler.h>
#include <linux/irqflags.h>
#include <pagewalk/task.h>

#define PREEMPT_OFFSET 1
#define SOFTIRQ_OFFSET 0x100
#define SOFTIRQ_DISABLE_OFFSET (2 * SOFTIRQ_OFFSET)
#define HARDIRQ_OFFSET 0x10000
#define PREEMPT_MASK 0xff
#define SOFTIRQ_MASK 0xff00
#define HARDIRQ_MASK 0xf0000

#define preempt_count() READ_ONCE(current_thread_info()->preempt_count)

static inline void preempt_count_add(int by)
{
    current_thread_info()->preempt_count += by;
    barrier();
}

static inline void preempt_count_sub(int by)
{
    barrier();
    current_thread_info()->preempt_count -= by;
}

#define preempt_disable() preempt_count_add(PREEMPT_OFFSET)
#define preempt_enable() preempt_count_sub(PREEMPT_OFFSET)
#define preempt_enable_no_resched() preempt_enable()
#define local_bh_disable() preempt_count_add(SOFTIRQ_DISABLE_OFFSET)
#define local_bh_enable() preempt_count_sub(SOFTIRQ_DISABLE_OFFSET)

#define hardirq_count() (preempt_count() & HARDIRQ_MASK)
#define softirq_count() (preempt_count() & SOFTIRQ_MASK)
#define in_hardirq() hardirq_count()
#define in_irq() hardirq_count()
#define in_softirq() softirq_count()
#define in_serving_softirq() (softirq_count() & SOFTIRQ_OFFSET)
#define in_interrupt() (preempt_count() & (HARDIRQ_MASK | SOFTIRQ_MASK))
#define in_task() (!(preempt_count() & (HARDIRQ_MASK | SOFTIRQ_OFFSET)))
#define in_atomic() (preempt_count() != 0)
#define preemptible() (preempt_count() == 0 && !irqs_disabled())

#define get_cpu() (preempt_disable(), 0)
#define put_cpu() preempt_enable()
#define smp_processor_id() 0
#define raw_smp_processor_id() 0

#endif
