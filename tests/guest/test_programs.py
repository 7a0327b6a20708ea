"""Programs as other people link them: glibc's and musl's static ones, and what they ask for."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from elf_kit import (
    EXIT_7,
    P_OFFSET,
    P_TYPE,
    SHNUM,
    SHOFF,
    SHSTRNDX,
    Load,
    R,
    W,
    X,
    make,
    patch,
    phdr,
)
from guest_kit import Kernel, load

import mm
from emu.spec.paging import MODES
from emu.stop import StopReason
from guest import build
from guest.distro.fetch import cache_folder
from guest.image import elf as elf_file
from guest.image.elf import Elf, ElfError
from guest.kernel.syscall_names import NAMES

Cli = Callable[..., Result]
Machines = Callable[..., Kernel]

CC = shutil.which("riscv64-linux-gnu-gcc")
needs_glibc = pytest.mark.skipif(CC is None, reason="needs riscv64-linux-gnu-gcc and its glibc")
BUSYBOX = cache_folder() / "riscv64" / "busybox"
needs_busybox = pytest.mark.skipif(not BUSYBOX.exists(), reason="needs pagewalk fetch")

P_ALIGN = 48
# relocation types of the psABI
NONE, WORD64, RELATIVE, JUMP_SLOT, IRELATIVE = 0, 2, 3, 5, 58


def with_relocations(
    kind: int, relocations: list[tuple[int, int, int]], align: int = 0x1000, needed: str = ""
) -> bytes:
    """An ELF of type ``kind`` that loads a word at 0x2000 from its start and exits with it.

    ``relocations``: (offset, type, addend), in a section .rela.dyn that is loaded.
    """
    base = 0x10000 if kind == 2 else 0
    code = struct.pack(
        "<5I",
        0x00001517,  # auipc a0, 1: here + 0x1000
        0x00053503,  # ld a0, 0(a0)
        0x03F57513,  # andi a0, a0, 63
        0x05D00893,  # li a7, 93
        0x00000073,  # ecall
    )
    rela = b"".join(struct.pack("<QQq", *entry) for entry in relocations)
    dynamic = b""
    strings = b"\0" + needed.encode() + b"\0"
    if needed:  # DT_NEEDED, DT_STRTAB, DT_STRSZ
        place = base + 0x1800 + len(rela) + 64
        dynamic = struct.pack("<8Q", 1, 1, 5, place, 10, len(strings), 0, 0)
    text = code.ljust(0x800, b"\0") + rela + dynamic + strings
    data = struct.pack("<Q", 5)
    loads = [Load(base + 0x1000, text, R | X), Load(base + 0x2000, data, R | W)]
    if needed:
        loads.append(Load(base + 0x1800 + len(rela), dynamic, R))
    made = make(loads, base + 0x1000, kind)
    if needed:  # the third is no PT_LOAD but PT_DYNAMIC
        made = patch(made, phdr(2, P_TYPE), 2, 4)
    for number in range(2):
        made = patch(made, phdr(number, P_ALIGN), align, 8)
    if needed:
        return made
    # Section headers: none, .rela.dyn, and the names.
    names = b"\0.rela.dyn\0.shstrtab\0"
    offset = int.from_bytes(made[phdr(0, P_OFFSET) :][:8], "little") + 0x800
    names_at = len(made)
    table = bytes(64)
    table += struct.pack("<IIQQQQIIQQ", 1, 4, 2, base + 0x1800, offset, len(rela), 0, 0, 8, 24)
    table += struct.pack("<IIQQQQIIQQ", 11, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    made += names
    at = len(made)
    made += table
    for field, value, size in ((SHOFF, at, 8), (SHNUM, 3, 2), (SHSTRNDX, 2, 2)):
        made = patch(made, field, value, size)
    return made


def parsed(*arguments: object, **kw: object) -> Elf:
    return elf_file.parse(with_relocations(*arguments, **kw), "made")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [2, 3], ids=["ET_EXEC", "ET_DYN"])
def test_relocations_of_type_none_mean_nothing(machines: Machines, kind: int) -> None:
    """glibc's static programs have some, at offset 0, which lies in no segment."""
    elf = parsed(kind, [(0, NONE, 0)] * 22)
    assert elf.relative_relocations == elf.other_relocations == ()
    assert machines().run(elf).code == 5


