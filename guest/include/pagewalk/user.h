/* What a U-mode program can use. There is no brk: the heap is what mmap gives. */
#ifndef PAGEWALK_USER_H
#define PAGEWALK_USER_H

#include <stddef.h>
#include <stdint.h>

typedef long ssize_t;

/* Linux's protection bits and flags for mmap. */
#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20

ssize_t write(int fd, const void *data, size_t size);
void exit(int status) __attribute__((noreturn));
void *mmap(void *address, size_t size, int prot, int flags, int fd, long offset);
int munmap(void *address, size_t size);
int mprotect(void *address, size_t size, int prot);

/* A heap over mmap: grows, and gives nothing back before the program ends. */
void *malloc(size_t size);

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);

/* %s %c %d %u %x %p %%, with l and a width (padded with blanks, or zeros after a 0). */
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int puts(const char *text);

/* The value of an entry of the auxiliary vector, 0 when there is none. */
unsigned long getauxval(unsigned long type);

#endif
