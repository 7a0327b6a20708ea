"""Guest memory as a debugger sees it: by virtual or by physical address, without effects.

A virtual address goes through the tables that translate for the hart now. Permissions do
not bind a debugger: it reads the kernel's pages from U-mode, and writes where W=0. The
hart may still hold an older translation than the tables have (a missing sfence.vma).
"""

from __future__ import annotations

from unicorn.unicorn_py3.unicorn import UcError

from emu.board.machine import Machine
from emu.hart import Hart
from emu.spec.paging import PAGE_SIZE, mode_of_satp, satp_root
from emu.spec.walk import Access, Translation, WalkConfig, walk

# S-mode with SUM and MXR: every leaf of the tree, whatever it allows.
_DEBUGGER = WalkConfig(user=False, sum=True, mxr=True)


def translate(hart: Hart, va: int) -> int | None:
    """The PA that ``va`` has for loads of the hart as it is now, None: not mapped."""
    translated, _ = hart.walk_config(Access.READ)
    mode = mode_of_satp(hart.satp)
    if not translated or mode is None:
        return va
    result = walk(hart.ram, mode, satp_root(hart.satp), va, Access.READ, _DEBUGGER)
    return result.pa if isinstance(result, Translation) else None


class DebugMemory:
    """The memory of ``machine``, as ``hart`` translates; ``physical``: addresses are PAs, as gdb's
    `maintenance packet Qqemu.PhyMemMode:1` asks of QEMU (gdbstub.c, phy_memory_mode)."""

    def __init__(self, machine: Machine, hart: Hart) -> None:
        self._machine = machine
        self._hart = hart
        self.physical = False

    def read(self, address: int, size: int) -> bytes:
        """Up to ``size`` bytes: fewer where it becomes unreadable, none when it begins so."""
        data = bytearray()
        while len(data) < size:
            at = address + len(data)
            chunk = self._read_pa(at, min(size - len(data), PAGE_SIZE - at % PAGE_SIZE))
            if chunk is None:
                break
            data += chunk
        return bytes(data)

    def write(self, address: int, data: bytes) -> bool:
        """Store all of ``data``, or nothing: False where any of it is not RAM."""
        places = []
        offset = 0
        while offset < len(data):
            at = address + offset
            size = min(len(data) - offset, PAGE_SIZE - at % PAGE_SIZE)
            pa = self._pa(at)
            if pa is None or not self._hart.ram.contains(pa, size):
                return False
            places.append((pa, data[offset : offset + size]))
            offset += size
        for pa, chunk in places:
            self._hart.ram.write(pa, chunk)
            self._machine.code_changed(pa, len(chunk))
        return True

    def _pa(self, address: int) -> int | None:
        if address >> 64:
            return None
        return address if self.physical else translate(self._hart, address)

    def _read_pa(self, address: int, size: int) -> bytes | None:
        """``size`` bytes that lie in one page."""
        pa = self._pa(address)
        if pa is None:
            return None
        if self._hart.ram.contains(pa, size):
            return self._hart.ram.read(pa, size)
        # A device's registers change when they are read, so they are not.
        page = pa & -PAGE_SIZE
        ends = ((d.base, d.base + d.size) for d in self._machine.devices)
        if any(base < page + PAGE_SIZE and page < end for base, end in ends):
            return None
        try:
            return bytes(self._hart.uc.mem_read(pa, size))  # the ROM
        except UcError:
            return None