def test_relative_relocations_are_done_before_the_program_begins(machines: Machines) -> None:
    """As a program of no C library's needs; one that does them itself stores the same."""
    k = machines()
    elf = parsed(3, [(0, NONE, 0), (0x2000, RELATIVE, 0x1007)])
    assert k.run(elf).code == 7  # bias + 0x1007, its low six bits
    process = k.system.process
    assert process is not None
    word = k.mm.copy_from_user(process.mm, process.bias + 0x2000, 8)
    assert int.from_bytes(word, "little") == process.bias + 0x1007


@pytest.mark.parametrize("other", [WORD64, JUMP_SLOT, IRELATIVE])
def test_other_relocations_are_the_programs_own_affair(machines: Machines, other: int) -> None:
    elf = parsed(3, [(0x2000, other, 0x1234)])
    assert machines().run(elf).code == 5  # nobody touched the word


def test_a_modules_relocations_are_all_done_by_the_kernel(machines: Machines) -> None:
    text = "#include <linux/module.h>\nstatic int f(void) { return 0; }\nmodule_init(f);\n"
    whole = load(build.MODULE, text)
    made = Elf(**{**whole.__dict__, "other_relocations": ((0x40, JUMP_SLOT),)})
    k = machines()
    before = k.counts()
    with pytest.raises(ElfError, match="relocation of type 5 at 0x40: a module is linked whole"):
        k.system.load_module(made)
    assert k.counts() == before


def test_a_program_of_shared_libraries_is_refused() -> None:
    with pytest.raises(ElfError, match=r"needs shared libraries \(libm\.so\.6\)"):
        parsed(3, [], needed="libm.so.6")


def test_a_shared_library_is_no_program(machines: Machines) -> None:
    elf = elf_file.parse(make([Load(0, EXIT_7, R | X)], 0, 3), "lib.so")
    with pytest.raises(ElfError, match="no entry point: a shared library, or firmware"):
        machines().load(elf)


@pytest.mark.parametrize("align", [0, 1, 0x1000, 0x10000, 0x200000])
def test_the_bias_is_a_multiple_of_the_alignment(machines: Machines, align: int) -> None:
    """Linux's load_elf_binary: the greatest p_align of the segments."""
    k = machines()
    process = k.load(parsed(3, [], align))
    assert process.bias % max(align, 4096) == 0 and process.bias + 0x1000 >= 0x55555000
    assert k.system.run_program().code == 5


CALLS = r"""
#include <pagewalk/abi.h>
#include <pagewalk/user.h>
static long call(long n, long a, long b, long c, long d, long e, long f)
{
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;
    register long a7 __asm__("a7") = n;
    __asm__ volatile("ecall" : "+r"(a0)
                     : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
    return a0;
}
#define CALL1(n) call(n, 0, 0, 0, 0, 0, 0)
#define SHOW(what, ...) printf("%s: %ld\n", what, call(__VA_ARGS__))
"""


def shown(k: Kernel) -> dict[str, int]:
    lines = (line.rpartition(": ") for line in k.text.splitlines())
    return {what: int(number) for what, colon, number in lines if colon}


