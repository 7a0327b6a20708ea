#ifndef _LINUX_RATELIMIT_H
#define _LINUX_RATELIMIT_H

#include <linux/jiffies.h>

#define DEFAULT_RATELIMIT_INTERVAL (5 * HZ)
#define DEFAULT_RATELIMIT_BURST 10

struct ratelimit_state {
    int interval, burst; /* jiffies; messages in them */
    int printed, missed;
    unsigned long begin;
};

#define RATELIMIT_STATE_INIT(name, jiffies_each, messages)                                    \
    {.interval = (jiffies_each), .burst = (messages)}
#define DEFINE_RATELIMIT_STATE(name, jiffies_each, messages)                                  \
    struct ratelimit_state name = RATELIMIT_STATE_INIT(name, jiffies_each, messages)

/* Whether one more may be printed. */
int ___ratelimit(struct ratelimit_state *state, const char *function);
#define __ratelimit(state) ___ratelimit(state, __func__)

#endif
