"""What stands behind an access that faults has not happened: no flags, no interrupt, no store.

And SD, which says that FS is dirty, whichever instruction has made it so.
"""

from __future__ import annotations

import pytest
from asm import Batch
from harness import DATA, HOLE, VECTOR, Bench

from emu.debug.trace.engine_watch import InterruptWatch
from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import StopReason

batch = Batch()
FS, SD = 3 << 13, 1 << 63

# f1 / f2 is inexact, and frm and fflags are written, behind a store or load that may fault.
FLAGS = {
    "store, division": batch("sd a1, (a0)\nfdiv.d f3, f1, f2\nwfi"),
    "load, division": batch("ld a1, (a0)\nfdiv.d f3, f1, f2\nwfi"),
    "store, csr": batch("sd a1, (a0)\ncsrwi fcsr, 0x1f\nwfi"),
    "store, rounding": batch("sd a1, (a0)\nfsrmi 2\nwfi"),
}
ONE, THREE = 0x3FF0_0000_0000_0000, 0x4008_0000_0000_0000


@pytest.mark.parametrize("what", FLAGS)
def test_fcsr_behind_a_fault_is_as_it_was(inside: Bench, what: str) -> None:
    w = inside.w
    for address, happens in ((HOLE, False), (DATA, True)):
        w[words.MSTATUS] = 0xA_0000_0000 | FS
        inside.hart.access.csr(0x003, 0)
        w[words.FPR + 1], w[words.FPR + 2], w[words.FPR + 3] = ONE, THREE, 0
        assert inside.run(FLAGS[what], a0=address).reason is StopReason.WFI
        assert (w[words.MCAUSE] in (5, 7)) != happens
        assert bool(inside.hart.read_csr(0x003)) == happens
        assert bool(w[words.FPR + 3]) == (happens and "division" in what)
        w[words.MCAUSE] = 0


LOAD = batch("ld a1, (a0)\nnop\nnop\nj .")


@pytest.mark.parametrize("number", [1, 3, 5, 7, 9, 11])
def test_a_masked_interrupt_is_not_seen_at_a_fault(inside: Bench, number: int) -> None:
    """The rest of the block runs as if in U-mode, where nothing masks an interrupt to M."""
    taken: list[Trap] = []
    inside.w[words.MIE] = 0xAAA
    inside.hart.set_pending(number, True)
    inside.load(END, VECTOR)
    watch = InterruptWatch(inside.hart, taken.append)
    inside.run(LOAD, a0=HOLE)
    watch.close()
    assert taken == []
    assert inside.w[words.MCAUSE] == 5


END = batch("li t0, 0x100000\nli t1, 0x5555\nsw t1, (t0)\nj .")

DIRTY = {
    "csrw fcsr": batch("csrw fcsr, zero\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
    "csrw frm": batch("csrw frm, zero\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
    "csrw fflags": batch("csrw fflags, zero\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
    "fsrmi": batch("fsrmi 1\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
    "fadd": batch("fadd.d f1, f2, f3\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
    "fmv": batch("fmv.d.x f1, a0\ncsrr s2, mstatus\ncsrr s3, sstatus\nwfi"),
}


@pytest.mark.parametrize("what", DIRTY)
def test_sd_follows_fs(inside: Bench, what: str) -> None:
    """Section 3.1.6.6: from Initial (1) to Dirty (3)."""
    inside.w[words.MSTATUS] = 0xA_0000_0000 | 1 << 13
    assert inside.run(DIRTY[what]).reason is StopReason.WFI
    for name in ("s2", "s3"):
        assert inside.reg(name) & (FS | SD) == FS | SD
