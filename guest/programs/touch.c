/* Touches every kind of memory a program has: code, constants, data, bss, stack and heap. */
#include <pagewalk/user.h>

#define PAGE 4096
#define HEAP_PAGES 300 /* more than one mmap's worth */

static const char constant[] = "constant";
static int data = 42;
static char bss[4 * PAGE];

static long depth(int levels)
{
    volatile char frame[1024];
    frame[0] = (char)levels;
    return levels ? 1 + depth(levels - 1) + (frame[0] != (char)levels) : 0;
}

static int check(const char *what, int good)
{
    printf("%s: %s\n", what, good ? "ok" : "WRONG");
    return good ? 0 : 1;
}

int main(void)
{
    int wrong = 0;
    const unsigned char *code = (const unsigned char *)(unsigned long)main;
    wrong += check("code", code[0] != 0 || code[1] != 0);
    wrong += check("const", constant[0] == 'c' && constant[7] == 't');
    data++;
    wrong += check("data", data == 43);
    int clean = 1;
    for (size_t i = 0; i < sizeof bss; i++)
        clean &= bss[i] == 0;
    for (size_t i = 0; i < sizeof bss; i += PAGE)
        bss[i] = (char)i;
    wrong += check("bss", clean);
    wrong += check("stack", depth(40) == 40);
    int whole = 1;
    unsigned char *page[HEAP_PAGES];
    for (int i = 0; i < HEAP_PAGES; i++) {
        page[i] = malloc(PAGE);
        if (!page[i])
            return 100;
        whole &= page[i][0] == 0 && page[i][PAGE - 1] == 0;
        memset(page[i], i, PAGE);
    }
    for (int i = 0; i < HEAP_PAGES; i++)
        whole &= page[i][0] == (unsigned char)i && page[i][PAGE - 1] == (unsigned char)i;
    wrong += check("heap", whole);
    return wrong;
}
