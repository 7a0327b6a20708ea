/* Parameters: NAME=VALUE behind the module's name on the command line. */
#ifndef _LINUX_MODULEPARAM_H
#define _LINUX_MODULEPARAM_H

#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/stat.h>
#include <linux/types.h>

#define MODULE_INFO(tag, text)                                                                \
    static const char __UNIQUE_ID(tag)[] __attribute__((section(".modinfo"), used)) =         \
        #tag "=" text
#define MODULE_PARM_DESC(name, text) MODULE_INFO(parm, #name ":" text)

#define KERNEL_PARAM_OPS_FL_NOARG 1 /* NAME alone will do */

struct kernel_param;

struct kernel_param_ops {
    unsigned int flags;
    int (*set)(const char *value, const struct kernel_param *param);
    int (*get)(char *buffer, const struct kernel_param *param);
    void (*free)(void *arg);
};

struct kparam_string {
    unsigned int maxlen;
    char *string;
};

struct kparam_array {
    unsigned int max;
    unsigned int elemsize;
    unsigned int *num;
    const struct kernel_param_ops *ops;
    void *elem;
};

/* The kernel finds these in the section __param; guest/kernel/params.py knows the first three. */
struct kernel_param {
    const char *name;
    const struct kernel_param_ops *ops;
    union {
        void *arg;
        const struct kparam_string *str;
        const struct kparam_array *arr;
    };
    unsigned long perm;
};

#define PARAM_OPS(type)                                                                       \
    extern const struct kernel_param_ops param_ops_##type;                                    \
    int param_set_##type(const char *value, const struct kernel_param *param);                \
    int param_get_##type(char *buffer, const struct kernel_param *param);
PARAM_OPS(byte)
PARAM_OPS(short)
PARAM_OPS(ushort)
PARAM_OPS(int)
PARAM_OPS(uint)
PARAM_OPS(hexint)
PARAM_OPS(long)
PARAM_OPS(ulong)
PARAM_OPS(ullong)
PARAM_OPS(charp)
PARAM_OPS(bool)
PARAM_OPS(invbool)
PARAM_OPS(bint)
extern const struct kernel_param_ops param_array_ops, param_ops_string;

/* The compiler compares the variable's type with the parameter's. */
#define param_check(name, pointer, type)                                                      \
    static inline type __always_unused *__check_##name(void)                                  \
    {                                                                                         \
        return (pointer);                                                                     \
    }
#define param_check_byte(name, pointer) param_check(name, pointer, unsigned char)
#define param_check_short(name, pointer) param_check(name, pointer, short)
#define param_check_ushort(name, pointer) param_check(name, pointer, unsigned short)
#define param_check_int(name, pointer) param_check(name, pointer, int)
#define param_check_uint(name, pointer) param_check(name, pointer, unsigned int)
#define param_check_hexint(name, pointer) param_check(name, pointer, unsigned int)
#define param_check_long(name, pointer) param_check(name, pointer, long)
#define param_check_ulong(name, pointer) param_check(name, pointer, unsigned long)
#define param_check_ullong(name, pointer) param_check(name, pointer, unsigned long long)
#define param_check_charp(name, pointer) param_check(name, pointer, char *)
#define param_check_bool(name, pointer) param_check(name, pointer, bool)
#define param_check_invbool(name, pointer) param_check(name, pointer, bool)
#define param_check_bint(name, pointer) param_check(name, pointer, int)

#define module_param_cb(param, operations, argument, permissions)                             \
    static const struct kernel_param __param_##param                                          \
        __attribute__((used, section("__param"), aligned(8))) = {                             \
            .name = #param, .ops = (operations), .arg = (argument), .perm = (permissions)}
#define module_param_named(param, variable, type, permissions)                                \
    param_check_##type(param, &(variable))                                                    \
    module_param_cb(param, &param_ops_##type, &(variable), permissions);                      \
    MODULE_INFO(parmtype, #param ":" #type)
#define module_param(param, type, permissions) module_param_named(param, param, type, permissions)
#define module_param_unsafe(param, type, permissions) module_param(param, type, permissions)
#define module_param_string(param, text, size, permissions)                                   \
    static const struct kparam_string __param_string_##param = {(size), (text)};              \
    module_param_cb(param, &param_ops_string, (void *)&__param_string_##param, permissions);  \
    MODULE_INFO(parmtype, #param ":string")
#define module_param_array_named(param, array, type, count, permissions)                      \
    param_check_##type(param, &(array)[0])                                                    \
    static const struct kparam_array __param_array_##param = {                                \
        sizeof(array) / sizeof((array)[0]), sizeof((array)[0]), (unsigned int *)(count),      \
        &param_ops_##type, (array)};                                                          \
    module_param_cb(param, &param_array_ops, (void *)&__param_array_##param, permissions);    \
    MODULE_INFO(parmtype, #param ":array of " #type)
#define module_param_array(param, type, count, permissions)                                   \
    module_param_array_named(param, param, type, count, permissions)
#define kernel_param_lock(module)
#define kernel_param_unlock(module)

#endif
