/* Module parameters: the kernel finds the parameter, and calls `set` with what stands behind the
 * equals sign, NULL where there is none. */
#include <linux/module.h>

#define NUMBER(name, type, parse, format)                                                     \
    int param_set_##name(const char *value, const struct kernel_param *param)                 \
    {                                                                                         \
        return parse(value, 0, (type *)param->arg);                                           \
    }                                                                                         \
    int param_get_##name(char *buffer, const struct kernel_param *param)                      \
    {                                                                                         \
        return scnprintf(buffer, PAGE_SIZE, format "\n", *(type *)param->arg);                \
    }                                                                                         \
    const struct kernel_param_ops param_ops_##name = {.set = param_set_##name,                \
                                                      .get = param_get_##name};
NUMBER(byte, unsigned char, kstrtou8, "%hhu")
NUMBER(short, short, kstrtos16, "%hi")
NUMBER(ushort, unsigned short, kstrtou16, "%hu")
NUMBER(int, int, kstrtoint, "%i")
NUMBER(uint, unsigned int, kstrtouint, "%u")
NUMBER(hexint, unsigned int, kstrtouint, "%#08x")
NUMBER(long, long, kstrtol, "%li")
NUMBER(ulong, unsigned long, kstrtoul, "%lu")
NUMBER(ullong, unsigned long long, kstrtoull, "%llu")

/* It points into the words of the command line, which live as long as the module. */
int param_set_charp(const char *value, const struct kernel_param *param)
{
    if (strlen(value) > 1024) {
        pr_err("%s: string parameter too long\n", param->name);
        return -ENOSPC;
    }
    *(const char **)param->arg = value;
    return 0;
}

int param_get_charp(char *buffer, const struct kernel_param *param)
{
    return scnprintf(buffer, PAGE_SIZE, "%s\n", *(char **)param->arg);
}

const struct kernel_param_ops param_ops_charp = {.set = param_set_charp, .get = param_get_charp};

int param_set_bool(const char *value, const struct kernel_param *param)
{
    return kstrtobool(value ? value : "1", param->arg);
}

int param_get_bool(char *buffer, const struct kernel_param *param)
{
    return sprintf(buffer, "%c\n", *(bool *)param->arg ? 'Y' : 'N');
}

const struct kernel_param_ops param_ops_bool = {
    .flags = KERNEL_PARAM_OPS_FL_NOARG, .set = param_set_bool, .get = param_get_bool};

int param_set_invbool(const char *value, const struct kernel_param *param)
{
    bool on;
    int error = kstrtobool(value, &on);
    if (!error)
        *(bool *)param->arg = !on;
    return error;
}

int param_get_invbool(char *buffer, const struct kernel_param *param)
{
    return sprintf(buffer, "%c\n", *(bool *)param->arg ? 'N' : 'Y');
}

const struct kernel_param_ops param_ops_invbool = {.set = param_set_invbool,
                                                   .get = param_get_invbool};

int param_set_bint(const char *value, const struct kernel_param *param)
{
    bool on;
    int error = kstrtobool(value ? value : "1", &on);
    if (!error)
        *(int *)param->arg = on;
    return error;
}

int param_get_bint(char *buffer, const struct kernel_param *param)
{
    return param_get_int(buffer, param);
}

const struct kernel_param_ops param_ops_bint = {
    .flags = KERNEL_PARAM_OPS_FL_NOARG, .set = param_set_bint, .get = param_get_bint};

static int set_string(const char *value, const struct kernel_param *param)
{
    const struct kparam_string *string = param->str;
    if (strnlen(value, string->maxlen) == string->maxlen) {
        pr_err("%s: string doesn't fit in %u chars.\n", param->name, string->maxlen - 1);
        return -ENOSPC;
    }
    strcpy(string->string, value);
    return 0;
}

static int get_string(char *buffer, const struct kernel_param *param)
{
    return scnprintf(buffer, PAGE_SIZE, "%s\n", param->str->string);
}

const struct kernel_param_ops param_ops_string = {.set = set_string, .get = get_string};

/* Each part between commas is an element; what is cut off stays cut off, for charp. */
static int set_array(const char *value, const struct kernel_param *param)
{
    const struct kparam_array *array = param->arr;
    struct kernel_param element = *param;
    char *rest = (char *)value, *part;
    unsigned int count = 0;
    while ((part = strsep(&rest, ",")) != NULL) {
        if (count == array->max) {
            pr_err("%s: can only take %u arguments\n", param->name, array->max);
            return -EINVAL;
        }
        element.arg = (char *)array->elem + array->elemsize * count;
        int error = array->ops->set(part, &element);
        if (error)
            return error;
        count++;
    }
    if (array->num)
        *array->num = count;
    return 0;
}

static int get_array(char *buffer, const struct kernel_param *param)
{
    const struct kparam_array *array = param->arr;
    struct kernel_param element = *param;
    unsigned int count = array->num ? *array->num : array->max;
    int size = 0;
    for (unsigned int i = 0; i < count; i++) {
        if (i)
            buffer[size - 1] = ','; /* where the newline of the one before is */
        element.arg = (char *)array->elem + array->elemsize * i;
        size += array->ops->get(buffer + size, &element);
    }
    buffer[size] = 0;
    return size;
}

const struct kernel_param_ops param_array_ops = {.set = set_array, .get = get_array};
