#ifndef _LINUX_UNALIGNED_H
#define _LINUX_UNALIGNED_H

#include <asm/byteorder.h>

#define get_unaligned(pointer)                                                                \
    ({                                                                                        \
        const struct {                                                                        \
            __typeof__(*(pointer)) value;                                                     \
        } __packed *unaligned_at = (const void *)(pointer);                                   \
        unaligned_at->value;                                                                  \
    })
#define put_unaligned(word, pointer)                                                          \
    do {                                                                                      \
        struct {                                                                              \
            __typeof__(*(pointer)) value;                                                     \
        } __packed *unaligned_at = (void *)(pointer);                                         \
        unaligned_at->value = (word);                                                         \
    } while (0)
#define get_unaligned_le16(pointer) get_unaligned((const u16 *)(pointer))
#define get_unaligned_le32(pointer) get_unaligned((const u32 *)(pointer))
#define get_unaligned_le64(pointer) get_unaligned((const u64 *)(pointer))
#define get_unaligned_be16(pointer) swab16(get_unaligned_le16(pointer))
#define get_unaligned_be32(pointer) swab32(get_unaligned_le32(pointer))
#define get_unaligned_be64(pointer) swab64(get_unaligned_le64(pointer))
#define put_unaligned_le32(word, pointer) put_unaligned(word, (u32 *)(pointer))
#define put_unaligned_le64(word, pointer) put_unaligned(word, (u64 *)(pointer))

#endif
