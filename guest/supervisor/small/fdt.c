/* Finding a property in the flattened device tree (Devicetree Specification, chapter 5). */
#include "small.h"

enum { BEGIN_NODE = 1, END_NODE, PROP, NOP };
#define MAGIC 0xd00dfeed

uint32_t big_endian(const void *word)
{
    const uint8_t *b = word;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* The value of the first property of that name in any node, NULL without one. Only with
 * translation off: the tree is not mapped. */
const void *fdt_property(const void *fdt, const char *name)
{
    if (!fdt || big_endian(fdt) != MAGIC)
        return NULL;
    const char *at = (const char *)fdt + big_endian((const char *)fdt + 8);
    const char *names = (const char *)fdt + big_endian((const char *)fdt + 12);
    for (;;) {
        uint32_t token = big_endian(at);
        at += 4;
        if (token == BEGIN_NODE) {
            while (*at++) /* the node's name */
                ;
        } else if (token == PROP) {
            if (starts_with(names + big_endian(at + 4), name))
                return at + 8;
            at += 8 + big_endian(at);
        } else if (token != END_NODE && token != NOP) {
            return NULL;
        }
        at = (const char *)(((uintptr_t)at + 3) & ~3ul); /* tokens are aligned */
    }
}

int starts_with(const char *text, const char *word)
{
    while (*word && *text == *word)
        text++, word++;
    return !*word;
}
