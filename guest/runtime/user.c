/* The U-mode runtime: system calls, the start of main, a heap, printf. */
#include <stdarg.h>

#include <pagewalk/abi.h>
#include <pagewalk/user.h>

#include "format.h"

#define HEAP_CHUNK (1ul << 20) /* bytes asked of mmap at a time */

int main(int argc, char **argv, char **envp);

static unsigned long *auxiliary;

static long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall"
                     : "+r"(a0)
                     : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7)
                     : "memory");
    return a0;
}

ssize_t write(int fd, const void *data, size_t size)
{
    return system_call(SYS_write, fd, (long)data, (long)size, 0, 0, 0);
}

void exit(int status)
{
    for (;;)
        system_call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

void *mmap(void *address, size_t size, int prot, int flags, int fd, long offset)
{
    return (void *)system_call(SYS_mmap, (long)address, (long)size, prot, flags, fd, offset);
}

int munmap(void *address, size_t size)
{
    return (int)system_call(SYS_munmap, (long)address, (long)size, 0, 0, 0, 0);
}

int mprotect(void *address, size_t size, int prot)
{
    return (int)system_call(SYS_mprotect, (long)address, (long)size, prot, 0, 0, 0);
}

void *malloc(size_t size)
{
    static char *next, *end;
    size = (size + 15) & ~15ul;
    if (size < 16)
        return NULL; /* zero, or a size that wrapped around */
    if ((size_t)(end - next) < size) {
        size_t chunk = (size + HEAP_CHUNK - 1) & ~(HEAP_CHUNK - 1);
        char *fresh = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if ((unsigned long)fresh > -4096ul)
            return NULL; /* mmap returned an error number */
        next = fresh;
        end = fresh + chunk;
    }
    char *object = next;
    next += size;
    return object;
}

size_t strlen(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

static void flush(const char *text, size_t size)
{
    write(1, text, size);
}

int printf(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int count = format_text(line, sizeof line, flush, format, arguments);
    va_end(arguments);
    return count;
}

int puts(const char *text)
{
    return printf("%s\n", text);
}

unsigned long getauxval(unsigned long type)
{
    for (unsigned long *entry = auxiliary; entry[0]; entry += 2)
        if (entry[0] == type)
            return entry[1];
    return 0;
}

void user_main(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    char **envp = argv + argc + 1;
    char **p = envp;
    while (*p)
        p++;
    auxiliary = (unsigned long *)(p + 1);
    exit(main(argc, argv, envp));
}
