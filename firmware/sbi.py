"""The SBI that Python answers (RISC-V SBI specification 2.0).

`Sbi.handle` is the M level's answer to an `ecall` from S-mode: the extension in a7, the
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
# As plain integers: this is the way of every call of a kernel module.
_ECALL_FROM_S = Cause.ECALL_FROM_S.value
_PC, _A0, _A1, _A6, _A7 = W.PC, W.A0, W.A1, W.A6, W.A7

# A function reads its arguments from the hart's words and returns (error, value), or a Stop.
Function = Callable[[], "tuple[int, int] | Stop"]
# An extension is its functions by number.
Extension = dict[int, Function]


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
            EXT_BASE: {  # chapter 4
                0: lambda: (SUCCESS, _SPEC_VERSION),
                1: lambda: (SUCCESS, _IMPLEMENTATION_ID),
                2: lambda: (SUCCESS, _IMPLEMENTATION_VERSION),
                3: self._probe_extension,
                # mvendorid, marchid and mimpid: zero is "not implemented"
                **dict.fromkeys((4, 5, 6), lambda: (SUCCESS, 0)),
            },
            EXT_DBCN: {  # chapter 12
                0: self._console_write,
                1: self._console_read,
                2: self._console_write_byte,
            },
            EXT_SRST: {0: self._system_reset},  # chapter 10
        }

    def handle(self, trap: Trap) -> Stop | None:
        """The M level's handler: answers calls, and ends the run on any other trap."""
        if trap.cause != _ECALL_FROM_S or trap.interrupt:
            return Stop(StopReason.FAULT, trap=trap, detail="a trap to the firmware in Python")
        w = self._words
        w[_PC] = trap.epc + 4
        extension = self.extensions.get(w[_A7])
        if extension is None:
            return self._legacy(w[_A7])
        function = extension.get(w[_A6])
        result = function() if function is not None else (ERR_NOT_SUPPORTED, 0)
        if isinstance(result, Stop):
            return result
        error, value = result
        w[_A0] = error & _M64
        w[_A1] = value & _M64
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

    def _probe_extension(self) -> tuple[int, int]:
        extension = self._words[W.A0]
        legacy = (LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN)
        return SUCCESS, int(extension in self.extensions or extension in legacy)

    def _buffer(self) -> tuple[int, int]:
        """(PA, size) of a console call, all of it RAM. Raises RamError."""
        w = self._words
        size, pa = min(w[W.A0], _CONSOLE_SIZE_MAX), w[W.A1]
        if w[W.A2] or not self._ram.contains(pa, size):
            raise RamError(pa, size, "no buffer in RAM")
        return pa, size

    def _console_write(self) -> tuple[int, int]:
        try:
            pa, size = self._buffer()
        except RamError:
            return ERR_INVALID_PARAM, 0
        self._output(self._ram.read(pa, size))
        return SUCCESS, size

    def _console_read(self) -> tuple[int, int]:
        try:
            pa, size = self._buffer()
        except RamError:
            return ERR_INVALID_PARAM, 0
        for done in range(size):
            byte = self._read_byte()
            if byte is None:
                return SUCCESS, done
            self._ram.write8(pa + done, byte)
        return SUCCESS, size

    def _console_write_byte(self) -> tuple[int, int]:
        self._output(bytes((self._words[W.A0] & 0xFF,)))
        return SUCCESS, 0

    def _system_reset(self) -> tuple[int, int] | Stop:
        """Every kind of reset ends the run."""
        w = self._words
        kind, reason = w[W.A0] & 0xFFFFFFFF, w[W.A1] & 0xFFFFFFFF
        if kind > 2 or reason > 1:
            return ERR_INVALID_PARAM, 0
        name = ("shutdown", "cold reboot", "warm reboot")[kind]
        return Stop(StopReason.EXIT, int(reason != 0), detail=f"SBI system reset: {name}")
