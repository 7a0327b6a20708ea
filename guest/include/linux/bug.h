/* BUG and WARN. */
#ifndef _LINUX_BUG_H
#define _LINUX_BUG_H

#include <linux/build_bug.h>
#include <linux/compiler.h>

void __bug(const char *file, int line);
/* `format` may be NULL. */
void __warn(const char *file, int line, const char *format, ...) __printf(3, 4);

/* As on RISC-V in Linux: ebreak, where the bug is. */
#define BUG()                                                                                 \
    do {                                                                                      \
        __bug(__FILE__, __LINE__);                                                            \
        __asm__ volatile("ebreak");                                                           \
        __builtin_unreachable();                                                              \
    } while (0)
#define BUG_ON(condition)                                                                     \
    do {                                                                                      \
        if (unlikely(condition))                                                              \
            BUG();                                                                            \
    } while (0)

#define WARN(condition, ...)                                                                  \
    ({                                                                                        \
        int warn_on = !!(condition);                                                          \
        if (unlikely(warn_on))                                                                \
            __warn(__FILE__, __LINE__, __VA_ARGS__);                                          \
        unlikely(warn_on);                                                                    \
    })
#define WARN_ON(condition) WARN(condition, NULL)
#define WARN_ONCE(condition, ...)                                                             \
    ({                                                                                        \
        static bool warn_done;                                                                \
        int warn_once = !!(condition);                                                        \
        if (unlikely(warn_once && !warn_done)) {                                              \
            warn_done = true;                                                                 \
            __warn(__FILE__, __LINE__, __VA_ARGS__);                                          \
        }                                                                                     \
        unlikely(warn_once);                                                                  \
    })
#define WARN_ON_ONCE(condition) WARN_ONCE(condition, NULL)
#define WARN_TAINT(condition, taint, ...) WARN(condition, __VA_ARGS__)
#define VM_BUG_ON(condition) BUG_ON(condition)
#define VM_WARN_ON(condition) WARN_ON(condition)

#endif