BRK = (
    CALLS
    + r"""
static char last; /* .bss ends the program */
int main(void)
{
    long start = CALL1(SYS_brk);
    printf("on a page: %ld\n", start % 4096);
    printf("behind the program: %ld\n", (long)(start > (long)&last && start - (long)&last <= 4096));
    printf("up: %ld\n", call(SYS_brk, start + 10000, 0, 0, 0, 0, 0) - start);
    char *heap = (char *)start;
    printf("zeroed: %ld\n", (long)(heap[0] | heap[9999]));
    heap[0] = heap[9999] = 1;
    printf("within the page: %ld\n", call(SYS_brk, start + 12288, 0, 0, 0, 0, 0) - start);
    heap[12287] = 1;
    printf("too far: %ld\n", call(SYS_brk, start + (1l << 40), 0, 0, 0, 0, 0) - start);
    printf("more than RAM: %ld\n", call(SYS_brk, start + (1l << 30), 0, 0, 0, 0, 0) - start);
    printf("below: %ld\n", call(SYS_brk, start - 1, 0, 0, 0, 0, 0) - start);
    printf("down: %ld\n", call(SYS_brk, start + 1, 0, 0, 0, 0, 0) - start);
    printf("kept: %ld\n", (long)heap[0]);
    printf("again: %ld\n", call(SYS_brk, start + 8192, 0, 0, 0, 0, 0) - start);
    printf("fresh: %ld\n", (long)heap[4096]);
    call(SYS_mmap, start + 8192, 4096, 3, 0x32, -1, 0);
    printf("into a mapping: %ld\n", call(SYS_brk, start + 8193, 0, 0, 0, 0, 0) - start);
    return 0;
}
"""
)


def test_brk(machines: Machines) -> None:
    """brk(2), as the kernel's own: it returns the break, the old one where it cannot move."""
    k = machines()
    assert k.run(load(build.PROGRAM, BRK)).code == 0
    assert shown(k) == {
        "on a page": 0,
        "behind the program": 1,
        "up": 10000,
        "zeroed": 0,
        "within the page": 12288,
        "too far": 12288,
        "more than RAM": 12288,
        "below": 12288,
        "down": 1,
        "kept": 1,
        "again": 8192,
        "fresh": 0,
        "into a mapping": 8192,
    }
    process = k.system.process
    assert process is not None and process.mm.brk == process.mm.start_brk + 8192
    k.system.end_program()


MEMORY = (
    CALLS
    + r"""
#define RW 3
#define ANON 0x22
static const char constant[] = "constant";
int main(void)
{
    char *a = mmap(0, 0x4000, RW, ANON, -1, 0);
    SHOW("no kind", SYS_mmap, 0, 4096, RW, 0x20, -1, 0);
    SHOW("the console", SYS_mmap, 0, 4096, RW, 2, 1, 0);
    SHOW("no descriptor", SYS_mmap, 0, 4096, RW, 2, 9, 0);
    SHOW("hint", SYS_mmap, 0x30000123, 4096, RW, ANON, -1, 0);
    long taken = call(SYS_mmap, 0x30000000, 4096, RW, ANON, -1, 0);
    printf("hint that is taken: %ld\n", (long)(taken > 0x30001000));
    SHOW("no replacing", SYS_mmap, 0x30000000, 4096, RW, ANON | 0x100000, -1, 0);
    SHOW("no replacing, free", SYS_mmap, 0x30002000, 4096, RW, ANON | 0x100000, -1, 0);
    a[0] = 'x';
    SHOW("replacing with what cannot be", SYS_mmap, (long)a, 4096, 6, 0x32, -1, 0);
    printf("kept: %ld\n", (long)a[0]);

    for (long i = 0; i < 0x4000; i++)
        a[i] = i % 251;
    SHOW("mremap nothing", SYS_mremap, (long)a, 0x4000, 0, 1, 0, 0);
    SHOW("mremap misaligned", SYS_mremap, (long)a + 1, 0x4000, 0x8000, 1, 0, 0);
    SHOW("mremap a hole", SYS_mremap, 0x50000000, 0x1000, 0x8000, 1, 0, 0);
    SHOW("mremap beyond", SYS_mremap, (long)a, 0x100000, 0x200000, 1, 0, 0);
    SHOW("mremap flags", SYS_mremap, (long)a, 0x4000, 0x8000, 2, 0, 0);
    SHOW("mremap in place, no room", SYS_mremap, 0x30000000, 4096, 0x3000, 0, 0, 0);
    SHOW("mremap absurd", SYS_mremap, (long)a, 0x4000, 1l << 50, 1, 0, 0);
    SHOW("mremap more than RAM", SYS_mremap, (long)a, 0x4000, 1l << 30, 1, 0, 0);
    SHOW("grown in place", SYS_mremap, 0x30002000, 4096, 0x3000, 0, 0, 0);
    ((char *)0x30004000)[4095] = 1;
    char *b = (char *)call(SYS_mremap, (long)a, 0x4000, 0x40000, 1, 0, 0);
    long wrong = 0;
    for (long i = 0; i < 0x40000; i++)
        wrong += b[i] != (i < 0x4000 ? (char)(i % 251) : 0);
    printf("moved wrong: %ld\n", wrong);
    SHOW("the old one is gone", SYS_write, 1, (long)a, 1, 0, 0, 0);
    char *shrunk = (char *)call(SYS_mremap, (long)b, 0x40000, 0x1000, 0, 0, 0);
    printf("shrunk: %ld\n", (long)(shrunk == b));
    SHOW("its tail is gone", SYS_write, 1, (long)b + 4096, 1, 0, 0, 0);

    b[10] = 1;
    SHOW("a hint", SYS_madvise, (long)b, 4096, 3, 0, 0, 0);
    printf("still there: %ld\n", (long)b[10]);
    SHOW("dontneed", SYS_madvise, (long)b, 1, 4, 0, 0, 0);
    printf("zero: %ld\n", (long)b[10]);
    b[10] = 2; /* and it may be written as before */
    SHOW("madvise a hole", SYS_madvise, 0x50000000, 4096, 4, 0, 0, 0);
    SHOW("madvise misaligned", SYS_madvise, (long)b + 1, 4096, 4, 0, 0, 0);
    SHOW("no advice", SYS_madvise, (long)b, 4096, 77, 0, 0, 0);
    SHOW("madvise -1", SYS_madvise, (long)b, -1, 4, 0, 0, 0);
    SHOW("mprotect nothing", SYS_mprotect, (long)b, 0, 1, 0, 0, 0);
    return 0;
}
"""
)


