/* The kernel log. What a format may say: docs/modules.md. */
#ifndef _LINUX_PRINTK_H
#define _LINUX_PRINTK_H

#include <linux/kern_levels.h>
#include <linux/ratelimit.h>
#include <linux/types.h>

/* Stored whole in one record: 1023 bytes, the level's two included. */
int printk(const char *format, ...) __printf(1, 2);
int vprintk(const char *format, va_list arguments) __printf(1, 0);

struct va_format {
    const char *fmt;
    va_list *va;
};

#ifndef pr_fmt
#define pr_fmt(format) format
#endif

/* Checked by the compiler, and nothing of it is run. */
#define no_printk(format, ...)                                                                \
    ({                                                                                        \
        if (0)                                                                                \
            printk(format, ##__VA_ARGS__);                                                    \
        0;                                                                                    \
    })

#define pr_emerg(format, ...) printk(KERN_EMERG pr_fmt(format), ##__VA_ARGS__)
#define pr_alert(format, ...) printk(KERN_ALERT pr_fmt(format), ##__VA_ARGS__)
#define pr_crit(format, ...) printk(KERN_CRIT pr_fmt(format), ##__VA_ARGS__)
#define pr_err(format, ...) printk(KERN_ERR pr_fmt(format), ##__VA_ARGS__)
#define pr_warn(format, ...) printk(KERN_WARNING pr_fmt(format), ##__VA_ARGS__)
#define pr_warning pr_warn
#define pr_notice(format, ...) printk(KERN_NOTICE pr_fmt(format), ##__VA_ARGS__)
#define pr_info(format, ...) printk(KERN_INFO pr_fmt(format), ##__VA_ARGS__)
#define pr_cont(format, ...) printk(KERN_CONT format, ##__VA_ARGS__)
#ifdef DEBUG
#define pr_devel(format, ...) printk(KERN_DEBUG pr_fmt(format), ##__VA_ARGS__)
#define pr_debug(format, ...) printk(KERN_DEBUG pr_fmt(format), ##__VA_ARGS__)
#else
#define pr_devel(format, ...) no_printk(KERN_DEBUG pr_fmt(format), ##__VA_ARGS__)
#define pr_debug(format, ...) no_printk(KERN_DEBUG pr_fmt(format), ##__VA_ARGS__)
#endif

#define printk_once(...)                                                                      \
    do {                                                                                      \
        static bool once_done;                                                                \
        if (!once_done) {                                                                     \
            once_done = true;                                                                 \
            printk(__VA_ARGS__);                                                              \
        }                                                                                     \
    } while (0)
#define pr_emerg_once(format, ...) printk_once(KERN_EMERG pr_fmt(format), ##__VA_ARGS__)
#define pr_alert_once(format, ...) printk_once(KERN_ALERT pr_fmt(format), ##__VA_ARGS__)
#define pr_crit_once(format, ...) printk_once(KERN_CRIT pr_fmt(format), ##__VA_ARGS__)
#define pr_err_once(format, ...) printk_once(KERN_ERR pr_fmt(format), ##__VA_ARGS__)
#define pr_warn_once(format, ...) printk_once(KERN_WARNING pr_fmt(format), ##__VA_ARGS__)
#define pr_notice_once(format, ...) printk_once(KERN_NOTICE pr_fmt(format), ##__VA_ARGS__)
#define pr_info_once(format, ...) printk_once(KERN_INFO pr_fmt(format), ##__VA_ARGS__)

/* Ten in five seconds; how many were left out is said afterwards. */
#define printk_ratelimited(...)                                                               \
    do {                                                                                      \
        static DEFINE_RATELIMIT_STATE(ratelimited_state, DEFAULT_RATELIMIT_INTERVAL,          \
                                      DEFAULT_RATELIMIT_BURST);                               \
        if (___ratelimit(&ratelimited_state, __func__))                                       \
            printk(__VA_ARGS__);                                                              \
    } while (0)
#define pr_emerg_ratelimited(format, ...) printk_ratelimited(KERN_EMERG pr_fmt(format), ##__VA_ARGS__)
#define pr_alert_ratelimited(format, ...) printk_ratelimited(KERN_ALERT pr_fmt(format), ##__VA_ARGS__)
#define pr_err_ratelimited(format, ...) printk_ratelimited(KERN_ERR pr_fmt(format), ##__VA_ARGS__)
#define pr_warn_ratelimited(format, ...) printk_ratelimited(KERN_WARNING pr_fmt(format), ##__VA_ARGS__)
#define pr_notice_ratelimited(format, ...) printk_ratelimited(KERN_NOTICE pr_fmt(format), ##__VA_ARGS__)
#define pr_info_ratelimited(format, ...) printk_ratelimited(KERN_INFO pr_fmt(format), ##__VA_ARGS__)
#define printk_ratelimit()                                                                    \
    ({                                                                                        \
        static DEFINE_RATELIMIT_STATE(ratelimited_state, DEFAULT_RATELIMIT_INTERVAL,          \
                                      DEFAULT_RATELIMIT_BURST);                               \
        ___ratelimit(&ratelimited_state, __func__);                                           \
    })

enum { DUMP_PREFIX_NONE, DUMP_PREFIX_ADDRESS, DUMP_PREFIX_OFFSET };

/* `rowsize` is 16 or 32 bytes, `groupsize` 1, 2, 4 or 8. */
int hex_dump_to_buffer(const void *bytes, size_t count, int rowsize, int groupsize, char *line,
                       size_t size, bool ascii);
void print_hex_dump(const char *level, const char *prefix, int prefix_type, int rowsize,
                    int groupsize, const void *bytes, size_t count, bool ascii);
#define print_hex_dump_bytes(prefix, prefix_type, bytes, count)                               \
    print_hex_dump(KERN_DEBUG, prefix, prefix_type, 16, 1, bytes, count, true)
#define print_hex_dump_debug(...)                                                             \
    do {                                                                                      \
    } while (0)

void dump_stack(void);

#endif
