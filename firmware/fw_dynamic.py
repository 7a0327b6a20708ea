"""What the board tells firmware at reset, as QEMU does it (hw/riscv/boot.c).

The hart starts in ROM (`firmware/reset.S`) and goes to the firmware with a0 = mhartid, a1 =
the device tree and a2 = a `struct fw_dynamic_info` (OpenSBI: include/sbi/fw_dynamic.h) that
stands behind the reset code and says where the next stage is. Firmware of other kinds
ignores a2. `Machine.set_rom` puts it all there.
"""

from __future__ import annotations

import struct

from emu.spec.csr import Priv

_MAGIC = 0x4942_534F  # "OSBI"
_VERSION = 2  # the one with boot_hart


def fw_dynamic_info(
    next_addr: int, next_mode: int = Priv.S.value, options: int = 0, boot_hart: int = 0
) -> bytes:
    """The structure, 48 bytes: the next stage is at ``next_addr`` (PA) in ``next_mode``.

    ``options`` bit 0: print nothing. ``boot_hart``: the hart id that boots, all ones for
    whichever comes first. Raises ValueError for a mode other than U, S and M, or a number
    that does not fit in 64 bits.
    """
    values = (_MAGIC, _VERSION, next_addr, Priv(next_mode).value, options, boot_hart)
    try:
        return struct.pack("<6Q", *values)
    except struct.error:
        raise ValueError(f"not all of 64 bits: {', '.join(map(hex, values))}") from None
