"""Processes: what a program finds in memory, and the system calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_kit import EXIT_7, Load, R, W, X, make
from guest_kit import Kernel, guest, load

import mm
from emu.spec.paging import MODES, PagingMode, satp_root
from emu.spec.walk import Access, Translation, WalkConfig, walk
from emu.stop import StopReason
from guest import build
from guest.image import elf as elf_file
from guest.image.elf import Elf, ElfError
from mm.pgtable import MmStruct

Machines = Callable[..., Kernel]
TASK_SIZE = {"sv39": 1 << 38, "sv48": 1 << 47, "sv57": 1 << 56}

PROGRAM = r"""
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
#define SHOW(what, ...) printf("%s: %ld\n", what, call(__VA_ARGS__))
#define RW 3
#define ANON 0x22
#define FIXED 0x32
static const char constant[] = "constant";

static int stack(int argc, char **argv, char **envp)
{
    long *sp = (long *)argv - 1;
    printf("aligned %ld argc %ld\n", (long)sp & 15, *sp);
    for (int i = 0; i <= argc; i++)
        printf("argv %s\n", argv[i] ? argv[i] : "NULL");
    while (*envp)
        printf("envp %s\n", *envp++);
    for (long *aux = (long *)(envp + 1);; aux += 2) {
        printf("auxv %ld %lx\n", aux[0], aux[1]);
        if (!aux[0])
            break;
    }
    double x = argc; /* the FPU is on */
    return x * 1.5 > 1 ? 0 : 1;
}

