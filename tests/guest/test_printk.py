"""The kernel log as a module fills it: records, levels, KERN_CONT, and formats on the hart."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from click.testing import Result
from guest_kit import Kernel, load

from emu.spec.csr import Priv
from emu.stop import StopReason
from guest import build
from guest.kernel.printk import Printk

Cli = Callable[..., Result]
SOH = b"\x01"


def stored(*texts: bytes) -> tuple[list[str], list[int]]:
    lines: list[str] = []
    printk = Printk(lines.append)
    sizes = [printk.store(text) for text in texts]
    printk.flush()
    return lines, sizes


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        ((b"one\n", b"two\n"), ["one", "two"]),
        ((b"one", b"two\n"), ["one", "two"]),  # nothing goes on without KERN_CONT
        ((b"one", SOH + b"c two\n", b"three"), ["one two", "three"]),
        ((b"one\n", SOH + b"ctwo", SOH + b"c three\n"), ["one", "two three"]),
        ((SOH + b"6a\nb\nc",), ["a", "b", "c"]),
        ((SOH + b"3error\n", SOH + b"7debug\n"), ["error", "debug"]),
        ((SOH + b"3" + SOH + b"6x\n",), ["x"]),
        ((SOH + b"8x\n",), ["\x018x"]),  # no level
        ((SOH,), ["\x01"]),
        ((b"\n",), [""]),
        ((b"",), [""]),
        ((b"\xff\xfe\n",), ["\ufffd\ufffd"]),
        ((b"x" * 3000 + b"\n", b"next\n"), ["x" * 1023, "next"]),
        ((SOH + b"6" + b"x" * 3000,), ["x" * 1021]),
        ((b"a" * 1000, SOH + b"c" + b"b" * 23, SOH + b"cc\n"), ["a" * 1000 + "b" * 23, "c"]),
    ],
)
def test_records(texts: tuple[bytes, ...], lines: list[str]) -> None:
    assert stored(*texts)[0] == lines


def test_what_printk_returns() -> None:
    """The bytes that were logged: without level and newline."""
    assert stored(SOH + b"6hello\n", b"x" * 2000, SOH + b"c\n")[1] == [5, 1023, 0]


def test_bugs_are_remembered_by_their_first_lines() -> None:
    printk = Printk(lambda line: None)
    for text in (b"", b"\n", SOH + b"3BUG: one\nmore\n"):
        printk.store(text, is_bug=True)
    assert printk.bugs == ["", "", "BUG: one"]
    for _ in range(2000):
        printk.store(b"again\n", is_bug=True)
    assert len(printk.bugs) == 1000


def test_levels() -> None:
    printk = Printk(lambda line: None)
    seen = []
    for text in (b"x\n", SOH + b"0x\n", SOH + b"7x\n", SOH + b"2" + SOH + b"5x\n"):
        printk.store(text)
        seen.append(printk.level)
    assert seen == [4, 0, 7, 2]


SOURCE = r"""
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/uuid.h>

static char buffer[64];
static noinline int __init start(void);

static void say(const char *format, ...)
{
    struct va_format vaf;
    va_list args;
    va_start(args, format);
    vaf.fmt = format;
    vaf.va = &args;
    pr_info("said: %pV (%d)\n", &vaf, 3);
    va_end(args);
}

