"""Code that writes code, floods of output, endless typing: memory stays what was configured."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from asm import assemble
from hostile_kit import SHUTDOWN, START, Host, end_by_signal, resident
from progress import wait_until_it_waits

from guest.boot.progress import Patience, look

MIB = 1 << 20


def test_memory_is_what_was_configured(host: Host) -> None:
    """The guest touches all of its RAM, again and again."""
    text = f"""
    li t3, 3
0:  li t0, 0x80400000
    li t1, 0x81000000
1:  sd t0, 0(t0)
    addi t0, t0, 64
    bltu t0, t1, 1b
    addi t3, t3, -1
    bnez t3, 0b
    {SHUTDOWN.format(failed="zero")}
    """
    host.run_apart(assemble(text, START)).check(0)


# code that writes code

SELF_MODIFYING = """
    li s0, 0x80400000
    li s1, 0
    li s2, {rounds}
    li s4, 0
1:  andi t0, s1, 0x7ff
    slli t1, t0, 20
    li t2, 0x00000513
    or t1, t1, t2
    sw t1, 0(s0)
    li t2, 0x00008067
    sw t2, 4(s0)
    fence.i
    jalr s0
    andi t0, s1, 0x7ff
    beq a0, t0, 2f
    addi s4, s4, 1
2:  andi t0, s1, 0x1f
    slli t0, t0, 13
    li s0, 0x80400000
    add s0, s0, t0
    addi s1, s1, 1
    bne s1, s2, 1b
    {shutdown}
"""


@pytest.mark.parametrize(
    ("more", "rounds"), [("", 20_000), ("--deterministic", 20_000), ("--hart public", 2000)]
)
def test_code_that_writes_code(host: Host, more: str, rounds: int) -> None:
    """`li a0, n; ret`, written and called: n is always the one just written."""
    text = SELF_MODIFYING.format(rounds=rounds, shutdown=SHUTDOWN.format(failed="s4"))
    host.run(assemble(text, START), *more.split()).check(0)


def test_code_that_fills_all_memory(host: Host) -> None:
    """A quarter of a million blocks of code, executed: what is translated has a bound."""
    text = f"""
    li s0, 0x80400000
    li s1, 0x80500000
    li t1, 0x0040006f    # j .+4
1:  sw t1, 0(s0)
    addi s0, s0, 4
    bltu s0, s1, 1b
    li t1, 0x00008067    # ret
    sw t1, 0(s0)
    fence.i
    li s0, 0x80400000
    jalr s0
    {SHUTDOWN.format(failed="zero")}
    """
    host.run_apart(assemble(text, START)).check(0)


# floods

FLOOD = "li s0, 0x10000000\nli t0, 'x'\n1: sb t0, 0(s0)\nj 1b"
# `rounds` times the MiB at 0x80300000, by the debug console; then it ends.
FLOOD_BY_SBI = """
    li s0, {rounds}
1:  li a7, 0x4442434E
    li a6, 0
    li a0, 0x100000
    li a1, 0x80300000
    li a2, 0
    ecall
    addi s0, s0, -1
    bnez s0, 1b
    {shutdown}
"""


def flood_by_sbi(rounds: int) -> bytes:
    text = FLOOD_BY_SBI.format(rounds=rounds, shutdown=SHUTDOWN.format(failed="zero"))
    return assemble(text, START).ljust(0x10_0000, b"\0") + b"x" * MIB


@pytest.mark.slow
@pytest.mark.parametrize(("way", "size"), [("UART", 256 << 10), ("SBI", 16 * MIB)])
def test_a_flood_into_a_reader_that_is_slow_and_then_stands(
    host: Host, way: str, size: int
) -> None:
    code = assemble(FLOOD, START) if way == "UART" else flood_by_sbi(1 << 30)
    with host.start(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        left, before = size, 0
        while left > 0:
            data = os.read(process.stdout.fileno(), 1 << 16)
            assert data, "it has ended"
            left -= len(data)
            if before == 0 and left < size * 3 // 4:
                before = resident(process)
        assert 0 < resident(process) < before + 4 * MIB
        wait_until_it_waits(process)  # the pipe is full
        assert 0 < resident(process) < before + 4 * MIB
        end_by_signal(process)
        _, error = process.communicate()
    assert error.startswith(b"pagewalk: ended by SIGTERM at 0x8020")


def test_a_flood_that_is_taken(host: Host) -> None:
    host.run_apart(flood_by_sbi(512), is_kept=False).check(0)


@pytest.mark.slow
def test_a_flood_into_json(host: Host) -> None:
    """The object has only the end of it, some copies of which are made, and says what is lost."""
    told = json.loads(host.run_apart(flood_by_sbi(512), "--json", more=64 * MIB).out)
    assert (told["exit"], set(told["console"])) == (0, {"x"})
    assert 16 * MIB <= len(told["console"]) <= 32 * MIB
    assert len(told["console"]) + told["console_lost"] == 512 * MIB


# typing

SAYS_THAT_IT_RUNS = "li t0, '>'\nsb t0, 0(s0)\n1: j 1b"
TYPED_AT = {
    # What waits for it: the pipe, and what has been read of it.
    "does not listen": (f"li s0, 0x10000000\n{SAYS_THAT_IT_RUNS}", 0),
    # And the queue behind the UART's FIFO.
    "listens and takes nothing": (
        f"li s0, 0x10000000\nli t0, 1\nsb t0, 1(s0)\n{SAYS_THAT_IT_RUNS}", 1 << 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("who", TYPED_AT)
def test_endless_typing_into_a_guest_that_does_not_read(host: Host, who: str) -> None:
    text, queued = TYPED_AT[who]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with host.start(assemble(text, START), **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(1) == b">"
        before = resident(process)
        fd = process.stdin.fileno()
        os.set_blocking(fd, False)
        sent, patience = 0, Patience(process.pid)

        def used() -> float:
            return look([process.pid]).cpu

        last = used()
        # Until it has taken nothing while it ran on, when it has got all that it will take.
        while sent < queued + (60 << 10) or used() < last + 0.5:
            try:
                sent += os.write(fd, b"x" * 4096)
                last = used()
            except BlockingIOError:
                patience.pause()
            assert sent < queued + (100 << 10)
        assert 0 < resident(process) < before + 16 * MIB
        end_by_signal(process)
