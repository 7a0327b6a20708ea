/* Interrupts of the hart: sstatus.SIE. What is off is also noted in the task, as Linux does with
 * CONFIG_TRACE_IRQFLAGS, so that an allocation can ask without reading a CSR. */
#ifndef _LINUX_IRQFLAGS_H
#define _LINUX_IRQFLAGS_H

#include <linux/compiler.h>
#include <pagewalk/task.h>

#define SR_SIE 2ul

static inline unsigned long arch_local_save_flags(void)
{
    unsigned long sstatus;
    __asm__ volatile("csrr %0, sstatus" : "=r"(sstatus)::"memory");
    return sstatus & SR_SIE;
}

static inline unsigned long arch_local_irq_save(void)
{
    unsigned long sstatus;
    __asm__ volatile("csrrci %0, sstatus, 2" : "=r"(sstatus)::"memory");
    current_thread_info()->hardirqs_disabled = 1;
    return sstatus & SR_SIE;
}

static inline void local_irq_disable(void)
{
    __asm__ volatile("csrci sstatus, 2" ::: "memory");
    current_thread_info()->hardirqs_disabled = 1;
}

static inline void local_irq_enable(void)
{
    current_thread_info()->hardirqs_disabled = 0;
    __asm__ volatile("csrsi sstatus, 2" ::: "memory");
}

static inline void arch_local_irq_restore(unsigned long flags)
{
    if (flags & SR_SIE)
        local_irq_enable();
    else
        local_irq_disable();
}

#define local_save_flags(flags) ((flags) = arch_local_save_flags())
#define local_irq_save(flags) ((flags) = arch_local_irq_save())
#define local_irq_restore(flags) arch_local_irq_restore(flags)
#define irqs_disabled_flags(flags) (!((flags)&SR_SIE))
#define irqs_disabled() irqs_disabled_flags(arch_local_save_flags())

#endif
