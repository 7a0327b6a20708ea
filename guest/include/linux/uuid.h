#ifndef _LINUX_UUID_H
#define _LINUX_UUID_H

#include <linux/types.h>

typedef struct {
    __u8 b[16];
} guid_t, uuid_t;

#endif
