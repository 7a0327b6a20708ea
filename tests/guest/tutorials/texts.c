/* Strings, copies of them, and numbers in them.
 * init: copy abc of 3, too long -7 "abc", cat abcdef
 * init: parts: one/two/three
 * init: trimmed "in the middle", found 5 -1, prefix 3, base c\.txt
 * init: 0 42, -22, -34, 0 -17, 0 255, 0 1
 * init: dup hello, hel; kasprintf 7 of 9; equal 1
 * init: scanned 3: 12 fe word; hex 0 de,ad dead
 * init: upper ABC1, alpha 1 digit 0 space 1
 */
#include <linux/ctype.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

static int __init texts_init(void)
{
    char small[4], buffer[40], list[] = "one,two,,three", *rest = list, *part;
    ssize_t length = strscpy(small, "abc");
    ssize_t cut = strscpy(small, "abcdef", sizeof(small));
    strcpy(buffer, "abc");
    strcat(buffer, "def");
    pr_info("copy %s of %zd, too long %zd \"%s\", cat %s\n", "abc", length, cut, small, buffer);
    buffer[0] = 0;
    while ((part = strsep(&rest, ",")) != NULL)
        if (*part)
            snprintf(buffer + strlen(buffer), sizeof(buffer) - strlen(buffer), "%s%s",
                     buffer[0] ? "/" : "", part);
    pr_info("parts: %s\n", buffer);
    strcpy(buffer, "  in the middle \n");
    const char *const words[] = {"a", "b"};
    pr_info("trimmed \"%s\", found %td %d, prefix %zu, base %s\n", strim(buffer),
            strstr("find middle", "middle") - "find middle", match_string(words, 2, "c") < 0 ? -1 : 0,
            str_has_prefix("prefix", "pre"), kbasename("/a/b/c.txt"));
    int number = 0, negative = 0;
    u8 byte = 0;
    bool on = false;
    unsigned int hex = 0;
    int e1 = kstrtoint("42\n", 10, &number), e2 = kstrtoint("4x", 10, &negative),
        e3 = kstrtou8("256", 10, &byte), e4 = kstrtoint("-17", 0, &negative),
        e5 = kstrtouint("0xff", 0, &hex), e6 = kstrtobool("yes", &on);
    pr_info("%d %d, %d, %d, %d %d, %d %u, %d %d\n", e1, number, e2, e3, e4, negative, e5, hex, e6,
            on);
    char *dup = kstrdup("hello", GFP_KERNEL), *ndup = kstrndup("hello", 3, GFP_KERNEL);
    char *text = kasprintf(GFP_KERNEL, "%d of %d", 7, 9);
    if (!dup || !ndup || !text)
        return -ENOMEM;
    pr_info("dup %s, %s; kasprintf %s; equal %d\n", dup, ndup, text, sysfs_streq("on", "on\n"));
    kfree(dup);
    kfree(ndup);
    kfree(text);
    char word[8];
    u8 bytes[2];
    int scanned = sscanf("12:fe word", "%d:%x %7s", &number, &hex, word);
    int bad = hex2bin(bytes, "dead", 2);
    *bin2hex(buffer, bytes, 2) = 0;
    pr_info("scanned %d: %d %x %s; hex %d %x,%x %s\n", scanned, number, hex, word, bad, bytes[0],
            bytes[1], buffer);
    pr_info("upper %c%c%c%c, alpha %d digit %d space %d\n", toupper('a'), toupper('b'),
            toupper('C'), toupper('1'), isalpha('z'), isdigit('z'), isspace('\t'));
    return 0;
}

static void __exit texts_exit(void)
{
}

module_init(texts_init);
module_exit(texts_exit);
MODULE_LICENSE("GPL");
