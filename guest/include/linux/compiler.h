/* What Linux asks of a compiler, in its names. */
#ifndef _LINUX_COMPILER_H
#define _LINUX_COMPILER_H

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() __asm__ volatile("" ::: "memory")
#define barrier_data(pointer) __asm__ volatile("" ::"r"(pointer) : "memory")
#define unreachable() __builtin_unreachable()

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define ACCESS_ONCE(x) (*(volatile __typeof__(x) *)&(x))

#ifndef __always_inline
#define __always_inline inline __attribute__((__always_inline__))
#endif
#ifndef noinline
#define noinline __attribute__((__noinline__))
#endif
#define noinline_for_stack noinline
#define __noreturn __attribute__((__noreturn__))
#define __must_check __attribute__((__warn_unused_result__))
#define __maybe_unused __attribute__((__unused__))
#define __always_unused __attribute__((__unused__))
#ifndef __used
#define __used __attribute__((__used__))
#endif
#define __packed __attribute__((__packed__))
#define __aligned(bytes) __attribute__((__aligned__(bytes)))
#define __section(name) __attribute__((__section__(name)))
#define __printf(format_at, first) __attribute__((__format__(__printf__, format_at, first)))
#define __weak __attribute__((__weak__))
#define __pure __attribute__((__pure__))
#define __cold __attribute__((__cold__))
#define __visible
#define __deprecated
#define __malloc
#define __read_mostly
#define __ro_after_init
#define ____cacheline_aligned __attribute__((__aligned__(64)))
#define __cacheline_aligned ____cacheline_aligned
#define ____cacheline_aligned_in_smp ____cacheline_aligned
#define fallthrough __attribute__((__fallthrough__))
#define uninitialized_var(x) x = x

/* For sparse alone. */
#define __user
#define __kernel
#define __iomem
#define __force
#define __percpu
#define __rcu
#define __bitwise
#define __acquires(x)
#define __releases(x)
#define __must_hold(x)
#define __acquire(x) (void)0
#define __release(x) (void)0
#define __private

#define __same_type(a, b) __builtin_types_compatible_p(__typeof__(a), __typeof__(b))
#define typeof __typeof__

#define __stringify_1(x...) #x
#define __stringify(x...) __stringify_1(x)
#define ___PASTE(a, b) a##b
#define __PASTE(a, b) ___PASTE(a, b)
#define __UNIQUE_ID(prefix) __PASTE(__PASTE(__UNIQUE_ID_, prefix), __COUNTER__)

#endif