static noinline int __init start(void)
{
    static const u8 mac[6] = {0x02, 0, 0, 0xab, 0xcd, 0xef}, ip[4] = {10, 0, 0, 1};
    static const uuid_t uuid = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
    static const struct resource mem = {.start = 0x1000, .end = 0x1fff, .flags = IORESOURCE_MEM};
    phys_addr_t pa = 0x80200000;
    unsigned long page_flags = BIT(PG_locked) | BIT(PG_head), vm_flags = VM_READ | VM_EXEC;
    gfp_t gfp = GFP_ATOMIC | __GFP_ZERO;
    DECLARE_BITMAP(bits, 40) = {0xf0000000ful};
    int count = printk(KERN_INFO "%d %5u|%-5d|%05d|%+d|%x|%#x|%lx|%c|%%|%.3s|%-6s|%*d\n", -42, 42,
                       7, 7, 7, 255, 255, -1l, 'c', "string", "left", 4, 1);
    pr_info("%d\n", count);
    pr_info("%hhd %hd %lld %zu %p %px\n", (signed char)-1, (short)-2, -3ll, sizeof(long), mac,
            mac);
    pr_info("%pS %ps\n", start, mac);
    pr_info("%*ph %pM %pI4 %pUb\n", 3, mac, mac, ip, &uuid);
    pr_info("%pGp %pGg %pGv\n", &page_flags, &gfp, &vm_flags);
    pr_info("%*pb %*pbl %pa %pe %pR\n", 40, bits, 40, bits, &pa, ERR_PTR(-ENOMEM), &mem);
    pr_info("%s %s %s|%pM\n", (char *)NULL, (char *)8, (char *)0x10000, ERR_PTR(-5));
    pr_info("%pQ8 %d\n", (void *)16, 17);
    say("%s and %ld", "text", 1l << 40);
    pr_info("%01000d\n", 1);
    pr_info("%02000d\n", 1);
    count = snprintf(buffer, 6, "%s", "overlong");
    pr_info("%s\n", buffer);
    pr_info("%s %d %d %d\n", buffer, count, scnprintf(buffer, 6, "%d", 1234567),
            scnprintf(buffer, sizeof(buffer), "%d", 12));
    pr_info("%d %s\n", snprintf(NULL, 0, "%s", "12345"), buffer);
    printk("the end");
    return 0;
}
module_init(start);
MODULE_LICENSE("GPL");
"""
LINES = [
    r"-42    42\|7    \|00007\|\+7\|ff\|0xff\|ffffffffffffffff\|c\|%\|str\|left  \|   1",
    "69",
    r"-1 -2 -3 8 (f[0-9a-f]{15}) \1",
    r"start\+0x0/0x[0-9a-f]+ \[\w+\] start\.mac \[\w+\]",
    "02 00 00 02:00:00:ab:cd:ef 10.0.0.1 00010203-0405-0607-0809-0a0b0c0d0e0f",
    r"0x41\(locked\|head\|node=0\|zone=0\) GFP_ATOMIC\|__GFP_ZERO read\|exec",
    r"0f,0000000f 0-3,32-35 0x0000000080200000 -ENOMEM \[mem 0x00001000-0x00001fff\]",
    r"\(null\) \(efault\) \(efault\)\|\(efault\)",
    "0000000000000010 17",
    r"said: text and 1099511627776 \(3\)",
    "0{999}1",
    "0{1021}",
    "overl",
    "12 8 5 2",
    "5 12",
    "the end",
]


def test_formats_on_the_hart(kernel: Kernel) -> None:
    stop = kernel.insert(load(build.MODULE, SOURCE))
    assert (stop.reason, stop.value) == (StopReason.EXIT, 0)
    assert len(kernel.log) == len(LINES), kernel.log
    for line, pattern in zip(kernel.log, LINES, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_a_type_that_does_not_exist_is_said_once(kernel: Kernel) -> None:
    text = """
#include <linux/module.h>
static int __init start(void)
{
    for (int i = 0; i < 3; i++)
        pr_info("%d %f %s\\n", i, 1.5, "text");
    return 0;
}
module_init(start);
"""
    assert kernel.insert(load(build.MODULE, text)).value == 0
    warning = "WARNING: Please remove unsupported %f in format string"
    assert kernel.log == [warning, "0 ", "1 ", "2 "]
    assert kernel.system.bugs == [warning]


STORES = r"""
#include <linux/module.h>
static int __init start(void)
{
    return snprintf((char *)%s, 20, "%%d", 1);
}
module_init(start);
"""


@pytest.mark.parametrize(("where", "va"), [("8", 8), ("start", None), ("(1ul << 62)", 1 << 62)])
def test_snprintf_faults_where_its_caller_would(kernel: Kernel, where: str, va: int | None) -> None:
    stop = kernel.insert(load(build.MODULE, STORES % where))
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.priv) == (15, Priv.S)  # store page fault
    if va is not None:
        assert stop.trap.tval == va


MODULE = """
#include <linux/module.h>
static int x;
static int __init start(void)
{
    pr_info("%p %p %px %p\\n", &x, &x, &x, NULL);
    return 0;
}
module_init(start);
"""


def test_hashed_pointers(pagewalk: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("hash") / "show.c"
    path.write_text(MODULE)
    for word, hidden in (("always", True), ("never", False)):
        result = pagewalk("run", path, "--append", f"hash_pointers={word}")
        first, again, real, null = result.stdout.split("] ")[1].split()
        assert first == again
        assert (first != real) == hidden
        assert not hidden or re.fullmatch("0{8}[0-9a-f]{8}", first)
        assert re.fullmatch("f{8}[0-9a-f]{8}", real) and null == "0" * 16
    result = pagewalk("run", path, "--append", "hash_pointers=maybe")
    assert result.exit_code == 2
    assert result.stderr == "pagewalk: hash_pointers=maybe: always or never\n"