def test_mmap_mremap_madvise(machines: Machines) -> None:
    """Linux's numbers: EBADF 9, ENOMEM 12, EFAULT 14, EEXIST 17, ENODEV 19, EINVAL 22."""
    k = machines()
    assert k.run(load(build.PROGRAM, MEMORY)).code == 0
    assert shown(k) == {
        "no kind": -22,
        "the console": -19,
        "no descriptor": -9,
        "hint": 0x30000000,
        "hint that is taken": 1,
        "no replacing": -17,
        "no replacing, free": 0x30002000,
        "replacing with what cannot be": -22,
        "kept": ord("x"),
        "mremap nothing": -22,
        "mremap misaligned": -22,
        "mremap a hole": -14,
        "mremap beyond": -14,
        "mremap flags": -22,
        "mremap in place, no room": -12,
        "mremap absurd": -12,
        "mremap more than RAM": -12,
        "grown in place": 0x30002000,
        "moved wrong": 0,
        "the old one is gone": -14,
        "shrunk": 1,
        "its tail is gone": -14,
        "a hint": 0,
        "still there": 1,
        "dontneed": 0,
        "zero": 0,
        "madvise a hole": -12,
        "madvise misaligned": -22,
        "no advice": -22,
        "madvise -1": -22,
        "mprotect nothing": 0,
    }


