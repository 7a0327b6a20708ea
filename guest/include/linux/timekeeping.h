#include <linux/ktime.h>
#include <linux/jiffies.h>
