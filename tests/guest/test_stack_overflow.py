"""A stack that overflows is called that, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from guest.kernel.stack import has_overflowed

Cli = Callable[..., Result]

MODULE = r"""
#include <linux/module.h>
static int depth;
static volatile unsigned first; /* keeps the compiler from seeing through the frames */
static noinline int deeper(int n)
{
    volatile char frame[256];
    frame[0] = n;
    depth++;
    return deeper(n + 1) + frame[0];
}
static noinline int wide(void)
{
    volatile char frame[40000];
    for (unsigned i = first; i < sizeof frame; i += 1000)
        frame[i] = i;
    return frame[7000];
}
static noinline int fits(void)
{
    volatile char frame[12000];
    for (unsigned i = first; i < sizeof frame; i += 1000)
        frame[i] = i;
    return frame[7000] == (char)7000 ? 0 : -1;
}
static void construct(void *object)
{
    deeper(0);
}
static int start(void)
{
    char *what = module_args;
    if (*what == 'd')
        return deeper(0);
    if (*what == 'w')
        return wide();
    if (*what == 'c') {
        struct kmem_cache *cache = kmem_cache_create("mine", 64, 8, 0, construct);
        return kmem_cache_alloc(cache, GFP_KERNEL) ? 0 : -12;
    }
    if (*what == 'b') { /* a wild pointer, not far below the stack, from a healthy one */
        unsigned long sp;
        __asm__("mv %0, sp" : "=r"(sp));
        *(volatile char *)(sp - (200 << 10)) = 1;
    }
    return fits();
}
module_init(start);
"""

PROGRAM = r"""
#include <pagewalk/user.h>
static __attribute__((noinline)) int deeper(int n)
{
    volatile char frame[256];
    frame[0] = n;
    return deeper(n + 1) + frame[0];
}
static __attribute__((noinline)) int wide(int size)
{
    volatile char *frame = __builtin_alloca(size);
    frame[0] = 1;
    return frame[0];
}
int main(int argc, char **argv)
{
    if (argc < 2)
        return 7;
    if (argv[1][0] == 'd')
        return deeper(0);
    if (argv[1][0] == 'w')
        return wide(500000);
    if (argv[1][0] == 'f')
        return wide(200000);
    *(volatile char *)((long)&argc - (700 << 10)) = 1;
    return 0;
}
"""


@pytest.mark.parametrize("way", ["d", "w", "c"])
def test_a_module_that_overflows_the_kernel_stack(pagewalk: Cli, tmp_path: Path, way: str) -> None:
    """Linux riscv: handle_bad_stack prints these words, and panics."""
    source = tmp_path / "deep.c"
    source.write_text(MODULE)
    done = pagewalk("run", source, way)
    assert done.exit_code == 139
    first = done.stderr.splitlines()[0]
    assert first.startswith("pagewalk: kernel stack overflow: Insufficient stack space to handle")
    assert ", 16 KiB, " in first
    story = json.loads(pagewalk("run", source, way, "--json").stdout)
    assert story["notes"][0].startswith("kernel stack overflow: ")
    assert story["fault"]["from"] == "S"


def test_a_module_that_does_not(pagewalk: Cli, tmp_path: Path) -> None:
    source = tmp_path / "deep.c"
    source.write_text(MODULE)
    done = pagewalk("run", source, "fits")
    assert (done.exit_code, done.stderr) == (0, "")
    done = pagewalk("run", source, "b")
    assert done.exit_code == 139 and "overflow" not in done.stderr


@pytest.mark.parametrize("way", ["d", "w"])
@pytest.mark.parametrize("paging", ["sv39", "sv57"])
def test_a_program_that_overflows_its_stack(
    pagewalk: Cli, tmp_path: Path, way: str, paging: str
) -> None:
    source = tmp_path / "deep.c"
    source.write_text(PROGRAM)
    done = pagewalk("run", source, way, "--paging", paging)
    assert done.exit_code == 139
    first = done.stderr.splitlines()[0]
    assert first.startswith("pagewalk: stack overflow: ")
    assert "is beyond the stack's lowest page" in first and "it has 256 KiB" in first


def test_a_program_that_does_not(pagewalk: Cli, tmp_path: Path) -> None:
    source = tmp_path / "deep.c"
    source.write_text(PROGRAM)
    assert pagewalk("run", source).exit_code == 7
    assert pagewalk("run", source, "f").exit_code == 1
    done = pagewalk("run", source, "b")
    assert done.exit_code == 139 and "stack overflow" not in done.stderr


@pytest.mark.parametrize(
    ("sp", "va", "expected"),
    [
        (0x10F00, 0x0FFF8, True),  # sp is in the stack, the frame reaches out of it
        (0x0FFC0, 0x0FFF8, True),  # sp has left it
        (0x0F000, 0x0F000, True),
        (0x10F00, 0x0EFF8, False),  # not the page below
        (0x30000, 0x0FFF8, False),  # sp is far away
        (0x10F00, 0x10008, False),  # in the stack
        (0x13000, 0x14000, False),  # above it
        (0x05000, 0x20000, False),
    ],
)
def test_which_faults_are_overflows(sp: int, va: int, expected: bool) -> None:
    base = 0x40_0000_0000
    assert has_overflowed(base + 0x10000, base + 0x20000, base + sp, base + va) is expected