static int calls(void)
{
    char *page = mmap(NULL, 8192, RW, ANON, -1, 0);
    struct { const void *base; size_t size; } iov[3] = {{"one\n", 4}, {"two\n", 4}, {NULL, 4}};
    SHOW("unknown", 9999, 0, 0, 0, 0, 0, 0);
    SHOW("unknown -1", -1, 0, 0, 0, 0, 0, 0);
    SHOW("write bad fd", SYS_write, 7, (long)page, 1, 0, 0, 0);
    SHOW("write null", SYS_write, 1, 0, 5, 0, 0, 0);
    SHOW("write nothing", SYS_write, 1, 0, 0, 0, 0, 0);
    SHOW("write kernel", SYS_write, 1, 0xffffffff80000000, 5, 0, 0, 0);
    SHOW("write noncanonical", SYS_write, 1, 1l << 62, 5, 0, 0, 0);
    SHOW("write wraps", SYS_write, 1, -4, 8, 0, 0, 0);
    SHOW("write code", SYS_write, 2, (long)"code\n", 5, 0, 0, 0);
    SHOW("writev", SYS_writev, 1, (long)iov, 2, 0, 0, 0);
    SHOW("writev short", SYS_writev, 1, (long)iov, 3, 0, 0, 0);
    SHOW("writev bad entry", SYS_writev, 1, (long)(iov + 2), 1, 0, 0, 0);
    SHOW("writev bad vector", SYS_writev, 1, 8, 1, 0, 0, 0);
    SHOW("writev nothing", SYS_writev, 1, 8, 0, 0, 0, 0);
    SHOW("writev too many", SYS_writev, 1, (long)iov, 1025, 0, 0, 0);
    SHOW("writev -1", SYS_writev, 1, (long)iov, -1, 0, 0, 0);
    SHOW("writev bad fd", SYS_writev, 0, (long)iov, 1, 0, 0, 0);
    SHOW("read bad fd", SYS_read, 1, (long)page, 1, 0, 0, 0);
    SHOW("read", SYS_read, 0, (long)page, 3, 0, 0, 0);
    printf("got %s\n", page);
    SHOW("read into constants", SYS_read, 0, (long)constant, 1, 0, 0, 0);
    SHOW("read nothing", SYS_read, 0, 0, 0, 0, 0, 0);
    SHOW("read end", SYS_read, 0, (long)page, 100, 0, 0, 0);
    SHOW("getpid", SYS_getpid, 0, 0, 0, 0, 0, 0);
    SHOW("ioctl", SYS_ioctl, 1, 0x5413, (long)page, 0, 0, 0);
    SHOW("mmap nothing", SYS_mmap, 0, 0, RW, ANON, -1, 0);
    SHOW("mmap absurd", SYS_mmap, 0, 1l << 62, RW, ANON, -1, 0);
    SHOW("mmap -1", SYS_mmap, 0, -1, RW, ANON, -1, 0);
    SHOW("mmap more than RAM", SYS_mmap, 0, 1l << 30, RW, ANON, -1, 0);
    SHOW("mmap file", SYS_mmap, 0, 4096, RW, 2, 3, 0);
    SHOW("mmap WX", SYS_mmap, 0, 4096, 6, ANON, -1, 0);
    SHOW("mmap misaligned", SYS_mmap, 0x30000001, 4096, RW, FIXED, -1, 0);
    SHOW("mmap kernel", SYS_mmap, 0xffffffff80000000, 4096, RW, FIXED, -1, 0);
    SHOW("mmap noncanonical", SYS_mmap, 1l << 62, 4096, RW, FIXED, -1, 0);
    SHOW("mmap wraps", SYS_mmap, -4096, 8192, RW, FIXED, -1, 0);
    SHOW("mmap fixed", SYS_mmap, 0x30000000, 5000, RW, FIXED, -1, 0);
    SHOW("mmap prot -1", SYS_mmap, 0, 4096, -1, ANON, -1, 0);
    SHOW("munmap misaligned", SYS_munmap, (long)page + 1, 4096, 0, 0, 0, 0);
    SHOW("munmap nothing", SYS_munmap, (long)page, 0, 0, 0, 0, 0);
    SHOW("munmap hole", SYS_munmap, 0x40000000, 4096, 0, 0, 0, 0);
    SHOW("munmap kernel", SYS_munmap, 0xffffffff80000000, 4096, 0, 0, 0, 0);
    SHOW("munmap -1", SYS_munmap, 4096, -1, 0, 0, 0, 0);
    SHOW("mprotect misaligned", SYS_mprotect, (long)page + 1, 4096, RW, 0, 0, 0);
    SHOW("mprotect hole", SYS_mprotect, 0x40000000, 4096, RW, 0, 0, 0);
    SHOW("mprotect WX", SYS_mprotect, (long)page, 4096, 7, 0, 0, 0);
    SHOW("mprotect kernel", SYS_mprotect, 0xffffffff80000000, 4096, RW, 0, 0, 0);
    SHOW("mprotect -1", SYS_mprotect, (long)page, -1, RW, 0, 0, 0);
    SHOW("munmap half", SYS_munmap, (long)page, 4096, 0, 0, 0, 0);
    SHOW("write unmapped", SYS_write, 1, (long)page, 1, 0, 0, 0);
    SHOW("write over the edge", SYS_write, 1, (long)page + 8190, 10, 0, 0, 0);
    page += 4096;
    page[0] = 'x';
    SHOW("mprotect none readable", SYS_mprotect, (long)page, 4096, 4, 0, 0, 0);
    SHOW("write execute-only", SYS_write, 1, (long)page, 1, 0, 0, 0);
    SHOW("mprotect back", SYS_mprotect, (long)page, 4096, RW, 0, 0, 0);
    printf("kept %c\n", page[0]);
    call(SYS_mmap, (long)page, 4096, RW, FIXED, -1, 0);
    printf("fresh %d\n", page[0]);
    return 0;
}

