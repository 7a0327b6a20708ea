"""Which machine an ELF is for: who holds which privilege level.

bare      M, S and U belong to the guest: an ELF linked into RAM, entered in M-mode
firmware  Python is the SBI firmware: an S-mode kernel, entered at its entry point
kernel    Python is firmware and kernel: U-mode programs and kernel modules
"""

from __future__ import annotations

from emu.board.memory_map import DRAM_BASE
from guest.boot.find import RUN, Found
from guest.image import elf as elf_file
from guest.image import names
from guest.image.elf import Elf, ElfError

BARE, FIRMWARE, KERNEL = MACHINES = ("bare", "firmware", "kernel")
FIRMWARE_SIZE = 2 << 20  # bytes at the start of RAM that a kernel leaves alone
_PA_MAX = 1 << 56


def machine_for(elf: Elf, asked: str | None) -> str:
    """The machine that runs ``elf``: the one asked for, or what its addresses say."""
    if asked:
        return asked
    if elf.is_position_independent:
        return KERNEL
    # A kernel's VAs may be anywhere; where it is loaded tells it from a program. ELF headers
    # often stand a page below that.
    needed = [s.pa + s.headers_size for s in elf.segments if s.headers_size < s.memory_size]
    start = min(needed, default=0)
    if not DRAM_BASE <= start < _PA_MAX:
        return KERNEL
    return FIRMWARE if start >= DRAM_BASE + FIRMWARE_SIZE else BARE


def load(found: Found, asked: str | None = None) -> Elf:
    """The ELF, checked by the rules of the machine that runs it. Raises ElfError."""
    data = elf_file.read(found.path) if found.compiled is None else found.compiled
    try:
        elf = elf_file.parse(data, found.label, physical=True)
        if machine_for(elf, asked) != KERNEL:
            return elf
        return elf_file.parse(data, found.label)  # by the rules for programs and modules
    except ElfError as e:
        raise ElfError(f"{e}{names.hides(found.name, RUN)}") from None
