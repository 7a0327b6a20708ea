"""The hart as the files of this folder see it, which are below it: what they are handed of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from unicorn.unicorn_py3.unicorn import Uc

from emu.engine.access import StateAccess
from emu.engine.added_csrs import AddedCsrs
from emu.ram import Ram
from emu.spec.walk import Access, Refusal, Translation


class Retired(Protocol):
    """What counts the instructions that retire, see `emu.engine.retired`."""

    @property
    def count(self) -> int: ...


class Hart(Protocol):
    """`emu.hart.Hart`, which says what each of these is."""

    ram: Ram
    uc: Uc
    words: memoryview
    callbacks: list[object]
    added_csrs: AddedCsrs
    counter_offsets: dict[int, int]
    read_time: Callable[[], int]
    read_cycles: Callable[[], int] | None
    running: bool

    @property
    def access(self) -> StateAccess: ...

    @property
    def retired(self) -> Retired | None: ...

    def walk(self, va: int, access: Access) -> Translation | Refusal | None: ...

    def fetch16(self, va: int) -> int | None: ...

    def start_again(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...
