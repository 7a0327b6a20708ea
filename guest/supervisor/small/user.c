/* The program, in user mode: a shell that forks for each command. The disk is a tar archive. */
#include "format.h"
#include "layout.h"
#include <stdint.h>

static long call(long number, long arg0, long arg1, long arg2)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a2 __asm__("a2") = arg2;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

#define fork() call(SYS_fork, 0, 0, 0)
#define wait(status) call(SYS_wait, (long)(status), 0, 0)
#define sleep(ticks) call(SYS_sleep, ticks, 0, 0)
#define sbrk(bytes) call(SYS_sbrk, bytes, 0, 0)
#define read_sector(number, buffer) call(SYS_read_sector, (long)(number), (long)(buffer), 0)

__attribute__((noreturn)) static void exit(long status)
{
    call(SYS_exit, status, 0, 0);
    __builtin_unreachable();
}

__attribute__((format(printf, 1, 2))) static void print(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    size_t size = format_text(line, sizeof line, format, arguments);
    va_end(arguments);
    call(SYS_write, 1, (long)line, (long)size);
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static unsigned long number_of(const char *text, int base)
{
    unsigned long number = 0;
    for (; *text >= '0' && *text < '0' + base; text++)
        number = number * (unsigned long)base + (unsigned long)(*text - '0');
    return number;
}

/* The header of the archive's next file at `*sector`, which moves behind it. 0: there is none. */
static int next_file(unsigned long *sector, char *header, unsigned long *size)
{
    if (read_sector(*sector, header) || !header[0])
        return 0;
    *size = number_of(header + 124, 8); /* name at 0, size in octal at 124 (POSIX ustar) */
    *sector += 1 + (*size + SECTOR - 1) / SECTOR;
    return 1;
}

static int find(const char *name, unsigned long *first, unsigned long *size)
{
    char header[SECTOR];
    for (unsigned long at = 0, begin = 0; next_file(&at, header, size); begin = at)
        if (same(header, name)) {
            *first = begin + 1;
            return 1;
        }
    print("%s: no such file\n", name);
    return 0;
}

static int ls(int count, char **words)
{
    char header[SECTOR];
    unsigned long size, sector = 0;
    while (next_file(&sector, header, &size))
        print("%s %lu\n", header, size);
    return 0;
}

static int cat(int count, char **words)
{
    unsigned long sector, size;
    if (count < 2 || !find(words[1], &sector, &size))
        return 1;
    for (char data[SECTOR]; size; sector++) {
        if (read_sector(sector, data))
            return 1;
        unsigned long part = size < SECTOR ? size : SECTOR;
        call(SYS_write, 1, (long)data, (long)part);
        size -= part;
    }
    return 0;
}

/* write NAME TEXT: over the file's first bytes. */
static int write(int count, char **words)
{
    char data[SECTOR];
    unsigned long sector, size;
    if (count < 3 || !find(words[1], &sector, &size) || read_sector(sector, data))
        return 1;
    for (unsigned long i = 0; i < size && i < SECTOR && words[2][i]; i++)
        data[i] = words[2][i];
    return (int)-call(SYS_write_sector, (long)sector, (long)data, 0);
}

/* All of the disk, added up: sectors, and the sum of their 32-bit words. */
static int sum(int count, char **words)
{
    uint32_t data[SECTOR / 4], total = 0;
    unsigned long sector = 0;
    for (; !read_sector(sector, data); sector++)
        for (int i = 0; i < SECTOR / 4; i++)
            total += data[i];
    print("%lu sectors, sum %lx\n", sector, (unsigned long)total);
    return 0;
}

static int echo(int count, char **words)
{
    for (int i = 1; i < count; i++)
        print(i + 1 < count ? "%s " : "%s", words[i]);
    print("\n");
    return 0;
}

/* More than the ring to the UART holds, in many small writes. */
static int count_to(int count, char **words)
{
    unsigned long last = count > 1 ? number_of(words[1], 10) : 10;
    for (unsigned long i = 1; i <= last; i++)
        print("%lu\n", i);
    return 0;
}

/* Forks until there is no room, in one more process, so that none of them is left behind. */
static int forks(int count, char **words)
{
    int children = 0, status, wrong = 0;
    while (children < 1000) {
        long pid = fork();
        if (pid == 0)
            exit(children % 7);
        if (pid < 0)
            break;
        children++;
    }
    for (int i = 0; i < children; i++)
        wrong += wait(&status) < 0 || status > 6;
    wrong += wait(&status) >= 0;
    print("%ld children, %ld wrong\n", (long)children, (long)wrong);
    return wrong;
}

/* A child that never calls: only the timer gets us back, and kill ends it. Another counts in a
 * register and in memory meanwhile: no interrupt may change either. */
static int spin(int count, char **words)
{
    int status = 0, sound = 1;
    long loop = fork();
    if (loop == 0)
        for (;;)
            ;
    long counter = fork();
    if (counter == 0) {
        static volatile unsigned long memory;
        unsigned long mine = 0, end = (unsigned long)call(SYS_times, 0, 0, 0) + 10;
        while ((unsigned long)call(SYS_times, 0, 0, 0) < end)
            for (int i = 0; i < 1000; i++, mine++)
                memory++;
        exit(memory == mine ? 42 : 1);
    }
    sound &= wait(&status) == counter && status == 42;
    call(SYS_kill, loop, 0, 0);
    sound &= wait(&status) == loop && status == -1;
    print("spin: %s\n", sound ? "sound" : "broken");
    return !sound;
}

/* Memory that comes is zero, holds what is stored in each page, and goes again. */
static int grow(int count, char **words)
{
    long pages = 100, wrong = 0;
    char *new = (char *)sbrk(pages * PAGE_SIZE);
    for (long i = 0; i < pages; i++) {
        wrong += new[i * PAGE_SIZE] != 0;
        new[i * PAGE_SIZE + i] = (char)i;
    }
    for (long i = 0; i < pages; i++)
        wrong += new[i * PAGE_SIZE + i] != (char)i;
    wrong += sbrk(-pages * PAGE_SIZE) != (long)new + pages * PAGE_SIZE;
    wrong += sbrk(1l << 40) != -1;
    print("%ld pages, %ld wrong\n", pages, wrong);
    return wrong != 0;
}

/* Does what it may not. */
static int fault(int count, char **words)
{
    *(volatile int *)RAM = 1;
    return 0;
}

static int snooze(int count, char **words)
{
    long since = call(SYS_times, 0, 0, 0), wanted = 5;
    sleep(wanted);
    print("%s\n", call(SYS_times, 0, 0, 0) - since >= wanted ? "slept" : "woke too early");
    return 0;
}

static int halt(int count, char **words)
{
    return (int)call(SYS_reboot, count > 1 ? (long)number_of(words[1], 10) : 0, 0, 0);
}

static const struct command {
    const char *name;
    int (*run)(int count, char **words);
} commands[] = {
    {"echo", echo}, {"ls", ls}, {"cat", cat}, {"write", write}, {"sum", sum}, {"count", count_to},
    {"forks", forks}, {"spin", spin}, {"grow", grow}, {"fault", fault}, {"sleep", snooze},
    {"halt", halt},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static int run(int count, char **words)
{
    for (unsigned i = 0; i < COMMANDS; i++)
        if (same(words[0], commands[i].name))
            return commands[i].run(count, words);
    print("%s: not known; there are", words[0]);
    for (unsigned i = 0; i < COMMANDS; i++)
        print(" %s", commands[i].name);
    print("\n");
    return 127;
}

/* The kernel jumps here, at USER_BASE, with a page of stack. */
__attribute__((section(".text.start"), noreturn, used)) void user_start(void)
{
    for (;;) {
        char line[129], *words[16];
        int count = 0, status = 0;
        print("$ ");
        line[call(SYS_read, 0, (long)line, sizeof line - 1)] = 0;
        for (char *at = line; *at && count < 16;) {
            while (*at == ' ' || *at == '\n')
                *at++ = 0;
            if (*at)
                words[count++] = at;
            while (*at && *at != ' ' && *at != '\n')
                at++;
        }
        if (!count)
            continue;
        long pid = fork();
        if (pid == 0)
            exit(run(count, words));
        while (pid > 0 && wait(&status) != pid)
            ;
        if (pid < 0 || status)
            print("status %ld\n", pid < 0 ? pid : (long)status);
    }
}