int main(int argc, char **argv, char **envp)
{
    if (argc > 1 && !strcmp(argv[1], "calls"))
        return calls();
    return stack(argc, argv, envp);
}
"""

# Linux's error numbers: EBADF 9, ENOMEM 12, EFAULT 14, EINVAL 22, ENOTTY 25, ENOSYS 38.
RESULTS = {
    "unknown": -38,
    "unknown -1": -38,
    "write bad fd": -9,
    "write null": -14,
    "write nothing": 0,
    "write kernel": -14,
    "write noncanonical": -14,
    "write wraps": -14,
    "write code": 5,
    "writev": 8,
    "writev short": 8,
    "writev bad entry": -14,
    "writev bad vector": -14,
    "writev nothing": 0,
    "writev too many": -22,
    "writev -1": -22,
    "writev bad fd": -9,
    "read bad fd": -9,
    "read": 3,
    "read into constants": -14,
    "read nothing": 0,
    "read end": 0,
    "getpid": 1,
    "ioctl": 0,
    "mmap nothing": -22,
    "mmap absurd": -12,
    "mmap -1": -12,
    "mmap more than RAM": -12,
    "mmap file": -9,
    "mmap WX": -22,
    "mmap misaligned": -22,
    "mmap kernel": -22,
    "mmap noncanonical": -22,
    "mmap wraps": -22,
    "mmap fixed": 0x30000000,
    "mmap prot -1": -22,
    "munmap misaligned": -22,
    "munmap nothing": -22,
    "munmap hole": 0,
    "munmap kernel": -22,
    "munmap -1": -22,
    "mprotect misaligned": -22,
    "mprotect hole": -12,
    "mprotect WX": -22,
    "mprotect kernel": -22,
    "mprotect -1": -22,
    "munmap half": 0,
    "write unmapped": -14,
    "write over the edge": -14,
    "mprotect none readable": 0,
    "write execute-only": -14,
    "mprotect back": 0,
}


@pytest.fixture(params=list(MODES), ids=str)
def mode(request: pytest.FixtureRequest) -> PagingMode:
    return MODES[request.param]


def test_every_system_call(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode, stdin=b"abcd")
    assert k.run(load(build.PROGRAM, PROGRAM), "calls").code == 0
    lines = k.text.splitlines()
    found = {}
    for line in lines:
        what, _, rest = line.rpartition(": ")
        if what:
            found[what] = int(rest)
    assert found == RESULTS
    assert [line for line in lines if ": " not in line] == [
        "code", "one", "two", "one", "two", "got abc", "kept x", "fresh 0",
    ]  # fmt: skip
    before = k.mm.buddy.nr_free_pages()
    k.system.end_program()
    assert k.mm.buddy.nr_free_pages() > before


def test_the_stack_of_a_program(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    elf = load(build.PROGRAM, PROGRAM)
    for arguments in ((), ("a",), ("a", "bc"), ("", "x" * 1000, "ümlaut")):
        k.console.clear()
        process = k.load(elf, *arguments, environment=("HOME=/", "EMPTY="))
        assert process.sp % 16 == 0
        # What lies there, read from memory: argc, then argv and its end.
        top = TASK_SIZE[mode.name]
        words = memoryview(k.mm.copy_from_user(process.mm, process.sp, 256)).cast("Q")
        assert words[0] == len(arguments) + 1
        assert all(process.sp < p < top for p in words[1 : words[0] + 1])
        assert words[words[0] + 1] == 0
        name = k.mm.strncpy_from_user(process.mm, words[1], 100)
        assert name.decode() == process.name
        assert k.system.run_program().code == 0
        mm.check(k.mm)
        lines = k.text.splitlines()
        assert lines[0] == f"aligned 0 argc {len(arguments) + 1}"
        shown = [process.name, *arguments, "NULL"]
        assert lines[1 : len(shown) + 1] == [f"argv {text}" for text in shown]
        assert lines[len(shown) + 1 : len(shown) + 3] == ["envp HOME=/", "envp EMPTY="]
        auxv = [(int(n), int(v, 16)) for n, v in (x.split()[1:] for x in lines[len(shown) + 3 :])]
        assert auxv[-1] == (0, 0)
        assert len(dict(auxv)) == len(auxv)
        # include/uapi/linux/auxvec.h: PHENT, PHNUM, PAGESZ, BASE, FLAGS, ENTRY, uids, CLKTCK,
        # SECURE, HWCAP, HWCAP2; pointers: RANDOM, EXECFN
        random, path = dict(auxv)[25], dict(auxv)[31]
        assert k.mm.strncpy_from_user(process.mm, path, 100).decode() == process.name
        assert process.sp < random <= top - 16
        expected = {
            4: 56,
            5: 4,
            6: 4096,
            7: 0,
            8: 0,
            9: elf.entry,
            11: 0,
            12: 0,
            13: 0,
            14: 0,
            23: 0,
        }
        expected |= {17: 100, 26: 0}
        expected[16] = sum(1 << "abcdefghijklmnopqrstuvwxyz".index(c) for c in "imafdc")
        got = {n: v for n, v in auxv if n not in (0, 3, 25, 31)}
        assert got | {5: 4} == expected
        assert got[5] == elf.header_count
        k.system.end_program()


def may(k: Kernel, space: MmStruct, va: int) -> str:
    root = satp_root(k.mm.satp(space))
    letters = zip("rwx", (Access.READ, Access.WRITE, Access.EXECUTE), strict=True)
    user = WalkConfig(user=True)
    return "".join(
        c if isinstance(walk(k.ram, k.mode, root, va, access, user), Translation) else "-"
        for c, access in letters
    )


@pytest.mark.parametrize("name", ["hello", "touch", "fault"])
def test_segments_have_their_own_permissions(
    mode: PagingMode, machines: Machines, name: str
) -> None:
    k = machines(mode)
    elf = guest(name)
    process = k.load(elf)
    for s in elf.segments:
        flags = f"{'r' if s.readable else '-'}{'w' if s.writable else '-'}"
        flags += "x" if s.executable else "-"
        assert may(k, process.mm, s.va) == may(k, process.mm, s.end - 1) == flags
        assert k.mm.copy_from_user(process.mm, s.va, len(s.data)) == s.data
        tail = s.memory_size - len(s.data)
        assert k.mm.copy_from_user(process.mm, s.va + len(s.data), tail) == bytes(tail)
    top = TASK_SIZE[mode.name]
    assert may(k, process.mm, top - 1) == may(k, process.mm, top - (256 << 10)) == "rw-"
    assert may(k, process.mm, top - (256 << 10) - 1) == "---"
    assert may(k, process.mm, 0) == "---"


def parsed(loads: list[Load], entry: int, kind: int = 2) -> Elf:
    return elf_file.parse(make(loads, entry, kind), "made")


def test_segments_that_share_a_page(machines: Machines) -> None:
    k = machines()
    text = Load(0x10000, EXIT_7.ljust(0x100, b"\0"), R | X)
    both = parsed([text, Load(0x10100, b"constant", R, 0x2000)], 0x10000)
    stop = k.run(both)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 7)
    process = k.system.process
    assert process is not None
    assert [may(k, process.mm, va) for va in (0x10000, 0x11000, 0x12000)] == ["r-x", "r--", "r--"]
    assert may(k, process.mm, 0x13000) == "---"
    assert k.mm.copy_from_user(process.mm, 0x10100, 8) == b"constant"
    k.system.end_program()
    before = k.counts()
    with pytest.raises(ElfError, match=r"made: pages 0x10000-0x11000: W\^X"):
        k.load(parsed([text, Load(0x10100, b"data", R | W)], 0x10000))
    assert k.counts() == before


def test_three_segments_in_one_page(machines: Machines) -> None:
    k = machines()
    loads = [
        Load(0x10000, b"a" * 16, R),
        Load(0x10010, EXIT_7, R | X),
        Load(0x10020, b"b", R, 0x1000),
        Load(0x11800, b"c", R | W),
    ]
    with pytest.raises(ElfError, match="overlap"):
        parsed([*loads, Load(0x11010, b"d", R)], 0x10010)
    stop = k.run(parsed(loads, 0x10010))
    assert stop.code == 7
    process = k.system.process
    assert process is not None
    assert [may(k, process.mm, va) for va in (0x10000, 0x11000)] == ["r-x", "rw-"]
    assert k.mm.copy_from_user(process.mm, 0x11800, 1) == b"c"


PIE = build.Kind(
    "pie",
    build.PROGRAM.runtime,
    ("-mcmodel=medany", "-fPIE"),
    ("-pie", "--no-dynamic-linker", "-e", "_start"),
)
PIE_PROGRAM = r"""
#include <pagewalk/user.h>
static const char *const names[] = {"zero", "one", "two"};
static int (*volatile function)(const char *) = puts;
int main(int argc, char **argv)
{
    for (volatile int i = 0; i < 3; i++)
        function(names[i]);
    unsigned *phdr = (unsigned *)getauxval(3);
    printf("main %p phdr type %u\n", (void *)main, phdr ? phdr[0] : 99);
    return argc;
}
"""


def test_a_static_pie(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    elf = load(PIE, PIE_PROGRAM)
    assert elf.is_position_independent and elf.relative_relocations and not elf.is_module
    assert k.run(elf, "x").code == 2
    lines = k.text.splitlines()
    assert lines[:3] == ["zero", "one", "two"]
    assert lines[3].startswith("main 0x5555") and lines[3].endswith("phdr type 6")  # PT_PHDR
    process = k.system.process
    assert process is not None and process.bias == 0x55555000


def test_arguments_that_are_too_long(machines: Machines) -> None:
    k = machines()
    k.load(guest("hello"))
    k.system.end_program()
    before = k.counts()
    for arguments in (["x" * 70_000], ["x"] * 10_000, [""] * 100_000):
        with pytest.raises(ElfError, match="argument list too long"):
            k.load(guest("hello"), *arguments)
        assert k.counts() == before
    with pytest.raises(ElfError, match="argument list too long"):
        k.load(guest("hello"), environment=("A=" + "x" * 70_000,))
    assert k.counts() == before
    assert k.run(guest("hello"), *(["x" * 100] * 500)).code == 0
    assert k.text.count("x" * 100) == 500


def test_programs_that_do_not_fit(mode: PagingMode, machines: Machines) -> None:
    k = machines(mode)
    k.load(guest("hello"))
    k.system.end_program()
    before = k.counts()
    text = Load(0x10000, EXIT_7, R | X)
    top = TASK_SIZE[mode.name]
    for size, what in (
        (1 << 30, "does not fit into free RAM: no 262144 frames for 0x20000-0x40020000"),
        (top, "is outside of user space"),
        (1 << 62, "is outside of user space"),
    ):
        with pytest.raises(ElfError, match=what):
            k.load(parsed([text, Load(0x20000, b"", R | W, size)], 0x10000))
        assert k.counts() == before
    for va in (0, top - 4096, top, 1 << 62, 0xFFFFFFFF_80000000):
        with pytest.raises(ElfError, match="is outside of user space"):
            k.load(parsed([text, Load(va, b"x", R)], 0x10000))
        assert k.counts() == before


def test_programs_that_just_fit(machines: Machines) -> None:
    """Around the last free page: tables, stack and VMAs need memory too."""
    k = machines(ram_size=8 << 20)
    k.load(guest("hello"))
    k.system.end_program()
    before = k.counts()
    text = Load(0x10000, EXIT_7, R | X)
    outcomes = set()
    # The last pages are kept back: a program's allocations stop at the watermarks.
    most = before["free"] - sum(zone._watermark[0] for zone in k.mm.zones)
    for pages in range(most - 90, most + 2):
        elf = parsed([text, Load(0x20000, b"", R | W, pages << 12)], 0x10000)
        try:
            k.load(elf)
            outcomes.add("loaded")
            mm.check(k.mm)
            k.system.end_program()
        except ElfError as e:
            assert "does not fit into free RAM" in str(e)
            outcomes.add("refused")
        after = k.counts()
        # The slab caches may keep an empty slab more for next time.
        assert after["objects"] == before["objects"] and after["mms"] == 0
        assert after["free"] >= before["free"] - 8
    assert outcomes == {"loaded", "refused"}


MUSL = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static _Thread_local int tls = 7;
int main(int argc, char **argv)
{
    printf("argc %d last %s tls %d pi %.3f\n", argc, argv[argc - 1], tls, 3.14159);
    char *big = malloc(100000), *small = malloc(20);
    if (!big || !small)
        return 1;
    memset(big, 1, 100000);
    puts(strcpy(small, "heap"));
    free(big);
    free(small);
    return 5;
}
"""


@pytest.mark.skipif(
    not os.environ.get("PAGEWALK_TEST_MUSL"), reason="builds all of musl: PAGEWALK_TEST_MUSL=1"
)
@pytest.mark.parametrize("flags", [["-static"], ["-static", "-pie", "-fPIE"]], ids=["", "pie"])
def test_a_static_musl_program(
    flags: list[str], mode: PagingMode, machines: Machines, tmp_path: Path
) -> None:
    source, made = tmp_path / "musl.c", tmp_path / "musl.elf"
    source.write_text(MUSL)
    zig = [sys.executable, "-m", "ziglang", "cc", "--target=riscv64-linux-musl", *flags]
    subprocess.run([*zig, "-O1", "-o", str(made), str(source)], check=True)
    k = machines(mode)
    elf = elf_file.load(made)
    assert elf.is_position_independent == ("-pie" in flags)
    assert k.run(elf, "a", "b").code == 5
    assert k.text == "argc 3 last b tls 7 pi 3.142\nheap\n"
