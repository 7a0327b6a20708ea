"""Headers of Linux whose subject this kernel does not have yet.

They exist and are empty: many files include them for nothing. What uses them does not compile,
and is told in one line why (`guest.build.refusal`). What would bring them: docs/modules.md.
"""

from __future__ import annotations

import re

_FILES, _TASKS, _DEVICES = "files", "other tasks to wait for or to wake", "devices"
_USER, _NETWORK, _TIMERS = "access to user memory from modules", "network", "timers"
_INTERRUPTS, _SYSFS, _CRYPTO = "interrupts for modules", "sysfs", "crypto API"
_TRACING, _PROCESSES = "tracing of the kernel", "processes that modules could start or signal"
_INPUT = "input layer"

# Header: what pagewalk does not have.
MISSING = {
    "asm/io.h": "registers of devices for modules",
    "asm/irq.h": _INTERRUPTS,
    "asm/segment.h": _USER,
    "asm/uaccess.h": _USER,
    "asm/unistd.h": "system calls for modules to see",
    "crypto/hash.h": _CRYPTO,
    "crypto/internal/hash.h": _CRYPTO,
    "crypto/skcipher.h": _CRYPTO,
    "linux/backing-dev.h": _FILES,
    "linux/binfmts.h": _FILES,
    "linux/bio.h": _DEVICES,
    "linux/blk-mq.h": _DEVICES,
    "linux/blkdev.h": _DEVICES,
    "linux/buffer_head.h": _FILES,
    "linux/cdev.h": "character devices",
    "linux/circ_buf.h": "circular buffers",
    "linux/clk.h": _DEVICES,
    "linux/completion.h": _TASKS,
    "linux/console_struct.h": "terminals",
    "linux/cpu.h": "more than one hart for modules",
    "linux/cpumask.h": "more than one hart for modules",
    "linux/crc32.h": "crc32",
    "linux/cred.h": "users",
    "linux/crypto.h": _CRYPTO,
    "linux/dcache.h": _FILES,
    "linux/debugfs.h": "debugfs",
    "linux/device.h": _DEVICES,
    "linux/device/class.h": _DEVICES,
    "linux/dma-mapping.h": "DMA",
    "linux/etherdevice.h": _NETWORK,
    "linux/fcntl.h": _FILES,
    "linux/file.h": _FILES,
    "linux/firmware.h": _DEVICES,
    "linux/freezer.h": _TASKS,
    "linux/fs.h": _FILES,
    "linux/fs_struct.h": _FILES,
    "linux/ftrace.h": _TRACING,
    "linux/genalloc.h": "genalloc",
    "linux/gpio.h": _DEVICES,
    "linux/gpio/consumer.h": _DEVICES,
    "linux/hdreg.h": _DEVICES,
    "linux/hrtimer.h": _TIMERS,
    "linux/i2c.h": _DEVICES,
    "linux/icmp.h": _NETWORK,
    "linux/idr.h": "idr",
    "linux/if_ether.h": _NETWORK,
    "linux/in.h": _NETWORK,
    "linux/inet.h": _NETWORK,
    "linux/input-event-codes.h": _INPUT,
    "linux/input.h": _INPUT,
    "linux/interrupt.h": _INTERRUPTS,
    "linux/io.h": "registers of devices for modules",
    "linux/ioctl.h": _FILES,
    "linux/ip.h": _NETWORK,
    "linux/irq.h": _INTERRUPTS,
    "linux/irqdomain.h": _INTERRUPTS,
    "linux/jhash.h": "jhash",
    "linux/jump_label.h": "static keys",
    "linux/kallsyms.h": "lookup of symbols for modules",
    "linux/kd.h": "terminals",
    "linux/kdev_t.h": _DEVICES,
    "linux/kernel_stat.h": "statistics of interrupts",
    "linux/keyboard.h": _INPUT,
    "linux/kfifo.h": "kfifo",
    "linux/kmod.h": _PROCESSES,
    "linux/kobject.h": _SYSFS,
    "linux/kprobes.h": _TRACING,
    "linux/kthread.h": "kernel threads",
    "linux/leds.h": _DEVICES,
    "linux/llist.h": "llist",
    "linux/mempool.h": "memory pools",
    "linux/miscdevice.h": _DEVICES,
    "linux/mman.h": _FILES,
    "linux/mod_devicetable.h": _DEVICES,
    "linux/mount.h": _FILES,
    "linux/namei.h": _FILES,
    "linux/net.h": _NETWORK,
    "linux/netdevice.h": _NETWORK,
    "linux/netfilter.h": _NETWORK,
    "linux/netfilter_ipv4.h": _NETWORK,
    "linux/netlink.h": _NETWORK,
    "linux/notifier.h": "notifier chains",
    "linux/nsproxy.h": _PROCESSES,
    "linux/of.h": _DEVICES,
    "linux/of_device.h": _DEVICES,
    "linux/oom.h": "OOM notifiers",
    "linux/pagemap.h": "page cache",
    "linux/pci.h": _DEVICES,
    "linux/percpu.h": "per-CPU variables",
    "linux/perf_event.h": _TRACING,
    "linux/pid.h": _PROCESSES,
    "linux/pid_namespace.h": _PROCESSES,
    "linux/platform_device.h": _DEVICES,
    "linux/pm.h": _DEVICES,
    "linux/poll.h": _FILES,
    "linux/proc_fs.h": "files in /proc",
    "linux/property.h": _DEVICES,
    "linux/ptrace.h": _TRACING,
    "linux/pwm.h": _DEVICES,
    "linux/radix-tree.h": "radix trees",
    "linux/reboot.h": "reboot notifiers",
    "linux/rtc.h": _DEVICES,
    "linux/rwsem.h": "reader-writer semaphores",
    "linux/sched/mm.h": _PROCESSES,
    "linux/sched/signal.h": _PROCESSES,
    "linux/sched/task.h": _PROCESSES,
    "linux/sched/types.h": _PROCESSES,
    "linux/security.h": "security modules",
    "linux/seq_file.h": "files in /proc",
    "linux/seqlock.h": "seqlocks",
    "linux/signal.h": _PROCESSES,
    "linux/skbuff.h": _NETWORK,
    "linux/socket.h": _NETWORK,
    "linux/spi/spi.h": _DEVICES,
    "linux/srcu.h": "SRCU",
    "linux/statfs.h": _FILES,
    "linux/static_key.h": "static keys",
    "linux/stop_machine.h": _TASKS,
    "linux/string_helpers.h": "string helpers",
    "linux/swap.h": "swap for modules",
    "linux/syscalls.h": "system calls for modules to see",
    "linux/syscore_ops.h": _DEVICES,
    "linux/sysctl.h": "sysctl",
    "linux/sysfs.h": _SYSFS,
    "linux/tcp.h": _NETWORK,
    "linux/thread_info.h": _PROCESSES,
    "linux/timer.h": _TIMERS,
    "linux/tracepoint.h": _TRACING,
    "linux/tty.h": "terminals",
    "linux/tty_driver.h": "terminals",
    "linux/uaccess.h": _USER,
    "linux/udp.h": _NETWORK,
    "linux/uio.h": _FILES,
    "linux/unistd.h": "system calls for modules to see",
    "linux/usb.h": _DEVICES,
    "linux/vt.h": "terminals",
    "linux/vt_kern.h": "terminals",
    "linux/wait.h": _TASKS,
    "linux/workqueue.h": "work queues",
    "linux/xarray.h": "xarrays",
    "net/sock.h": _NETWORK,
    "net/tcp.h": _NETWORK,
}

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<([^>]+)>", re.MULTILINE)


def c_header(name: str) -> str:
    """The text of the missing header ``name``."""
    return (
        f"/* Empty: pagewalk has no {MISSING[name]} yet; see docs/modules.md. Generated from\n"
        f" * guest/missing_headers.py when the package is built. */\n"
    )


def included(source: str) -> list[tuple[int, str]]:
    """``(line, header)`` of each missing header that the C text ``source`` includes."""
    return [
        (source.count("\n", 0, match.start()) + 1, match[1])
        for match in _INCLUDE.finditer(source)
        if match[1] in MISSING
    ]
