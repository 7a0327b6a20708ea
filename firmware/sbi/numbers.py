"""The SBI's numbers (RISC-V SBI specification 2.0), and what a function and an extension are."""

from __future__ import annotations

from collections.abc import Callable

from emu.stop import Stop

# Errors (chapter 3).
SUCCESS = 0
ERR_FAILED = -1
ERR_NOT_SUPPORTED = -2
ERR_INVALID_PARAM = -3
ERR_DENIED = -4
ERR_INVALID_ADDRESS = -5
ERR_ALREADY_AVAILABLE = -6

# Extensions, with their chapters.
EXT_BASE = 0x10  # 4
EXT_TIME = 0x54494D45  # 6
EXT_IPI = 0x735049  # 7
EXT_RFENCE = 0x52464E43  # 8
EXT_HSM = 0x48534D  # 9
EXT_SRST = 0x53525354  # 10
EXT_PMU = 0x504D55  # 11, not offered: the hart counts no events
EXT_DBCN = 0x4442434E  # 12

# A function reads its arguments from the hart's words. It returns (error, value), or a Stop
# that ends the run, or None: it has set every register that changes itself.
Function = Callable[[], "tuple[int, int] | Stop | None"]
# An extension is its functions by number.
Extension = dict[int, Function]
