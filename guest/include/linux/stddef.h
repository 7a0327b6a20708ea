#ifndef _LINUX_STDDEF_H
#define _LINUX_STDDEF_H

#include <stddef.h>

#define sizeof_field(type, member) sizeof(((type *)0)->member)
#define FIELD_SIZEOF(type, member) sizeof_field(type, member)
#define offsetofend(type, member) (offsetof(type, member) + sizeof_field(type, member))

#define container_of(pointer, type, member)                                                   \
    ((type *)((char *)(pointer)-__builtin_offsetof(type, member)))
#define container_of_const(pointer, type, member) container_of(pointer, type, member)

#endif