REST = (
    CALLS
    + r"""
static long w[64];
static char text[400];
int main(int argc, char **argv)
{
    SHOW("pid", SYS_getpid, 0, 0, 0, 0, 0, 0);
    SHOW("tid", SYS_gettid, 0, 0, 0, 0, 0, 0);
    SHOW("parent", SYS_getppid, 0, 0, 0, 0, 0, 0);
    SHOW("uid", SYS_geteuid, 0, 0, 0, 0, 0, 0);
    SHOW("group", SYS_getpgid, 0, 0, 0, 0, 0, 0);
    SHOW("session of another", SYS_getsid, 5, 0, 0, 0, 0, 0);
    SHOW("robust list", SYS_set_robust_list, (long)w, 24, 0, 0, 0, 0);
    SHOW("robust list of no size", SYS_set_robust_list, (long)w, 8, 0, 0, 0, 0);
    SHOW("uname", SYS_uname, (long)text, 0, 0, 0, 0, 0);
    printf("%s,%s\n", text, text + 4 * 65);
    SHOW("uname into nothing", SYS_uname, 0, 0, 0, 0, 0, 0);
    SHOW("limits", SYS_prlimit64, 0, 3, 0, (long)w, 0, 0);
    printf("stack: %ld\n", w[0]);
    SHOW("set a limit", SYS_prlimit64, 0, 3, (long)w, 0, 0, 0);
    SHOW("no limit", SYS_prlimit64, 0, 16, 0, (long)w, 0, 0);
    SHOW("limits of another", SYS_prlimit64, 7, 3, 0, (long)w, 0, 0);
    SHOW("random", SYS_getrandom, (long)w, 16, 0, 0, 0, 0);
    printf("random differs: %ld\n", (long)(w[0] != w[1]));
    SHOW("random flags", SYS_getrandom, (long)w, 16, 8, 0, 0, 0);
    SHOW("random into nothing", SYS_getrandom, 0, 16, 0, 0, 0, 0);

    SHOW("time", SYS_clock_gettime, 1, (long)w, 0, 0, 0, 0);
    SHOW("later", SYS_clock_gettime, 1, (long)(w + 2), 0, 0, 0, 0);
    printf("forwards: %ld\n", (long)(w[2] > w[0] || (w[2] == w[0] && w[3] >= w[1])));
    SHOW("no clock", SYS_clock_gettime, 77, (long)w, 0, 0, 0, 0);
    SHOW("resolution", SYS_clock_getres, 1, (long)w, 0, 0, 0, 0);
    printf("tick: %ld\n", w[1]);
    w[0] = 0, w[1] = 1000;
    SHOW("sleep", SYS_nanosleep, (long)w, 0, 0, 0, 0, 0);
    SHOW("sleep till a time that is over", SYS_clock_nanosleep, 1, 1, (long)w, 0, 0, 0);
    w[1] = 1000000000;
    SHOW("sleep badly", SYS_nanosleep, (long)w, 0, 0, 0, 0, 0);

    SHOW("wake", SYS_futex, (long)w, 129, 1, 0, 0, 0);
    w[0] = 5;
    SHOW("wait for what is", SYS_futex, (long)w, 128, 4, 0, 0, 0);
    w[2] = 0, w[3] = 1000;
    SHOW("wait in vain", SYS_futex, (long)w, 128, 5, (long)(w + 2), 0, 0);
    SHOW("wait misaligned", SYS_futex, (long)w + 2, 128, 5, 0, 0, 0);

    SHOW("cwd", SYS_getcwd, (long)text, 400, 0, 0, 0, 0);
    printf("%s\n", text);
    SHOW("cwd in no room", SYS_getcwd, (long)text, 1, 0, 0, 0, 0);
    SHOW("link", SYS_readlinkat, -100, (long)"/proc/self/exe", (long)text, 400, 0, 0);
    SHOW("link of nothing", SYS_readlinkat, -100, 0, (long)text, 400, 0, 0);
    SHOW("fstat", SYS_fstat, 1, (long)w, 0, 0, 0, 0);
    printf("character device: %ld\n", (long)((w[2] & 0170000) == 0020000));
    SHOW("fstat by an empty path", SYS_newfstatat, 1, (long)"", (long)w, 0x1000, 0, 0);
    SHOW("fstat of none", SYS_fstat, 3, (long)w, 0, 0, 0, 0);
    SHOW("seek", SYS_lseek, 0, 0, 1, 0, 0, 0);
    SHOW("terminal", SYS_ioctl, 1, 0x5401, (long)w, 0, 0, 0);
    SHOW("other ioctl", SYS_ioctl, 1, 0x1234, (long)w, 0, 0, 0);
    SHOW("ioctl of none", SYS_ioctl, 3, 0x5401, (long)w, 0, 0, 0);
    SHOW("dup", SYS_dup, 1, 0, 0, 0, 0, 0);
    SHOW("write to the copy", SYS_write, 3, (long)"copy\n", 5, 0, 0, 0);
    SHOW("dup3", SYS_dup3, 0, 9, 0, 0, 0, 0);
    SHOW("write to the input's copy", SYS_write, 9, (long)"x", 1, 0, 0, 0);
    SHOW("dup3 onto itself", SYS_dup3, 1, 1, 0, 0, 0, 0);
    SHOW("dup3 of none", SYS_dup3, 77, 1, 0, 0, 0, 0);
    SHOW("dup from 20", SYS_fcntl, 1, 0, 20, 0, 0, 0);
    SHOW("flags of 1", SYS_fcntl, 1, 3, 0, 0, 0, 0);
    SHOW("flags of 0", SYS_fcntl, 0, 3, 0, 0, 0, 0);
    SHOW("close", SYS_close, 3, 0, 0, 0, 0, 0);
    SHOW("close again", SYS_close, 3, 0, 0, 0, 0, 0);
    SHOW("name", SYS_prctl, 15, (long)"a name of more than 15", 0, 0, 0, 0);
    call(SYS_prctl, 16, (long)text, 0, 0, 0, 0);
    printf("%s\n", text);

    SHOW("signal 0", SYS_kill, 1, 0, 0, 0, 0, 0);
    SHOW("kill another", SYS_kill, 5, 9, 0, 0, 0, 0);
    SHOW("signal 65", SYS_tkill, 1, 65, 0, 0, 0, 0);
    SHOW("ignored by default", SYS_tgkill, 1, 1, 17, 0, 0, 0);
    w[0] = 1, w[1] = w[2] = 0;
    SHOW("ignore", SYS_rt_sigaction, 10, (long)w, 0, 8, 0, 0);
    SHOW("ignored", SYS_kill, 1, 10, 0, 0, 0, 0);
    SHOW("look", SYS_rt_sigaction, 10, 0, (long)(w + 8), 8, 0, 0);
    printf("action: %ld\n", w[8]);
    SHOW("ignore KILL", SYS_rt_sigaction, 9, (long)w, 0, 8, 0, 0);
    SHOW("a set of no size", SYS_rt_sigaction, 10, (long)w, 0, 16, 0, 0);
    w[0] = 1l << 14 | 1l << 8; /* TERM, and KILL, which cannot be blocked */
    SHOW("block", SYS_rt_sigprocmask, 0, (long)w, 0, 8, 0, 0);
    SHOW("mask", SYS_rt_sigprocmask, 0, 0, (long)(w + 1), 8, 0, 0);
    printf("blocked: %ld\n", w[1]);
    SHOW("while it is blocked", SYS_kill, 1, 15, 0, 0, 0, 0);
    SHOW("no way", SYS_rt_sigprocmask, 9, (long)w, 0, 8, 0, 0);
    if (argc > 1) {
        w[0] = (long)main, w[1] = w[2] = 0;
        call(SYS_rt_sigaction, 15, (long)w, 0, 8, 0, 0);
    }
    w[0] = 0;
    SHOW("unblock", SYS_rt_sigprocmask, 2, (long)w, 0, 8, 0, 0);
    return 0;
}
"""
)


