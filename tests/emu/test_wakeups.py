"""No wake-up is lost: timer, wfi, device interrupt, IPI and stops, raised by other threads.

The guest goes round and round: each round it arms one thing that will interrupt it, and goes on
only when its handler has seen it. One that is lost ends the test, with what `lost_wakeup` says
of it. Beside that M-mode does all the time what firmware does: it sets and clears STIP.
"""

from __future__ import annotations

import faulthandler
import random
import threading
from contextlib import closing

import pytest
from asm import Batch
from progress import wait_until

from emu.board.machine import Machine
from emu.board.virt import VirtBoard
from emu.spec import words
from emu.spec.csr import IRQ_MEI
from emu.stop import Stop, StopReason

batch = Batch()
BELL = 0x1100_0000
ROUNDS, SLOW_ROUNDS = 20_000, 1_000_000

# s1: rounds done; s2: rounds wanted; s3: set by the handler. The round's number chooses:
#   0  the bell, waited for in wfi             2  the timer, 30 ticks ahead, in wfi
#   1  the bell, in a loop that writes mip     3  an IPI to itself, in wfi
GUEST = batch(
    """
    la   t0, wake_trap
    csrw mtvec, t0
    li   t0, 0x888
    csrw mie, t0
    li   s4, 0x11000000         # the bell
    li   s5, 0x2000000          # the CLINT
    li   s6, 0x2004000          # mtimecmp
    li   s7, 0x200bff8          # mtime
    li   s8, 32
    csrsi mstatus, 8
    wake_round:
    beq  s1, s2, wake_done
    li   s3, 0
    andi t0, s1, 3
    li   t1, 1
    beq  t0, t1, wake_spin
    li   t1, 2
    beq  t0, t1, wake_timer
    li   t1, 3
    beq  t0, t1, wake_ipi
    sw   s1, 0(s4)
    wake_wait:
    csrci mstatus, 8            # as kernels wait: look, then wfi, with interrupts off
    bnez s3, wake_next
    wfi
    csrsi mstatus, 8
    j    wake_wait
    wake_spin:
    sw   s1, 0(s4)
    1: csrs mip, s8
    csrc mip, s8
    beqz s3, 1b
    j    wake_next
    wake_timer:
    ld   t0, 0(s7)
    addi t0, t0, 30
    sd   t0, 0(s6)
    j    wake_wait
    wake_ipi:
    li   t0, 1
    sw   t0, 0(s5)
    j    wake_wait
    wake_next:
    csrsi mstatus, 8
    addi s1, s1, 1
    j    wake_round
    wake_done:
    li   t0, 0x100000
    li   t1, 0x5555
    sw   t1, 0(t0)
    j    .
    .balign 4
    wake_trap:
    csrr s9, mcause
    andi s9, s9, 15
    li   s10, 7
    beq  s9, s10, wake_tick
    li   s10, 3
    beq  s9, s10, wake_called
    sw   zero, 4(s4)            # the bell is answered
    j    wake_back
    wake_tick:
    li   s10, -1
    sd   s10, 0(s6)
    j    wake_back
    wake_called:
    sw   zero, 0(s5)
    wake_back:
    li   s3, 1
    mret
    """
)


class Bell:
    """A device whose line another thread raises, some time after the guest has asked for it."""

    name, base, size = "bell", BELL, 8
    outside: tuple[str, ...] = ()

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._asked = threading.Semaphore(0)
        self._over = False
        self._thread = threading.Thread(target=self._ring, daemon=True)
        self.lowered = 0  # rings that the guest has not answered, and that were gone
        self._thread.start()

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self._asked.release()
            return
        if not self._machine.hart.pending >> IRQ_MEI & 1:
            self.lowered += 1
        self._machine.hart.set_pending(IRQ_MEI, False)

    def _ring(self) -> None:
        rng = random.Random(1)
        while self._asked.acquire() and not self._over:
            for _ in range(rng.choice((0, 0, 1, 10, 100, 1000))):
                pass
            self._machine.hart.set_pending(IRQ_MEI, True)

    def state(self) -> dict[str, int]:
        return {}

    def restore(self, state: dict[str, int]) -> None:
        pass

    def close(self) -> None:
        self._over = True
        self._asked.release()
        self._thread.join()


class Stopper:
    """Stops the run again and again, as Ctrl-A and a debugger do."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rng = random.Random(2)
        while not self._over.wait(rng.random() * 0.002):
            self._machine.hart.stop()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def rounds(access: str, deterministic: bool, count: int) -> None:
    board = VirtBoard(16 << 20, lambda data: None, deterministic=deterministic, access=access)
    bell, stops, ended = Bell(board), 0, threading.Event()
    board.has_input = True  # the bell comes from outside
    board.attach(bell)
    board.ram.write(board.ram.base, GUEST.code)
    board.hart.reset(board.ram.base)
    w = board.hart.words
    w[words.GPR + 9], w[words.GPR + 18] = 0, count  # s1, s2
    found: list[Stop | BaseException] = []

    def run() -> None:
        nonlocal stops
        try:
            while (stop := board.run()).reason is StopReason.INTERRUPTED:
                stops += 1
            found.append(stop)
        except BaseException as e:
            found.append(e)
        finally:
            ended.set()

    with closing(board), closing(bell):
        stopper = Stopper(board)
        runner = threading.Thread(target=run, daemon=True)
        runner.start()
        before, same = (-1, -1), 0

        def is_over() -> bool:
            """Also where nothing has gone on for many looks, and somebody is to blame for it."""
            nonlocal before, same
            now = w[words.GPR + 9] if board.hart.access.in_place else 0, stops
            same = same + 1 if now == before else 0
            before = now
            lost = board.hart.lost_wakeup() if same > 1000 else None
            if lost:
                faulthandler.dump_traceback()
            assert not lost, f"round {now[0]}, after {stops} stops: {lost}"
            return ended.is_set()

        try:
            wait_until(is_over)
        finally:
            stopper.close()
        assert isinstance(found[0], Stop), found[0]
        assert (found[0].reason, w[words.GPR + 9]) == (StopReason.EXIT, count)
        assert bell.lowered == 0
        assert stops > 0


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("access", ["inside", "public"])
def test_no_wakeup_is_lost(access: str, deterministic: bool) -> None:
    rounds(access, deterministic, ROUNDS if access == "inside" else ROUNDS // 10)


@pytest.mark.slow
def test_no_wakeup_is_lost_in_a_million_rounds() -> None:
    rounds("inside", False, SLOW_ROUNDS)
