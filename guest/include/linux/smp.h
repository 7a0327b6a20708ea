#ifndef _LINUX_SMP_H
#define _LINUX_SMP_H

/* One hart. */
#include <linux/preempt.h>

#define NR_CPUS 1
#define num_online_cpus() 1u
#define num_possible_cpus() 1u
#define for_each_online_cpu(cpu) for ((cpu) = 0; (cpu) < 1; (cpu)++)
#define for_each_possible_cpu(cpu) for_each_online_cpu(cpu)

#endif
