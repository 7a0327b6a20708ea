"""Which of the two ways to the hart's state there is (see `emu.engine.access`)."""

from __future__ import annotations

import unicorn.riscv_const as rc
from unicorn.unicorn_py3.unicorn import Uc

from emu.engine.calls import EngineError
from emu.engine.direct_access import DirectAccess
from emu.engine.public_access import PublicAccess


def open_access(uc: Uc, want: str = "auto") -> DirectAccess | PublicAccess:
    """The way to the state of a fresh engine: ``want`` is "auto", "direct" or "public".

    "inside" is the older word for "direct".

    "auto" falls back to the public way; its ``missing`` then begins with the reason.
    Raises EngineError when the way asked for is not there, ValueError for another word.
    """
    if want == "inside":
        want = "direct"
    if want not in ("auto", "direct", "public"):
        raise ValueError(f"access is auto, direct or public, not {want!r}")
    uc.reg_read(rc.UC_RISCV_REG_PC)  # a new engine is set up at its first use
    if want != "public":
        try:
            return DirectAccess(uc)
        except EngineError as e:
            if want == "direct":
                raise
            access = PublicAccess(uc)
            access.missing = (f"{e}: running on the public interface", *access.missing)
            return access
    return PublicAccess(uc)
