"""What firmware is told at reset, against QEMU's and OpenSBI's own numbers."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import CODE, Bench

from emu.spec import words
from emu.stop import StopReason
from firmware import images
from firmware.fw_dynamic import fw_dynamic_info

batch = Batch()
WAIT = batch("wfi")
TREE = 0x8220_0000

# struct fw_dynamic_info for a kernel at 0x80200000, by hand from the header's offsets.
INFO = bytes.fromhex(
    "4f53424900000000"  # magic: "OSBI"
    "0200000000000000"  # version
    "0000208000000000"  # next_addr
    "0100000000000000"  # next_mode: S
    "0000000000000000"  # options
    "0000000000000000"  # boot_hart
)


def test_info() -> None:
    assert fw_dynamic_info(0x8020_0000) == INFO
    other = fw_dynamic_info(0x1_2345_6789_ABCD, next_mode=3, options=1, boot_hart=(1 << 64) - 1)
    assert other[:16] == INFO[:16]
    assert other[16:24].hex() == "cdab896745230100"
    assert other[24:] == b"\3" + bytes(7) + b"\1" + bytes(7) + b"\xff" * 8


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_numbers_that_do_not_fit(bad: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        fw_dynamic_info(bad)
    with pytest.raises(ValueError):
        fw_dynamic_info(0, next_mode=2)


def test_registers_at_the_entry(bench: Bench) -> None:
    code = images.reset_code()
    assert len(code) % 8 == 0  # fw_dynamic reads its words with ld
    bench.machine.set_rom(code, CODE, TREE, INFO)
    bench.load(WAIT)
    for i in range(1, 32):
        bench.w[i] = 0x5A5A
    stop = bench.machine.run()
    assert stop.reason is StopReason.WFI and bench.hart.pc == CODE + 4
    assert (bench.reg("a0"), bench.reg("a1")) == (0, TREE)
    info = bench.reg("a2")
    assert info == 0x1000 + len(code)
    assert bytes(bench.hart.uc.mem_read(info, len(INFO))) == INFO
    changed = {words.ABI_NAMES[i] for i in range(1, 32) if bench.w[i] != 0x5A5A}
    assert changed <= {"a0", "a1", "a2", "t0"}  # as QEMU's


def test_without_firmware_information(bench: Bench) -> None:
    """a2 points behind the code all the same, at what is no information."""
    bench.machine.set_rom(images.reset_code(), CODE, TREE)
    bench.load(WAIT)
    assert bench.machine.run().reason is StopReason.WFI
    assert bench.hart.uc.mem_read(bench.reg("a2"), 48) == bytes(48)
