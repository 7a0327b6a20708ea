"""The SBI that Python answers, called by S-mode guests."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from guest_kit import guest, load

from emu.hart import HartOptions
from emu.stop import StopReason
from guest import build
from guest.boot.boot import options_of, prepare
from guest.boot.find import Found
from guest.boot.machines import machine_for
from guest.boot.outcome import Outcome
from guest.boot.session import Session, SessionOptions
from guest.image.elf import Elf

CALLS = r"""
#include <pagewalk/sbi.h>
static struct sbi_result r;
#define SHOW(what, ...) \
    (r = sbi_call(__VA_ARGS__), printf("%s: %ld %ld\n", what, r.error, r.value))
#define DBCN SBI_EXT_DBCN
#define SRST SBI_EXT_SRST
int main(long hartid, long device_tree)
{
    static char text[] = "written\n";
    static char buffer[16];
    printf("hart %ld dt %ld\n", hartid, device_tree);
    SHOW("version", SBI_EXT_BASE, 0, 0, 0, 0);
    SHOW("probe base", SBI_EXT_BASE, 3, SBI_EXT_BASE, 0, 0);
    SHOW("probe dbcn", SBI_EXT_BASE, 3, DBCN, 0, 0);
    SHOW("probe srst", SBI_EXT_BASE, 3, SRST, 0, 0);
    SHOW("probe legacy putchar", SBI_EXT_BASE, 3, 1, 0, 0);
    SHOW("probe hsm", SBI_EXT_BASE, 3, 0x48534d, 0, 0);
    SHOW("probe kernel", SBI_EXT_BASE, 3, 0x0a000000, 0, 0);
    SHOW("mvendorid", SBI_EXT_BASE, 4, 0, 0, 0);
    SHOW("marchid", SBI_EXT_BASE, 5, 0, 0, 0);
    SHOW("mimpid", SBI_EXT_BASE, 6, 0, 0, 0);
    SHOW("base 7", SBI_EXT_BASE, 7, 0, 0, 0);
    SHOW("base -1", SBI_EXT_BASE, -1, 0, 0, 0);
    SHOW("unknown extension", 0x12345678, 0, 0, 77, 0);
    SHOW("kernel call", 0x0a000000, 8, 0, 77, 0);
    SHOW("write", DBCN, 0, 8, (long)text, 0);
    SHOW("write nothing", DBCN, 0, 0, (long)text, 0);
    SHOW("write null", DBCN, 0, 8, 0, 0);
    SHOW("write uart", DBCN, 0, 8, 0x10000000, 0);
    SHOW("write high", DBCN, 0, 8, (long)text, 1);
    SHOW("write past ram", DBCN, 0, 8, 0x80000000l + RAM_SIZE - 4, 0);
    SHOW("write at the end", DBCN, 0, 0, 0x80000000l + RAM_SIZE, 0);
    SHOW("write -1", DBCN, 0, 8, -1, 0);
    SHOW("write absurd", DBCN, 0, -1, 0x80000000l + RAM_SIZE - 4096, 0);
    SHOW("write byte", DBCN, 2, 'B', 0, 0);
    SHOW("read null", DBCN, 1, 8, 0, 0);
    SHOW("read", DBCN, 1, 3, (long)buffer, 0);
    SHOW("read rest", DBCN, 1, 16, (long)buffer + 3, 0);
    printf("got %s\n", buffer);
    SHOW("read none", DBCN, 1, 16, (long)buffer, 0);
    SHOW("dbcn 3", DBCN, 3, 0, 0, 0);
    SHOW("reset type 3", SRST, 0, 3, 0, 0);
    SHOW("reset reason 2", SRST, 0, 0, 2, 0);
    SHOW("reset -1", SRST, 0, -1, 0, 0);
    SHOW("srst 1", SRST, 1, 0, 0, 0);
    SHOW("putchar", 1, 0, 'P', 77, 0);
    SHOW("getchar", 2, 0, 0, 77, 0);
    SHOW("legacy ipi", 4, 0, 0, 77, 0);
    LAST;
    return 9;
}
"""

# (error, value): SBI 2.0 chapters 3, 4, 5, 10, 12.
RESULTS = {
    "version": (0, 2 << 24),
    "probe base": (0, 1),
    "probe dbcn": (0, 1),
    "probe srst": (0, 1),
    "probe legacy putchar": (0, 1),
    "probe hsm": (0, 1),
    "probe kernel": (0, 0),
    "mvendorid": (0, 0),
    "marchid": (0, 0),
    "mimpid": (0, 0),
    "base 7": (-2, 0),
    "base -1": (-2, 0),
    "write": (0, 8),
    "write nothing": (0, 0),
    "write null": (-3, 0),
    "write uart": (-3, 0),
    "write high": (-3, 0),
    "write past ram": (-3, 0),
    "write at the end": (0, 0),
    "write -1": (-3, 0),
    "write absurd": (-3, 0),
    "write byte": (0, 0),
    "read null": (-3, 0),
    "read": (0, 3),
    "read rest": (0, 2),
    "read none": (0, 0),
    "dbcn 3": (-2, 0),
    "reset type 3": (-3, 0),
    "reset reason 2": (-3, 0),
    "reset -1": (-3, 0),
    "srst 1": (-2, 0),
}
RAM_SIZE = 16 << 20


def boot(elf: Elf, access: str = "auto") -> tuple[Outcome, str]:
    console = bytearray()
    options = options_of(
        Found(elf.name, Path(elf.path)),
        elf,
        machine_for(elf, None),
        RAM_SIZE,
        HartOptions(access),
        console.extend,
    )
    booted = prepare(options)
    with closing(booted.board) as board:
        assert board.uart.receive(b"hello") == 5
        session = Session(booted, SessionOptions(reboot=False, with_input=False))
        return session.run(elf.name), console.decode()


def calls(last: str) -> Elf:
    text = CALLS.replace("RAM_SIZE", f"{RAM_SIZE:#x}").replace("LAST", last)
    return load(build.SUPERVISOR, text)


@pytest.mark.parametrize("access", ["inside", "public"])
def test_every_call(access: str) -> None:
    outcome, text = boot(calls("sbi_call(SRST, 0, 2, 1, 0)"), access)
    assert (outcome.machine, outcome.stop.reason, outcome.status) == (
        "firmware",
        StopReason.RESET,
        1,
    )
    assert outcome.stop.detail == "SBI system reset: warm reboot"
    lines = text.replace("Bwrite byte", "write byte").splitlines()
    found = {}
    for line in lines:
        what, _, rest = line.rpartition(": ")
        if what:
            error, value = map(int, rest.split())
            found[what] = (error, value)
    # The legacy calls return in a0 and leave a1 alone; so do extensions that are not there.
    assert found.pop("Pputchar") == (0, 77)
    assert found.pop("getchar") == (-1, 77)
    assert found.pop("legacy ipi") == (0, 77)  # no mask is every hart
    for name in ("unknown extension", "kernel call"):
        assert found.pop(name)[0] == -2
    assert found == RESULTS
    # The device tree: at the top of RAM, on a boundary of 2 MiB (guest.image.placement).
    assert lines[0] == f"hart 0 dt {0x8000_0000 + RAM_SIZE - (2 << 20)}"
    assert "written" in lines
    assert "got hello" in lines


@pytest.mark.parametrize(
    ("last", "status", "detail"),
    [
        ("sbi_call(8, 0, 0, 0, 0)", 0, "SBI shutdown"),
        ("sbi_call(SRST, 0, 0, 0, 0)", 0, "SBI system reset: shutdown"),
        ("return 0", 0, "SBI system reset: shutdown"),
        ("return 1", 1, "SBI system reset: shutdown"),
    ],
)
def test_ends(last: str, status: int, detail: str) -> None:
    outcome, _ = boot(calls(last))
    assert (outcome.stop.reason, outcome.status) == (StopReason.EXIT, status)
    assert outcome.stop.detail == detail


@pytest.mark.parametrize("access", ["inside", "public"])
def test_shipped_kernels(access: str) -> None:
    outcome, text = boot(guest("sbi_hello"), access)
    assert (outcome.machine, outcome.status) == ("firmware", 0)
    assert text == "S-mode on hart 0 over SBI 2.0\n"
    outcome, text = boot(guest("uart_hello"), access)
    assert (outcome.machine, outcome.status) == ("bare", 0)
    assert text == "Hello from M-mode\n"


def test_what_s_mode_may_not_do_ends_the_run() -> None:
    # The kernel has no trap vector: an illegal instruction goes to S and finds none.
    text = 'int main(void) { __asm__ volatile("csrr a0, mstatus"); return 0; }'
    outcome, _ = boot(load(build.SUPERVISOR, text))
    assert outcome.status == 132
    assert outcome.stop.trap is not None and outcome.stop.trap.cause == 2
    assert "no trap handler" in outcome.notes[0]
    assert "csrr a0, mstatus" in outcome.explanation