def test_the_other_system_calls(machines: Machines) -> None:
    """Linux's numbers: ESRCH 3, EAGAIN 11, EPERM 1, ENOTTY 25, ESPIPE 29, ERANGE 34 ..."""
    k = machines()
    stop = k.run(load(build.PROGRAM, REST))
    assert (stop.reason, stop.code) == (StopReason.EXIT, 128 + 15)
    process = k.system.process
    assert process is not None and process.killed_by == "SIGTERM"
    assert not process.missing
    assert [line for line in k.text.splitlines() if ": " not in line] == [
        "Linux,riscv64", "/", "copy", "a name of more ",
    ]  # fmt: skip
    assert shown(k) == {
        "pid": 1, "tid": 1, "parent": 0, "uid": 0, "group": 1, "session of another": -3,
        "robust list": 0, "robust list of no size": -22, "uname": 0, "uname into nothing": -14,
        "limits": 0, "stack": 256 << 10, "set a limit": -1, "no limit": -22,
        "limits of another": -3, "random": 16, "random differs": 1, "random flags": -22,
        "random into nothing": -14,
        "time": 0, "later": 0, "forwards": 1, "no clock": -22, "resolution": 0, "tick": 100,
        "sleep": 0, "sleep till a time that is over": 0, "sleep badly": -22,
        "wake": 0, "wait for what is": -11, "wait in vain": -110, "wait misaligned": -22,
        "cwd": 2, "cwd in no room": -34, "link": -2, "link of nothing": -14,
        "fstat": 0, "character device": 1, "fstat by an empty path": 0, "fstat of none": -9,
        "seek": -29, "terminal": 0, "other ioctl": -25, "ioctl of none": -9,
        "dup": 3, "write to the copy": 5, "dup3": 9, "write to the input's copy": -9,
        "dup3 onto itself": -22, "dup3 of none": -9, "dup from 20": 20, "flags of 1": 1,
        "flags of 0": 0, "close": 0, "close again": -9, "name": 0,
        "signal 0": 0, "kill another": -3, "signal 65": -22, "ignored by default": 0,
        "ignore": 0, "ignored": 0, "look": 0, "action": 1, "ignore KILL": -22,
        "a set of no size": -22, "block": 0, "mask": 0, "blocked": 1 << 14,
        "while it is blocked": 0, "no way": -22,
    }  # fmt: skip


