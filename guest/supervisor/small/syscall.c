/* System calls: the number in a7, arguments from a0 on, the result in a0, negative for an error. */
#include "small.h"

#define CHUNK 64

static long sys_write(unsigned long text, unsigned long size)
{
    char part[CHUNK];
    for (unsigned long done = 0, now; done < size; done += now) {
        now = size - done < CHUNK ? size - done : CHUNK;
        if (user_read(part, text + done, now))
            return -1;
        uart_write(part, now);
    }
    return (long)size;
}

static long sys_read(unsigned long buffer, unsigned long size)
{
    char line[128];
    size_t got = console_read(line, size < sizeof line ? size : sizeof line);
    return user_write(buffer, line, got) ? -1 : (long)got;
}

static long sys_sleep(unsigned long count)
{
    unsigned long before = interrupts_off(), since = ticks;
    while (ticks - since < count && !current->killed)
        sleep_on(&ticks);
    interrupts_restore(before);
    return 0;
}

static long sys_sector(unsigned long sector, unsigned long buffer, int write)
{
    static char bounce[PROCESSES][SECTOR]; /* the device needs PAs: these have VA = PA */
    char *mine = bounce[(TRAMPOLINE - current->stack_top) / PAGE_SIZE / (STACK_PAGES + 1)];
    if (write && user_read(mine, buffer, SECTOR))
        return -1;
    if (disk_move(sector, mine, write))
        return -1;
    return !write && user_write(buffer, mine, SECTOR) ? -1 : 0;
}

static long sys_wait(unsigned long to)
{
    int status = 0, pid = process_wait(&status);
    return pid > 0 && to && user_write(to, &status, sizeof status) ? -1 : pid;
}

void system_call(void)
{
    struct frame *frame = current->frame;
    unsigned long a0 = frame->a0, a1 = frame->a1, a2 = frame->a2;
    long result = -1;
    switch (frame->a7) {
    case SYS_write: result = a0 == 1 ? sys_write(a1, a2) : -1; break;
    case SYS_read: result = a0 == 0 ? sys_read(a1, a2) : -1; break;
    case SYS_exit: process_exit((int)a0);
    case SYS_sleep: result = sys_sleep(a0); break;
    case SYS_kill: result = process_kill((int)a0); break;
    case SYS_reboot: halt((unsigned)a0);
    case SYS_times: result = (long)ticks; break;
    case SYS_getpid: result = current->pid; break;
    case SYS_sbrk: result = process_grow((long)a0); break;
    case SYS_fork: result = process_fork(); break;
    case SYS_wait: result = sys_wait(a0); break;
    case SYS_read_sector: result = sys_sector(a0, a1, 0); break;
    case SYS_write_sector: result = sys_sector(a0, a1, 1); break;
    }
    frame->a0 = (unsigned long)result;
}
