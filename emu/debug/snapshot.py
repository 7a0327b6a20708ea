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

from emu import board, hart_state
from emu.debug.atomic_file import replacing
from emu.debug.snapshot_file import NOT_A_STATE, Reader, SnapshotError, read_pages, write
from emu.hart import HartError
from emu.instruction_clock import InstructionClock
from emu.machine import Machine

__all__ = ["Part", "Progress", "SnapshotError", "Summary", "load", "ram_size_of", "save", "summary"]

_PROGRESS_AFTER, _PROGRESS_EVERY = 2.0, 0.5  # seconds

# Told how much is done, 0 to 1, twice a second from the second second on.
Progress = Callable[[float], None]


class Part(Protocol):
    """Something beside the devices that has state, such as an SBI in Python."""

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep: JSON's types and bytes."""

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` described; the hart and the clock are restored before."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a snapshot says of the machine that it fits. ``ram_size`` in bytes.

    ``levels``: the privilege levels that Python held, 3 where it was the SBI.
    ``missing``: what the machine could not keep, a line each, see `emu.hart_state.missing`.
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
            machine.hart.access.flush_tlb()
            machine.hart.access.flush_code()
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
    another machine: ``machine`` is then as it was. (Only a file whose checksums are right
    and whose pages are still nonsense is found out too late.)
    """
    parts = parts or {}
    with Reader(path) as reader:
        state = reader.state(_Reporter(progress))
        with machine.lock:
            _check(machine, state, parts)
            before = _state(machine, parts)
            try:
                _restore(machine, state, parts)
            except NOT_A_STATE as e:
                _restore(machine, before, parts)
                raise SnapshotError(f"{os.fspath(path)}: {_text(e)}") from e
            read_pages(machine.ram, reader)
            machine.hart.access.flush_tlb()
            machine.hart.access.flush_code()


def summary(path: str | os.PathLike[str]) -> Summary:
    """What the snapshot at ``path`` is of; reads its header only. Raises SnapshotError."""
    with Reader(path) as reader:
        header = reader.header
        clock, missing, levels = header["clock"], header["missing"], header["levels"]
        if not (isinstance(clock, dict) and isinstance(missing, list) and isinstance(levels, list)):
            raise SnapshotError(f"{reader.path}: its header is not a snapshot's")
        deterministic = clock.get("executed") is not None
        size = header["ram"]["size"]
        return Summary(size, deterministic, tuple(map(str, missing)), tuple(levels))


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
        "missing": list(hart_state.missing(machine.hart)),
        "rom": _rom(machine),
        "clock": {"now": clock.now(), "executed": executed},
        "hart": hart_state.save(machine.hart),
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


def _check(machine: Machine, state: dict[str, Any], parts: Mapping[str, Part]) -> None:
    """Raise SnapshotError when ``state`` is not of a machine like this one."""
    try:
        ram = machine.ram
        if state["ram"] != {"base": ram.base, "size": ram.size}:
            base, size = state["ram"]["base"], state["ram"]["size"]
            raise ValueError(
                f"it holds {size} bytes of RAM at {base:#x}, the machine has {ram.size} at "
                f"{ram.base:#x}"
            )
        levels = _levels_in_python(machine)
        if state["levels"] != levels:
            raise ValueError(
                f"Python held the levels {state['levels']} of that machine, {levels} of this"
            )
        devices = {(d.name, d.base): d for d in machine.devices}
        saved = {(d["name"], d["base"]) for d in state["devices"]}
        for name, base in sorted(saved - set(devices)):
            raise ValueError(f"the machine has no device {name} at {base:#x}")
        for name, base in sorted(set(devices) - saved):
            raise ValueError(f"it knows nothing of the device {name} at {base:#x}")
        if set(state["parts"]) != set(parts):
            raise ValueError(f"it holds the parts {sorted(state['parts'])}, not {sorted(parts)}")
        rom = state["rom"]
        if rom is not None and (not isinstance(rom, bytes) or len(rom) != board.ROM.size):
            raise ValueError(f"its ROM is not {board.ROM.size} bytes")
        hart_state.check(machine.hart, state["hart"])
    except (*NOT_A_STATE, HartError) as e:
        raise SnapshotError(f"the snapshot does not fit: {_text(e)}") from e


def _restore(machine: Machine, state: dict[str, Any], parts: Mapping[str, Part]) -> None:
    """The order matters: the ROM resets the hart, the hart's counters follow the clock, and
    a device's alarm may ring at once and then belongs on top of what the hart had pending."""
    rom = state["rom"]
    if rom is not None and rom != _rom(machine):
        entry, device_tree = (int.from_bytes(part, "little") for part in (rom[-16:-8], rom[-8:]))
        machine.set_rom(rom, entry, device_tree)
    clock = machine.clock
    executed = state["clock"]["executed"]
    if isinstance(clock, InstructionClock) and executed is not None:
        clock.executed = _u64(executed)
    clock.set_now(_u64(state["clock"]["now"]))
    hart_state.load(machine.hart, state["hart"])
    devices = {(d.name, d.base): d for d in machine.devices}
    for entry in state["devices"]:
        devices[entry["name"], entry["base"]].restore(entry["state"])
    for name, part in parts.items():
        part.restore(state["parts"][name])


def _u64(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"saved clock: {value!r} is no 64-bit number")
    return value


def _text(error: Exception) -> str:
    """An exception's text, in one line; a KeyError's alone would be a bare word."""
    if isinstance(error, KeyError):
        return f"there is no {error} in it"
    return str(error).replace("\n", " ") or type(error).__name__


class _Reporter:
    """Tells ``progress`` now and then."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._next = time.monotonic() + _PROGRESS_AFTER

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_EVERY
            self._progress(done / total)