def test_a_handler_that_cannot_be_run_is_told(machines: Machines) -> None:
    k = machines()
    stop = k.run(load(build.PROGRAM, REST), "handler")
    process = k.system.process
    assert stop.code == 128 + 15 and process is not None
    assert re.fullmatch("SIGTERM, whose handler at 0x[0-9a-f]+ .*", process.killed_by)


def test_every_call_of_the_table_has_linuxs_name() -> None:
    from guest.kernel.abi import Sys
    from guest.kernel.syscalls import OPTIONAL, TABLE

    assert set(TABLE) | OPTIONAL == {call.value for call in Sys}
    assert {call.value: call.name.lower() for call in Sys}.items() <= NAMES.items()


def test_the_names_of_system_calls() -> None:
    header = Path("/usr/riscv64-linux-gnu/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip(f"needs {header}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    # Those of 32-bit machines alone; those that are macros of the header itself.
    theirs = {int(n): name for name, n in found if not 403 <= int(n) <= 423}
    theirs.pop(244), theirs.pop(451, None)
    theirs[79] = "newfstatat"
    assert theirs.items() <= NAMES.items()
    assert (NAMES[258], NAMES[259]) == ("riscv_hwprobe", "riscv_flush_icache")


MISSING = (
    CALLS
    + r"""
int main(void)
{
    for (int i = 0; i < 3; i++)
        call(56, -100, (long)"/etc/passwd", 0, 0, 0, 0);
    call(SYS_rseq, 0, 0, 0, 0, 0, 0);
    call(SYS_riscv_hwprobe, 0, 0, 0, 0, 0, 0);
    call(5000, 0, 0, 0, 0, 0, 0);
    return call(SYS_newfstatat, -100, (long)"/", 0, 0, 0, 0) == -38 ? 4 : 5;
}
"""
)


def test_a_missing_system_call_is_told_once(pagewalk: Cli, tmp_path: Path) -> None:
    source = tmp_path / "prog.c"
    source.write_text(MISSING)
    done = pagewalk("run", source)
    assert done.exit_code == 4
    assert [line for line in done.stderr.splitlines() if "missing" in line] == [
        "pagewalk: prog: system call 56 (openat) is missing here: it got -ENOSYS",
        "pagewalk: prog: system call 5000 (?) is missing here: it got -ENOSYS",
        "pagewalk: prog: system call 79 (newfstatat) is missing here: it got -ENOSYS",
    ]
    done = pagewalk("run", source, "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["missing_syscalls"] == [
        {"name": "openat", "number": 56, "count": 3},
        {"name": "newfstatat", "number": 79, "count": 1},
        {"name": "?", "number": 5000, "count": 1},
    ]
    assert json.loads(pagewalk("run", "hello", "--json").stdout)["missing_syscalls"] == []
    assert json.loads(pagewalk("run", "hello_module", "--json").stdout)["missing_syscalls"] == []


GLIBC = r"""
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static _Thread_local int tls = 7;
__attribute__((constructor)) static void before(void) { tls++; }
int main(int argc, char **argv, char **envp)
{
    char *what = argc > 1 ? argv[1] : "";
    printf("argc %d, tls %d, pi %.3f, A=%s\n", argc, tls, 3.14159, getenv("A") ? getenv("A") : "");
    if (!strcmp(what, "assert"))
        assert(argc == 0);
    if (!strcmp(what, "fault"))
        *(volatile char *)16 = 1;
    char *big = malloc(300000);
    memset(big, 7, 300000);
    big = realloc(big, 5000000); /* mremap */
    for (int i = 0; i < 300000; i++)
        assert(big[i] == 7);
    big[4999999] = 1;
    free(big);
    for (int i = 1; i < 5000; i++) { /* brk */
        char *small = malloc(i % 700 + 1);
        assert(small);
        memset(small, i, i % 700 + 1);
        if (i % 3)
            free(small);
    }
    char line[100] = "";
    if (fgets(line, sizeof line, stdin))
        printf("read %s", line);
    struct timespec now;
    assert(!clock_gettime(CLOCK_MONOTONIC, &now) && now.tv_nsec < 1000000000);
    fprintf(stderr, "to stderr\n");
    return 5;
}
"""


def check_glibc_program(k: Kernel, program: Elf) -> None:
    k.load(program, "a", environment=("A=b",))
    assert k.system.run_program().code == 5
    assert k.text == "argc 2, tls 8, pi 3.142, A=b\nread line\nto stderr\n"
    assert k.system.process is not None and not k.system.process.missing
    k.system.end_program()
    mm.check(k.mm)
    k.console.clear()
    assert k.run(program, "assert").code == 134  # 128 + SIGABRT
    assert "Assertion `argc == 0' failed" in k.text
    k.console.clear()
    # What it printed before it faulted is there: the console is a terminal, line by line.
    assert k.run(program, "fault").reason is StopReason.FAULT
    assert k.text == "argc 2, tls 8, pi 3.142, A=\n"


@needs_glibc
@pytest.mark.parametrize("flag", ["-static", "-static-pie"])
@pytest.mark.parametrize("mode", list(MODES))
def test_a_static_glibc_program(mode: str, flag: str, machines: Machines, tmp_path: Path) -> None:
    source, made = tmp_path / "prog.c", tmp_path / "prog"
    source.write_text(GLIBC)
    assert CC is not None
    done = subprocess.run([CC, flag, "-O1", "-o", made, source], capture_output=True, text=True)
    if "rcrt1.o" in done.stderr:
        pytest.skip("this glibc was built without static PIE")
    assert done.returncode == 0, done.stderr
    check_glibc_program(
        machines(MODES[mode], ram_size=32 << 20, stdin=b"line\n"), elf_file.load(made)
    )


@needs_glibc
def test_a_static_glibc_program_by_the_command_line(pagewalk: Cli, tmp_path: Path) -> None:
    source, made = tmp_path / "prog.c", tmp_path / "prog"
    source.write_text('#include <stdio.h>\nint main(int c, char **v) { printf("%d %s\\n", c, v[1]);'
                      " return c; }\n")  # fmt: skip
    assert CC is not None
    subprocess.run([CC, "-static", "-O1", "-o", made, source], check=True)
    done = pagewalk("run", made, "a", "b")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "3 a\n", "")
    assert "[heap]" in pagewalk("proc", "maps", made, "--quiet").stdout


@needs_busybox
def test_a_static_program_of_the_distributions(pagewalk: Cli) -> None:
    """BusyBox: its shell computes, and says what it lacks to list a folder."""
    script = "i=0; while [ $i -lt 5 ]; do echo $i; i=$((i+1)); done; exit 9"
    done = pagewalk("run", BUSYBOX, "sh", "--", "-c", script)
    assert (done.exit_code, done.stdout) == (9, "0\n1\n2\n3\n4\n")
    done = pagewalk("run", BUSYBOX, "ls")
    assert done.exit_code == 1 and "(newfstatat) is missing here" in done.stderr
