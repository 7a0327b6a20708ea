"""The numbers that guest code and the kernel in Python share; the C header is made from them.

User programs call with Linux's riscv64 system call numbers. Kernel modules call with
`ecall` from S-mode, as an SBI extension in the firmware-specific range (SBI 2.0, chapter
4): the extension in a7, the function in a6, arguments from a0 on; a0 returns an error (0 or
an SBI error code), a1 the value.
"""

from __future__ import annotations

from enum import IntEnum


class Sys(IntEnum):
    """System calls (Linux include/uapi/asm-generic/unistd.h): those that the kernel has, and two
    that it says at once it has not, see `guest.kernel.syscalls`."""

    GETCWD = 17
    DUP = 23
    DUP3 = 24
    FCNTL = 25
    IOCTL = 29
    CLOSE = 57
    LSEEK = 62
    READ = 63
    WRITE = 64
    READV = 65
    WRITEV = 66
    READLINKAT = 78
    NEWFSTATAT = 79
    FSTAT = 80
    EXIT = 93
    EXIT_GROUP = 94
    SET_TID_ADDRESS = 96
    FUTEX = 98
    SET_ROBUST_LIST = 99
    NANOSLEEP = 101
    CLOCK_GETTIME = 113
    CLOCK_GETRES = 114
    CLOCK_NANOSLEEP = 115
    SCHED_YIELD = 124
    KILL = 129
    TKILL = 130
    TGKILL = 131
    RT_SIGACTION = 134
    RT_SIGPROCMASK = 135
    GETPGID = 155
    GETSID = 156
    UNAME = 160
    PRCTL = 167
    GETPID = 172
    GETPPID = 173
    GETUID = 174
    GETEUID = 175
    GETGID = 176
    GETEGID = 177
    GETTID = 178
    BRK = 214
    MUNMAP = 215
    MREMAP = 216
    MMAP = 222
    MPROTECT = 226
    MADVISE = 233
    RISCV_HWPROBE = 258
    PRLIMIT64 = 261
    GETRANDOM = 278
    RSEQ = 293


KERNEL_EXTENSION = 0x0A000000


class Call(IntEnum):
    """Functions of the kernel extension."""

    SETUP_VM = 0  # head: memory manager built; a1 = satp
    START_KERNEL = 1  # head: translation is on; does not return
    RETURN = 2  # the end of a function that Python called; a0 = its result
    PRINTK = 3  # a0 = format, a1 = va_list, a2 = 1: it reports a bug; a1 = bytes logged
    KMALLOC = 4  # a0 = size, a1 = gfp; a1 = VA or 0
    KFREE = 5  # a0 = VA
    ALLOC_PAGES = 6  # a0 = gfp, a1 = order; a1 = struct page * or 0
    FREE_PAGES = 7  # a0 = struct page *, a1 = order
    NOP = 8  # nothing, for measuring
    KREALLOC = 9  # a0 = VA, a1 = size, a2 = gfp; a1 = VA or 0
    KSIZE = 10  # a0 = VA; a1 = bytes
    KMEM_CACHE_CREATE = 11  # a0 = name, a1 = size, a2 = align, a3 = flags, a4 = ctor; a1 = VA or 0
    KMEM_CACHE_ALLOC = 12  # a0 = cache, a1 = gfp; a1 = VA or 0
    KMEM_CACHE_FREE = 13  # a0 = cache, a1 = VA
    KMEM_CACHE_DESTROY = 14  # a0 = cache; refused while objects are alive
    VMALLOC = 15  # a0 = size, a1 = gfp (only __GFP_ZERO); a1 = VA or 0
    VFREE = 16  # a0 = VA
    VMAP = 17  # a0 = array of struct page *, a1 = count; a1 = VA or 0
    VUNMAP = 18  # a0 = VA
    VMALLOC_TO_PFN = 19  # a0 = VA; a1 = PFN or 0
    KMAP = 20  # a0 = struct page *; a1 = VA or 0
    KUNMAP = 21  # a0 = struct page *
    KMEM_CACHE_SHRINK = 22  # a0 = cache; a1 = pages given back
    SPLIT_PAGE = 23  # a0 = struct page *, a1 = order
    VSNPRINTF = 24  # a0 = buffer, a1 = size, a2 = format, a3 = va_list; a1 = bytes of all the text
    RANDOM = 25  # a1 = 64 bits


def c_header() -> str:
    """The text of pagewalk/abi.h."""
    lines = [
        "/* Generated from guest/kernel/abi.py when the package is built. Do not edit. */",
        "#ifndef PAGEWALK_ABI_H",
        "#define PAGEWALK_ABI_H",
        "",
        *(f"#define SYS_{call.name.lower()} {call.value}" for call in Sys),
        "",
        f"#define KERNEL_EXTENSION {KERNEL_EXTENSION:#x}",
        *(f"#define CALL_{call.name} {call.value}" for call in Call),
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)
