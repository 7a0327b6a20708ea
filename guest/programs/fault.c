/* Faults in the way that its argument names: each is refused by another rule of the walk. */
#include <pagewalk/user.h>

static const int constant = 1;
static int data[2] = {0x00008067, 0}; /* holds a `ret`, but on a page without X */

static int overflow(int n)
{
    volatile char frame[256];
    frame[0] = (char)n;
    return overflow(n + 1) + frame[0];
}

static void nothing(void)
{
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "";
    volatile int *target = 0;
    if (!strcmp(way, "read")) { /* a page that may only be executed */
        target = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect((void *)target, 4096, PROT_EXEC);
        return *target;
    }
    if (!strcmp(way, "write")) /* constants are not writable */
        *(volatile int *)&constant = 2;
    if (!strcmp(way, "write-code"))
        *(volatile int *)(unsigned long)nothing = 0;
    if (!strcmp(way, "execute")) /* data is not executable */
        ((void (*)(void))data)();
    if (!strcmp(way, "unmapped"))
        return *(volatile int *)0x20000000;
    if (!strcmp(way, "null"))
        return *target;
    if (!strcmp(way, "kernel")) /* an S page from U: the kernel image */
        return *(volatile int *)0xffffffff80000000;
    if (!strcmp(way, "noncanonical"))
        return *(volatile int *)0x4000000000000000;
    if (!strcmp(way, "guard")) /* the page below the stack */
        return overflow(0);
    if (!strcmp(way, "illegal"))
        __asm__ volatile(".word 0xffffffff");
    if (!strcmp(way, "breakpoint"))
        __asm__ volatile("ebreak");
    puts("usage: fault read|write|write-code|execute|unmapped|null|kernel|noncanonical|guard|"
         "illegal|breakpoint");
    return 2;
}
