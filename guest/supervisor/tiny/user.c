/* The program, in user mode: every task is this file, in an address space of its own. Task 0 and
 * 1 count, printing now and then; task 2 does what it may not. */
#include "format.h"
#include "tiny.h"

#define ROUNDS 5
#define ROUND_TICKS 4

static volatile unsigned long count; /* one VA, another frame in each task */

static long call(long number, long arg0, long arg1, long arg2)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a2 __asm__("a2") = arg2;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

__attribute__((format(printf, 1, 2))) static void print(const char *format, ...)
{
    char line[96];
    va_list arguments;
    va_start(arguments, format);
    size_t size = format_text(line, sizeof line, format, arguments);
    va_end(arguments);
    call(SYS_write, 1, (long)line, (long)size);
}

/* Says whether what it counted in memory is what it counted in a register. */
static long counter(long number)
{
    unsigned long mine = 0;
    for (long round = 1; round <= ROUNDS; round++) {
        long end = call(SYS_getticks, 0, 0, 0) + ROUND_TICKS;
        while (call(SYS_getticks, 0, 0, 0) < end)
            for (int i = 0; i < 1000; i++, mine++)
                count++;
        print("task %ld: round %ld, count at %p is %lu\n", number, round, (void *)&count, count);
        if (number == 1)
            call(SYS_sched_yield, 0, 0, 0);
    }
    return count != mine;
}

static long bad(long number)
{
    int *kernel = (int *)0x80200000;
    print("task %ld: storing to %p\n", number, (void *)kernel);
    *(volatile int *)kernel = 1;
    return 0;
}

/* The kernel jumps here, at USER_BASE, with a stack and the task's number. */
__attribute__((section(".text.start"), noreturn, used)) void user_start(long number)
{
    call(SYS_exit, number < TASKS - 1 ? counter(number) : bad(number), 0, 0);
    __builtin_unreachable();
}
