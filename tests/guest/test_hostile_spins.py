"""Guests that nothing interrupts, that wait for nothing, or jump to where nothing is."""

from __future__ import annotations

import re
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from asm import Batch, assemble, symbols
from hostile_kit import (
    CLINT,
    HOLE,
    RAM,
    RAM_SIZE,
    START,
    UART,
    VIRTIO,
    Host,
)
from progress import stopped_when_stuck, wait_until

from emu.hart import HartOptions
from emu.stop import StopReason
from guest.boot.boot import BootOptions, prepare
from guest.boot.outcome import ESCAPE
from guest.boot.session import Session, SessionOptions

spin = Batch()
SPINS = {
    "jump": spin("1: j 1b"),
    "loads": spin("la t0, 1f\n1: ld t1, 0(t0)\nj 1b"),
    "amo": spin("li t0, 0x80300000\n1: amoadd.d t1, t1, (t0)\nj 1b"),
    "lr": spin("li t0, 0x80300000\n1: lr.d t1, (t0)\nj 1b"),
    "device": spin("li t0, 0x10000005\n1: lbu t1, 0(t0)\nj 1b"),
    "clock": spin("1: rdtime t1\nj 1b"),
    "fences": spin("1: fence.i\nsfence.vma\nj 1b"),
    "csr": spin("1: csrrw t1, sscratch, t1\nj 1b"),
    "ecalls": spin("1: li a7, 0x10\nli a6, 0\necall\nj 1b"),
    "bad ecalls": spin("1: li a7, -1\necall\nj 1b"),
    "traps": spin("la t0, 1f\ncsrw stvec, t0\n.balign 4\n1: unimp"),
    "ebreaks": spin("la t0, 1f\ncsrw stvec, t0\n.balign 4\n1: ebreak"),
    "holes": spin("la t0, 1f\ncsrw stvec, t0\n.balign 4\n1: li t1, 0x40000000\nld t1, 0(t1)"),
    "misaligned": spin("la t0, 1f\ncsrw stvec, t0\n.balign 4\n1: li t1, 0x80300001\nlr.d t1, (t1)"),
    "self-modifying": spin("la t0, 2f\nlw t1, 0(t0)\n1: sw t1, 0(t0)\n2: nop\nj 1b"),
    "far away": spin("1: la t0, 2f\njr t0\n.balign 4096\n.space 4096\n2: la t0, 1b\njr t0"),
    "wfi that wakes": spin(
        "li a7, 0x735049\nli a6, 0\nli a0, 1\nli a1, 0\necall\ncsrsi sie, 2\n1: wfi\nj 1b"
    ),
    "a timer that is always due": spin(
        "la t0, 3f\ncsrw stvec, t0\nli t0, 32\ncsrs sie, t0\ncsrsi sstatus, 2\n1: j 1b\n"
        ".balign 4\n3: li a7, 0x54494D45\nli a6, 0\nli a0, 0\necall\nsret"
    ),
    "a suspended hart": spin(
        "li a7, 0x48534D\nli a6, 3\nli a0, 0\nli t0, 32\ncsrs sie, t0\n"
        "mv s0, a7\n1: li a7, 0x54494D45\nli a6, 0\nrdtime a0\nli t0, 1000\nadd a0, a0, t0\necall\n"
        "li a7, 0x48534D\nli a6, 3\nli a0, 0\necall\nj 1b"
    ),
    "a wait for an hour": spin(
        "li t0, 32\ncsrs sie, t0\nli a7, 0x54494D45\nli a6, 0\n"
        "1: rdtime a0\nli t0, 36000000000\nadd a0, a0, t0\necall\nwfi\nj 1b"
    ),
}
# Options of the board.
WAYS: dict[str, dict[str, Any]] = {
    "inside": {"hart": HartOptions("inside")},
    "public": {"hart": HartOptions("public")},
    "deterministic": {"deterministic": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", SPINS)
def test_a_guest_that_spins_is_ended_at_once(what: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "spin"
    path.write_bytes(SPINS[what].code)
    booted = prepare(BootOptions(path, ram_size=RAM_SIZE, **WAYS[way]))
    asked: list[float] = []  # seconds of processor time
    with closing(booted.board):
        session = Session(booted, SessionOptions(with_input=False))

        def end() -> None:
            wait_until(lambda: booted.board.hart.running)
            time.sleep(0.03)  # it spins, or has not begun to: whichever
            asked.append(time.process_time())
            session.end(ESCAPE)

        thread = threading.Thread(target=end)
        thread.start()
        stop = session.run("spin").stop
        ended = time.process_time()
        thread.join()
    assert stop.reason is StopReason.INTERRUPTED, stop
    assert asked and ended - asked[0] < 10


WAITS = {
    "S": ("csrw sie, zero\n1: wfi\nj 1b", False),
    "M": ("csrw mie, zero\n1: wfi\nj 1b", True),
    "a suspended hart": ("li a7, 0x48534D\nli a6, 3\nli a0, 0\necall\n1: j 1b", False),
}


@pytest.mark.parametrize("more", [(), ("--deterministic",), ("--hart", "public")], ids=" ".join)
@pytest.mark.parametrize("what", WAITS)
def test_a_guest_that_waits_with_everything_off(
    host: Host, what: str, more: tuple[str, ...]
) -> None:
    text, bios = WAITS[what]
    ended = host.run(assemble(text, RAM if bios else START), *more, bios=bios)
    ended.check(124)
    assert b"waits (wfi) for an interrupt that nothing can raise" in ended.error


# jumps into nothing

NOWHERE = {
    "zero": 0,
    "hole": HOLE,
    "uart": UART,
    "clint": CLINT,
    "virtio": VIRTIO[7],
    "before RAM": RAM - 4,
    "behind RAM": RAM + RAM_SIZE,
    "over the end of RAM": RAM + RAM_SIZE - 2,
    "a high address": 1 << 56,
    "the highest": (1 << 64) - 2,
    "all ones": (1 << 64) - 1,
}
# Ends the run by the finisher, as a failure with the cause as its code.
HANDLER = """
.balign 4
handler:
    csrr t0, {x}cause
    slli t0, t0, 16
    li t1, 0x3333
    or t0, t0, t1
    li t1, 0x100000
    sw t0, 0(t1)
1:  j 1b
"""
JUMP = """
    {vector}
    la t0, target
    ld t0, 0(t0)
    jr t0
.balign 8
target: .dword 0
"""


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("access", ["inside", "public"])
@pytest.mark.parametrize("vector", ["la t0, handler\ncsrw {x}tvec, t0", "csrw {x}tvec, zero"],
                         ids=["handled", "not handled"])  # fmt: skip
def test_jumps_into_nothing(vector: str, mode: str, access: str, tmp_path: Path) -> None:
    """With a trap vector the guest is told; without one it ends, and the user is told."""
    base = RAM if mode == "m" else START
    text = (JUMP + HANDLER).format(vector=vector.format(x=mode), x=mode)
    code = bytearray(assemble(text, base))
    at = symbols(text, base)["target"] - base
    path = tmp_path / "guest"
    for name, target in NOWHERE.items():
        code[at : at + 8] = target.to_bytes(8, "little")
        path.write_bytes(code)
        kernel, bios = (None, path) if mode == "m" else (path, "python")
        booted = prepare(
            BootOptions(kernel, bios=bios, ram_size=RAM_SIZE, hart=HartOptions(access))
        )
        with closing(booted.board) as board:
            # The first half of an instruction of 4 bytes, for the jump over the end.
            board.ram.write(RAM + RAM_SIZE - 2, b"\x13\x00")
            with stopped_when_stuck(board.hart):
                stop = board.run()
        if "handler" in vector:
            assert (stop.reason, stop.code) == (StopReason.EXIT, 1), (name, stop)
        else:
            assert stop.reason is StopReason.FAULT, (name, stop)
            assert stop.trap is not None and stop.trap.cause == 1, (name, stop)
            assert stop.trap.epc == target & ~1, (name, stop)
            assert "no trap handler" in stop.detail


def test_a_jump_into_nothing_is_explained(host: Host) -> None:
    ended = host.run(assemble("csrw stvec, zero\nli t0, 0x40000000\njr t0", START))
    ended.check(139)
    assert b"no trap handler" in ended.error
    assert b"instruction access fault" in ended.error and b"0x40000000" in ended.error


# The level below, which may not execute there, jumps to the handler.
JUMP_TO_VECTOR = {
    # Sv39: all of the first 4 GiB for S, and RAM once more, from 3 GiB on, for U.
    "U to S": """
    la a0, handler
    csrw stvec, a0
    la t0, root
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    la t0, user
    li t1, 0x40000000
    add t0, t0, t1
    csrw sepc, t0
    li t1, 0x100
    csrc sstatus, t1
    sret
user:
    jr a0
.balign 4096
root:
    .dword 0xcf, 0, 0x200000cf, 0x200000df
    .zero 4096 - 32
""",
    # S has no page at all.
    "S to M": """
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la a0, handler
    csrw mtvec, a0
    la t0, root
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    csrw medeleg, zero
    csrw mepc, a0
    li t1, 0x1800
    csrc mstatus, t1
    li t1, 0x800
    csrs mstatus, t1
    mret
.balign 4096
root:
    .zero 4096
""",
}


@pytest.mark.parametrize("access", ["inside", "public"])
@pytest.mark.parametrize("levels", JUMP_TO_VECTOR)
def test_a_jump_to_the_trap_vector_is_a_trap_to_it(host: Host, levels: str, access: str) -> None:
    in_m = levels == "S to M"
    text = JUMP_TO_VECTOR[levels] + HANDLER.format(x="m" if in_m else "s")
    ended = host.run(assemble(text, RAM if in_m else START), "--hart", access, bios=in_m)
    ended.check(12)  # the cause: an instruction page fault


# Both levels' first traps are interrupts; or one was handled before, which is not to blame.
NO_HANDLER = {
    "M": "csrw mtvec, zero\nli t0, 8\ncsrs mie, t0\ncsrsi mstatus, 8\nli t0, 0x2000000\n"
    "li t1, 1\nsw t1, 0(t0)\n1: j 1b",
    "S": "csrw stvec, zero\nli t0, 32\ncsrs sie, t0\ncsrsi sstatus, 2\nli a7, 0x54494D45\n"
    "li a6, 0\nli a0, 0\necall\n1: j 1b",
}
NO_HANDLER["S, after another trap"] = (
    f"la t0, 2f\ncsrw stvec, t0\nunimp\n{NO_HANDLER['S']}\n"
    ".balign 4\n2: csrr t0, sepc\naddi t0, t0, 2\ncsrw sepc, t0\nsret"
)


@pytest.mark.parametrize("more", ["--hart inside", "--hart public", "--deterministic"])
@pytest.mark.parametrize("level", NO_HANDLER)
def test_an_interrupt_without_a_handler_is_named(host: Host, level: str, more: str) -> None:
    in_m = level == "M"
    code = assemble(NO_HANDLER[level], RAM if in_m else START)
    ended = host.run(code, *more.split(), bios=in_m)
    ended.check(139)
    assert b"no trap handler" in ended.error
    kind = b"machine software" if in_m else b"supervisor timer"
    said = rb"\npagewalk: %s interrupt in %s-mode at 0x80\w+\n" % (kind, level[:1].encode())
    assert re.search(said, ended.error), ended.error
