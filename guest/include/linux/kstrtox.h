/* Text to numbers: 0, -EINVAL for what is none, -ERANGE for what does not fit. Base 0 finds 0x
 * and 0 in front; one newline may stand behind. */
#ifndef _LINUX_KSTRTOX_H
#define _LINUX_KSTRTOX_H

#include <linux/types.h>

int kstrtoull(const char *text, unsigned int base, unsigned long long *result);
int kstrtoll(const char *text, unsigned int base, long long *result);
int kstrtoul(const char *text, unsigned int base, unsigned long *result);
int kstrtol(const char *text, unsigned int base, long *result);
int kstrtouint(const char *text, unsigned int base, unsigned int *result);
int kstrtoint(const char *text, unsigned int base, int *result);
int kstrtou16(const char *text, unsigned int base, u16 *result);
int kstrtos16(const char *text, unsigned int base, s16 *result);
int kstrtou8(const char *text, unsigned int base, u8 *result);
int kstrtos8(const char *text, unsigned int base, s8 *result);
/* y Y t T 1 on; n N f F 0 off. */
int kstrtobool(const char *text, bool *result);
#define strtobool(text, result) kstrtobool(text, result)
#define kstrtou64(text, base, result) kstrtoull(text, base, result)
#define kstrtos64(text, base, result) kstrtoll(text, base, result)
#define kstrtou32(text, base, result) kstrtouint(text, base, result)
#define kstrtos32(text, base, result) kstrtoint(text, base, result)

/* The number at the start of the text, whatever follows. */
unsigned long long simple_strtoull(const char *text, char **end, unsigned int base);
long long simple_strtoll(const char *text, char **end, unsigned int base);
#define simple_strtoul(text, end, base) ((unsigned long)simple_strtoull(text, end, base))
#define simple_strtol(text, end, base) ((long)simple_strtoll(text, end, base))

#endif
