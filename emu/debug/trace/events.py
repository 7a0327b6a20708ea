"""What a trace is made of: events, each of which knows its line of text and its fields.

A line of text holds no time, so that two runs of the same guest give the same lines. The
fields are those of the JSON lines: numbers that are addresses, or that hold bits, in
hexadecimal, everything else as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from emu.debug.disasm import listing
from emu.spec.csr import PRIV_NAMES
from emu.spec.trap import Trap

_ECALLS = frozenset((8, 9, 11))


def named(va: int, name: str | None) -> str:
    """``0x80000010 <walker+0x10>``."""
    return f"{va:#x} <{name}>" if name else f"{va:#x}"


@dataclass(slots=True)
class Event:
    """``time``: ns since the trace began; ``level``: the hart's privilege, 0, 1 or 3."""

    kind: ClassVar[str] = ""
    time: int
    level: int

    def text(self) -> str | None:
        """The event as one line; None: it has none."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """What the event says beside its kind, time and level; JSON's types."""
        raise NotImplementedError


@dataclass(slots=True)
class TrapEvent(Event):
    """A trap from ``level`` to ``target``; ``a7`` is what an `ecall` asks for, else None."""

    kind: ClassVar[str] = "trap"
    target: int
    xcause: int
    cause: str
    epc: int
    name: str | None  # of epc
    tval: int
    a7: int | None

    @classmethod
    def of(cls, time: int, trap: Trap, name: str | None, a7: int) -> TrapEvent:
        """From the hart's record, which it may use again."""
        xcause = trap.xcause
        return cls(
            time, trap.priv, trap.target, xcause, trap.text, trap.epc, name, trap.tval,
            a7 if xcause in _ECALLS else None,
        )  # fmt: skip

    def text(self) -> str:
        return (
            f"trap {PRIV_NAMES[self.level]}->{PRIV_NAMES[self.target]} {self.cause} "
            f"epc={named(self.epc, self.name)} tval={self.tval:#x}"
        )

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "to": PRIV_NAMES[self.target],
            "cause": self.cause,
            "xcause": hex(self.xcause),
            "epc": hex(self.epc),
            "symbol": self.name,
            "tval": hex(self.tval),
        }
        if self.a7 is not None:
            found["a7"] = hex(self.a7)
        return found


@dataclass(slots=True)
class ReturnEvent(Event):
    """The way back from a trap: `sret` or `mret` at ``pc``, or Python's handler has ended.

    Then ``pc`` is where the hart goes on. No line of text: those tell of traps only.
    """

    kind: ClassVar[str] = "return"
    target: int
    pc: int

    def text(self) -> None:
        return None

    def fields(self) -> dict[str, Any]:
        return {"to": PRIV_NAMES[self.target], "pc": hex(self.pc)}


@dataclass(slots=True)
class InsnEvent(Event):
    """The instruction at ``va`` is about to run; ``bits`` is None where it is unreadable."""

    kind: ClassVar[str] = "insn"
    va: int
    bits: int | None
    name: str | None

    def listing(self) -> str:
        """``va: bits  text  name``."""
        return f"{self.va:#x}: ?" if self.bits is None else listing(self.bits, self.va, self.name)

    def text(self) -> str:
        return f"{PRIV_NAMES[self.level]} {self.listing()}"

    def fields(self) -> dict[str, Any]:
        bits = None if self.bits is None else hex(self.bits)
        return {"pc": hex(self.va), "bits": bits, "symbol": self.name, "text": self.listing()}


@dataclass(slots=True)
class SatpEvent(Event):
    """From now on pages are looked up under ``satp``."""

    kind: ClassVar[str] = "mmu"
    satp: int

    def text(self) -> str:
        return f"mmu satp={self.satp:#x}"

    def fields(self) -> dict[str, Any]:
        return {"satp": hex(self.satp)}


@dataclass(slots=True)
class PageEvent(Event):
    """A page is used for the first time under this satp, by this access at this level.

    ``outcome``: in words; ``pa``: None when refused; ``way``: a table index for each level.
    """

    kind: ClassVar[str] = "mmu"
    access: str
    va: int
    pa: int | None
    way: str
    outcome: str

    def text(self) -> str:
        way = f"{self.way} -> " if self.way and self.pa is not None else ""
        return f"mmu {PRIV_NAMES[self.level]} {self.access} {self.va:#x}: {way}{self.outcome}"

    def fields(self) -> dict[str, Any]:
        pa = None if self.pa is None else hex(self.pa)
        return {
            "access": self.access,
            "va": hex(self.va),
            "pa": pa,
            "way": self.way,
            "outcome": self.outcome,
        }


@dataclass(slots=True)
class DeviceEvent(Event):
    """A register of ``device`` was read or written (``offset`` and ``size`` in bytes).

    ``pc``: the instruction that did it, None where it is not known; ``began``: ns since
    the trace began, None where only the end (``time``) is known.
    """

    kind: ClassVar[str] = "dev"
    device: str
    is_write: bool
    offset: int
    size: int
    value: int
    pc: int | None
    name: str | None
    began: int | None

    @property
    def verb(self) -> str:
        return "write" if self.is_write else "read"

    def text(self) -> str:
        line = (
            f"dev {PRIV_NAMES[self.level]} {self.device} {self.verb} offset={self.offset:#x} "
            f"size={self.size} value={self.value:#x}"
        )
        return line if self.pc is None else f"{line} pc={named(self.pc, self.name)}"

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "device": self.device,
            "access": self.verb,
            "offset": hex(self.offset),
            "size": self.size,
            "value": hex(self.value),
            "pc": None if self.pc is None else hex(self.pc),
            "symbol": self.name,
        }
        if self.began is not None:
            found["duration_ns"] = self.time - self.began
        return found


@dataclass(slots=True)
class NoteEvent(Event):
    """What the trace says of itself."""

    kind: ClassVar[str] = "note"
    note: str

    def text(self) -> str:
        return self.note

    def fields(self) -> dict[str, Any]:
        return {"text": self.note}
