"""Snapshots: a stopped machine as a file, and back.

A snapshot is taken of a machine that does not run, under the machine's lock. A loaded machine
and the one that was saved go on alike: to that end saving drops what the hart has cached of
page tables and code, as a stale TLB entry would be state that no file can hold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from unicorn.unicorn_py3.unicorn import UcError

from emu.board import memory_map as board
from emu.board.devices import saved
from emu.board.instruction_clock import InstructionClock
from emu.board.machine import Machine
from emu.debug.atomic_file import replacing
from emu.debug.snapshot.file import NOT_A_STATE, Reader, SnapshotError, one_line, read_pages, write
from emu.hart import HartError
from emu.hart import state as hart_state

__all__ = ["Part", "Progress", "SnapshotError", "Summary", "load", "ram_size_of", "save", "summary"]

_M64 = (1 << 64) - 1
_PROGRESS_AFTER, _PROGRESS_EVERY = 2.0, 0.5  # seconds

# Told how much is done, 0 to 1, twice a second from the second second on.
Progress = Callable[[float], None]


class Part(Protocol):
    """Something beside the devices that has state, such as an SBI in Python."""

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep: JSON's types and bytes."""

    @property
    def bytes_max(self) -> int:
        """The most bytes that the values of bytes in `state` can have together."""

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check ``state`` and change nothing, as devices do (`emu.board.devices.Device`).

        What is returned applies it; the hart and the clock are restored before.
        """


@dataclass(frozen=True, slots=True)
class Summary:
    """What a snapshot says of the machine that it fits. ``ram_size`` in bytes.

    ``levels``: the privilege levels that Python held, 3 where it was the SBI.
    ``missing``: what the machine could not keep, a line each, see `emu.hart.state.missing`.
    """

    ram_size: int
    deterministic: bool
    missing: tuple[str, ...]
    levels: tuple[int, ...] = ()


def save(
    machine: Machine,
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    parts: Mapping[str, Part] | None = None,
) -> None:
    """Write a snapshot of ``machine``, which is not running, to ``path``.

    ``parts``: what else has state, by name. An existing file is replaced when the new one
    is complete. Raises SnapshotError.
    """
    try:
        with machine.lock:
            state = _state(machine, parts or {})
            with replacing(path) as file:
                write(file, machine.ram, state, _Reporter(progress))
            for hart in machine.harts:
                hart_state.forget(hart)
    except HartError as e:
        raise SnapshotError(str(e)) from e
    except OSError as e:
        raise SnapshotError(f"{os.fspath(path)}: {e.strerror or e}") from e


def load(
    machine: Machine,
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    parts: Mapping[str, Part] | None = None,
) -> None:
    """Make ``machine``, of the same board, what the snapshot at ``path`` holds.

    Raises SnapshotError when the file is not a snapshot, is truncated or corrupt, or is of
    another machine: ``machine`` is then as it was, as all is checked before anything changes.
    It takes no more memory than the machine and what its disks have written. (Only a file that
    can be read once and not a second time, when RAM is filled from it, is found out too late.)
    """
    parts = parts or {}
    with Reader(path) as reader:
        with machine.lock:
            _check_board(machine, reader, parts)
        devices = sum(device.bytes_max for device in machine.devices)
        bytes_max = board.ROM.size + devices + sum(part.bytes_max for part in parts.values())
        state = reader.state(_Reporter(progress), bytes_max)
        with machine.lock:
            try:
                steps = _prepare(machine, state, parts)
            except (*NOT_A_STATE, HartError) as e:
                raise _does_not_fit(reader.path, e) from e
            for apply in steps:
                apply()
            read_pages(machine.ram, reader)
            for hart in machine.harts:
                hart_state.forget(hart)


def summary(path: str | os.PathLike[str]) -> Summary:
    """What the snapshot at ``path`` is of; reads its header only. Raises SnapshotError."""
    with Reader(path) as reader:
        header = reader.header
        return Summary(
            ram_size=header["ram"]["size"],
            deterministic=header["clock"].get("executed") is not None,
            missing=tuple(header["missing"]),
            levels=tuple(header["levels"]),
        )


def ram_size_of(path: str | os.PathLike[str]) -> int:
    """Bytes of RAM of the machine in the snapshot at ``path``. Raises SnapshotError."""
    return summary(path).ram_size


# The machine's state without RAM.


def _state(machine: Machine, parts: Mapping[str, Part]) -> dict[str, Any]:
    clock = machine.clock
    executed = clock.executed if isinstance(clock, InstructionClock) else None
    return {
        "ram": {"base": machine.ram.base, "size": machine.ram.size},
        "levels": _levels_in_python(machine),
        "missing": list(hart_state.missing(machine.hart)),  # one way for all harts
        "rom": _rom(machine),
        "clock": {"now": clock.now() & _M64, "executed": executed},
        "harts": [hart_state.save(hart) for hart in machine.harts],
        "devices": [
            {"name": device.name, "base": device.base, "state": device.state()}
            for device in machine.devices
        ],
        "parts": {name: part.state() for name, part in parts.items()},
    }


def _levels_in_python(machine: Machine) -> list[int]:
    return sorted(level for level, handler in machine.hart.handlers.items() if handler)


def _rom(machine: Machine) -> bytes | None:
    try:
        return bytes(machine.hart.uc.mem_read(board.ROM.base, board.ROM.size))
    except UcError:
        return None  # a machine without one


def _does_not_fit(path: str, error: Exception) -> SnapshotError:
    return SnapshotError(f"{path}: the snapshot does not fit: {one_line(error)}")


def _check_board(machine: Machine, reader: Reader, parts: Mapping[str, Part]) -> None:
    """Raise SnapshotError when the header is not of a machine like this one."""
    header, ram = reader.header, machine.ram
    try:
        base, size = header["ram"]["base"], header["ram"]["size"]
        if (base, size) != (ram.base, ram.size):
            raise ValueError(
                f"it holds {size} bytes of RAM at {base:#x}, the machine has {ram.size} at "
                f"{ram.base:#x}"
            )
        levels = _levels_in_python(machine)
        if header["levels"] != levels:
            raise ValueError(
                f"Python held the levels {header['levels']} of that machine, {levels} of this"
            )
        devices = {(d.name, d.base) for d in machine.devices}
        # A board of before may not have had them, and there is nothing that they miss.
        stateless = {(d.name, d.base) for d in machine.devices if not d.state()}
        for entry in header["devices"]:
            saved.fields(entry, "name", "base", "state")
        have = [
            (saved.text(d, "name", 100), saved.number(d, "base", 64)) for d in header["devices"]
        ]
        for name, base in sorted(set(have) - devices):
            raise ValueError(f"the machine has no device {name} at {base:#x}")
        for name, base in sorted(devices - stateless - set(have)):
            raise ValueError(f"it knows nothing of the device {name} at {base:#x}")
        if len(have) != len(set(have)):
            raise ValueError("it holds a device twice")
        if header["parts"].keys() != parts.keys():
            raise ValueError(f"it holds the parts {sorted(header['parts'])}, not {sorted(parts)}")
    except NOT_A_STATE as e:
        raise _does_not_fit(reader.path, e) from e


def _prepare(
    machine: Machine, state: dict[str, Any], parts: Mapping[str, Part]
) -> list[Callable[[], None]]:
    """Check all of ``state`` and change nothing; what makes the machine so, in this order.

    Raises one of NOT_A_STATE, or HartError. The order matters: the ROM resets the harts, a
    hart's counters follow the clock, and a device's alarm may ring at once and then belongs on
    top of what the hart had pending.
    """
    steps = [_prepare_rom(machine, state["rom"]), _prepare_clock(machine, state["clock"])]
    if len(state["harts"]) != len(machine.harts):
        have, its = len(machine.harts), len(state["harts"])
        raise ValueError(f"it is of {its} harts, the machine has {have}")
    for hart, its_state in zip(machine.harts, state["harts"], strict=True):
        steps.append(hart_state.prepare(hart, its_state))
    devices = {(d.name, d.base): d for d in machine.devices}
    for entry in state["devices"]:
        steps.append(devices[entry["name"], entry["base"]].prepare(entry["state"]))
    for name, part in parts.items():
        steps.append(part.prepare(state["parts"][name]))
    return steps


def _prepare_rom(machine: Machine, rom: Any) -> Callable[[], None]:
    now = _rom(machine)
    if rom == now:
        return lambda: None
    if rom is None:
        raise ValueError("it has no ROM, and the machine has one")
    if not isinstance(rom, bytes) or len(rom) != board.ROM.size:
        raise ValueError(f"its ROM is not {board.ROM.size} bytes")
    entry, device_tree = (int.from_bytes(part, "little") for part in (rom[-16:-8], rom[-8:]))
    return lambda: machine.set_rom(rom, entry, device_tree)


def _prepare_clock(machine: Machine, state: dict[str, Any]) -> Callable[[], None]:
    saved.fields(state, "now", "executed")
    clock, now, executed = machine.clock, saved.number(state, "now", 64), None
    if state["executed"] is not None:
        executed = saved.number(state, "executed", 63)  # bytes of code: room to go on counting

    def apply() -> None:
        if isinstance(clock, InstructionClock) and executed is not None:
            clock.executed = executed
        clock.set_now(now)

    return apply


class _Reporter:
    """Tells ``progress`` now and then."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._next = time.monotonic() + _PROGRESS_AFTER

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_EVERY
            self._progress(done / total)
