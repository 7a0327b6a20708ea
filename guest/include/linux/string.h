#ifndef _LINUX_STRING_H
#define _LINUX_STRING_H

#include <linux/errno.h>
#include <linux/types.h>

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
void *memchr(const void *bytes, int byte, size_t size);
void *memchr_inv(const void *bytes, int byte, size_t size);
void *memscan(void *bytes, int byte, size_t size);
void memzero_explicit(void *bytes, size_t size);

size_t strlen(const char *text);
size_t strnlen(const char *text, size_t size);
char *strcpy(char *to, const char *from);
char *strncpy(char *to, const char *from, size_t size);
char *strcat(char *to, const char *from);
char *strncat(char *to, const char *from, size_t size);
size_t strlcpy(char *to, const char *from, size_t size);
size_t strlcat(char *to, const char *from, size_t size);
ssize_t sized_strscpy(char *to, const char *from, size_t size);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t size);
int strcasecmp(const char *a, const char *b);
int strncasecmp(const char *a, const char *b, size_t size);
char *strchr(const char *text, int c);
char *strchrnul(const char *text, int c);
char *strrchr(const char *text, int c);
char *strnchr(const char *text, size_t size, int c);
char *strstr(const char *text, const char *part);
char *strnstr(const char *text, const char *part, size_t size);
char *strpbrk(const char *text, const char *set);
char *strsep(char **text, const char *set);
size_t strspn(const char *text, const char *set);
size_t strcspn(const char *text, const char *set);
char *skip_spaces(const char *text);
char *strim(char *text);
char *strreplace(char *text, char old, char new);
const char *kbasename(const char *path);
bool sysfs_streq(const char *a, const char *b);
int match_string(const char *const *array, size_t count, const char *text);
int __sysfs_match_string(const char *const *array, size_t count, const char *text);
void *memset16(u16 *to, u16 value, size_t count);
void *memset32(u32 *to, u32 value, size_t count);
void *memset64(u64 *to, u64 value, size_t count);

char *kstrdup(const char *text, gfp_t flags);
char *kstrndup(const char *text, size_t size, gfp_t flags);
void *kmemdup(const void *from, size_t size, gfp_t flags);
char *kmemdup_nul(const char *text, size_t size, gfp_t flags);
#define kstrdup_const(text, flags) kstrdup(text, flags)
#define kfree_const(text) kfree(text)

/* Whether it fits: its length, or -E2BIG. The size may be left out for an array. */
#define strscpy_2(to, from) sized_strscpy(to, from, sizeof(to))
#define strscpy_3(to, from, size) sized_strscpy(to, from, size)
#define strscpy_which(a, b, c, which, ...) which
#define strscpy(...) strscpy_which(__VA_ARGS__, strscpy_3, strscpy_2, )(__VA_ARGS__)
static inline char *strstrip(char *text)
{
    return strim(text);
}

static inline size_t str_has_prefix(const char *text, const char *prefix)
{
    size_t size = strlen(prefix);
    return strncmp(text, prefix, size) ? 0 : size;
}

#define strstarts(text, prefix) (str_has_prefix(text, prefix) != 0)

#endif
