"""The SBI that Python answers (RISC-V SBI specification 2.0).

`Sbi.call` is the M level's answer to an `ecall` from S-mode: the extension in a7, the
function in a6, arguments from a0 on; a0 returns the error, a1 the value. Present: Base,
Debug Console, System Reset, and the legacy console and shutdown. A kernel that is written
in Python registers its own calls as one more extension.
"""

from __future__ import annotations

from collections.abc import Callable

from emu import words as W
from emu.hart import Hart
from emu.ram import Ram, RamError
from emu.stop import Stop, StopReason
from emu.trap import Cause, Trap

SUCCESS, ERR_FAILED, ERR_NOT_SUPPORTED, ERR_INVALID_PARAM = 0, -1, -2, -3
ERR_INVALID_ADDRESS = -5

_SPEC_VERSION = 2 << 24  # major in bits 30-24
_IMPLEMENTATION_ID = 0x706167  # not registered: none of the known implementations
_IMPLEMENTATION_VERSION = 1

EXT_BASE = 0x10
EXT_DBCN = 0x4442434E
EXT_SRST = 0x53525354
LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN = 1, 2, 8
_CONSOLE_SIZE_MAX = 1 << 20  # bytes printed by one call

_M64 = (1 << 64) - 1

# An extension: given the function number, it reads its arguments from the hart's words and
# returns (error, value), or a Stop.
Extension = Callable[[int], "tuple[int, int] | Stop"]


class Sbi:
    """The SBI of one hart; ``output`` takes console bytes, ``read_byte`` gives one or None."""

    def __init__(
        self,
        hart: Hart,
        ram: Ram,
        output: Callable[[bytes], None],
        read_byte: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._words = hart.words
        self._ram = ram
        self._output = output
        self._read_byte = read_byte
        self.extensions: dict[int, Extension] = {
            EXT_BASE: self._base,
            EXT_DBCN: self._debug_console,
            EXT_SRST: self._system_reset,
        }

    def handle(self, trap: Trap) -> Stop | None:
        """The M level's handler: answers calls, and ends the run on any other trap."""
        if trap.cause != Cause.ECALL_FROM_S or trap.interrupt:
            return Stop(StopReason.FAULT, trap=trap, detail="a trap to the firmware in Python")
        return self.call(trap)

    def call(self, trap: Trap) -> Stop | None:
        """Answer one `ecall` from S-mode."""
        w = self._words
        w[W.PC] = trap.epc + 4
        number = w[W.A7]
        extension = self.extensions.get(number)
        if extension is None:
            return self._legacy(number)
        result = extension(w[W.A6])
        if isinstance(result, Stop):
            return result
        w[W.A0] = result[0] & _M64
        w[W.A1] = result[1] & _M64
        return None

    def _legacy(self, number: int) -> Stop | None:
        """Extensions 0 to 8 (chapter 5): the result in a0, a1 unchanged."""
        w = self._words
        if number == LEGACY_PUTCHAR:
            self._output(bytes((w[W.A0] & 0xFF,)))
            w[W.A0] = 0
        elif number == LEGACY_GETCHAR:
            byte = self._read_byte()
            w[W.A0] = _M64 if byte is None else byte
        elif number == LEGACY_SHUTDOWN:
            return Stop(StopReason.EXIT, 0, detail="SBI shutdown")
        else:
            w[W.A0] = ERR_NOT_SUPPORTED & _M64
        return None

    def _base(self, function: int) -> tuple[int, int]:
        """Chapter 4."""
        argument = self._words[W.A0]
        values = {
            0: _SPEC_VERSION,
            1: _IMPLEMENTATION_ID,
            2: _IMPLEMENTATION_VERSION,
            3: int(self._is_there(argument)),
            4: 0,  # mvendorid, marchid and mimpid: zero is "not implemented"
            5: 0,
            6: 0,
        }
        return (SUCCESS, values[function]) if function in values else (ERR_NOT_SUPPORTED, 0)

    def _is_there(self, extension: int) -> bool:
        legacy = (LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN)
        return extension in self.extensions or extension in legacy

    def _debug_console(self, function: int) -> tuple[int, int]:
        """Chapter 12. Addresses are physical."""
        w = self._words
        if function == 2:
            self._output(bytes((w[W.A0] & 0xFF,)))
            return SUCCESS, 0
        if function not in (0, 1):
            return ERR_NOT_SUPPORTED, 0
        size, pa = min(w[W.A0], _CONSOLE_SIZE_MAX), w[W.A1]
        try:
            if w[W.A2]:
                raise RamError(pa, size, "the upper half of the address is not zero")
            if function == 0:
                self._output(self._ram.read(pa, size))
                return SUCCESS, size
            return SUCCESS, self._read_console(pa, size)
        except RamError:
            return ERR_INVALID_PARAM, 0

    def _read_console(self, pa: int, size: int) -> int:
        self._ram.read(pa, size)  # all of the buffer is checked before a byte is taken
        for done in range(size):
            byte = self._read_byte()
            if byte is None:
                return done
            self._ram.write8(pa + done, byte)
        return size

    def _system_reset(self, function: int) -> tuple[int, int] | Stop:
        """Chapter 10: every kind of reset ends the run."""
        w = self._words
        if function != 0:
            return ERR_NOT_SUPPORTED, 0
        kind, reason = w[W.A0] & 0xFFFFFFFF, w[W.A1] & 0xFFFFFFFF
        if kind > 2 or reason > 1:
            return ERR_INVALID_PARAM, 0
        name = ("shutdown", "cold reboot", "warm reboot")[kind]
        code = 0 if reason == 0 else 1
        return Stop(StopReason.EXIT, code, detail=f"SBI system reset: {name}")
