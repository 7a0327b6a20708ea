"""The whole board, against QEMU's: the same images, 256 MB, one hart, in turn.

QEMU is a process from its start; so are we, Python's start and imports in it, unless a row
says that it is the machine alone (`guest.boot.boot.prepare` to the same text, in a process that has
imported everything). Other people's work makes both sides slower, never faster, so the least
of several runs counts; the load is told.
"""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.guests import compile_to
from bench.measure import Failed, Ratio, Unmeasurable, least, once
from emu.stop import Stop, StopReason
from guest import build, scratch
from guest.boot.boot import BootOptions, Disk, prepare
from guest.boot.expect import Script, Step, drive
from guest.boot.progress import LOOK_EVERY, HangError, Patience, stopped_when_stuck
from guest.distro.fetch import FetchError, Guests, guests
from guest.distro.initramfs import make_initramfs, write_atomically
from guest.distro.sessions import boot_steps, session

QEMU = "qemu-system-riscv64"
RAM_SIZE = 256 << 20  # bytes
_APPEND = "console=ttyS0"
_RUNS = 4
_TICKS_PER_SECOND = 1e7
_DISK_SIZE = 4 << 20  # bytes
# OpenSBI's banner ends with what it found of the hart.
_BANNER = [Step(b"OpenSBI v"), Step(b"Boot HART MEDELEG")]


@once
def _guests() -> Guests:
    try:
        found = guests(fetch=False)
        write_atomically(found.initramfs, make_initramfs(found))
    except (FetchError, OSError) as e:
        raise Unmeasurable(f"no guests: {e}") from None
    return found


def _need_qemu() -> None:
    if shutil.which(QEMU) is None:
        raise Unmeasurable(f"{QEMU} is not installed")


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def _qemu(*more: str) -> list[str]:
    return [QEMU, "-machine", "virt", "-m", str(RAM_SIZE >> 20), "-nographic", *more]


def _ours(*more: str) -> list[str]:
    return [sys.executable, "-m", "pagewalk", "boot", *more]


def _drive(command: Sequence[str], steps: Sequence[Step]) -> list[float]:
    """Run the steps in a process; the seconds at which each was behind it."""
    script = Script(steps)
    times: list[float] = []
    drive(script, command, lambda at, when: times.append(when))
    if not script.passed:
        raise _failed(command, script)
    return times


def _failed(command: Sequence[str], script: Script) -> Failed:
    """Who stopped where; the console's last lines go to standard error."""
    who = command[0] if command[0] == QEMU else "pagewalk boot"
    first, *more = script.missing().splitlines() or ["it ended"]
    print(f"{' '.join(command)}:", first, *more, sep="\n  ", file=sys.stderr)
    return Failed(f"{who}: {first}")


@contextmanager
def _at(command: Sequence[str], steps: Sequence[Step]) -> Iterator[int]:
    """A process, by its number, that has gone through the steps; ended afterwards."""
    script = Script(steps)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        patience = Patience(child.pid)
        try:
            while not script.done:
                patience.ask()
                if not select.select([child.stdout], [], [], LOOK_EVERY)[0]:
                    continue
                output = os.read(child.stdout.fileno(), 1 << 16)
                if not output:
                    raise _failed(command, script)
                child.stdin.write(script.feed(output))
                child.stdin.flush()
            yield child.pid
        except (HangError, BrokenPipeError):
            raise _failed(command, script) from None
        finally:
            child.kill()


def _until(command: Sequence[str], steps: Sequence[Step]) -> float:
    """Seconds until the last step's text."""
    start = time.perf_counter()
    with _at(command, steps):
        return time.perf_counter() - start


def _alone(options: BootOptions, steps: Sequence[Step]) -> float:
    """Seconds from `prepare` to the last step's text, in this process."""
    script = Script(steps)
    ends, waiting = {step.wait_for[-1] for step in steps}, bytearray()

    def output(data: bytes) -> None:
        waiting.extend(data)
        # The script is no part of what is measured: it looks where a text of its may end.
        if data[-1] not in ends:
            return
        board.uart.receive(script.feed(bytes(waiting)))
        waiting.clear()
        if script.done:
            board.hart.end(Stop(StopReason.LIMIT))

    start = time.perf_counter()
    booted = prepare(replace(options, output=output))
    with closing(booted.board) as board, stopped_when_stuck(board.hart):
        board.run()
        seconds = time.perf_counter() - start
    if not script.done:
        raise _failed(["the machine alone"], script)
    return seconds


@dataclass
class _Linux:
    """Seconds, the least of the runs: to the prompt, and from there to the end of the session."""

    prompt: float
    session: float


@once
def _linux() -> tuple[dict[str, _Linux | Failed], float | Failed]:
    """Linux on each side, in turn, and the machine alone to the prompt.

    A side that fails is not run again, and takes no other with it.
    """
    _need_qemu()
    found = _guests()
    with scratch.folder() as folder:
        disk = folder / "disk"
        data = random.Random(1).randbytes(_DISK_SIZE)
        disk.write_bytes(data)
        kernel, initrd, bios = map(str, (found.kernel, found.initramfs, found.opensbi_dynamic))
        drive_option = f"file={disk},if=none,format=raw,id=d,snapshot=on"
        qemu = _qemu("-kernel", kernel, "-initrd", initrd, "-append", _APPEND, "-bios", bios)
        qemu += ["-drive", drive_option, "-device", "virtio-blk-device,drive=d"]
        qemu += ["-global", "virtio-mmio.force-legacy=false"]
        ours = _ours(kernel, "--initrd", initrd, "--append", _APPEND, "--disk", f"{disk},cow")
        sides = {"qemu": qemu, "ours": ours, "opensbi": [*ours, "--bios", bios]}
        taken: dict[str, list[_Linux]] = {name: [] for name in sides}
        alone: list[float] = []
        failed: dict[str, Failed] = {}
        to_prompt = len(boot_steps())
        steps = session(found.version, RAM_SIZE, data, write=True)
        options = BootOptions(
            found.kernel,
            initrd=found.initramfs,
            append=_APPEND,
            disks=[Disk(disk)],
            ram_size=RAM_SIZE,
        )
        for _ in range(_RUNS):
            for name, command in sides.items():
                if name in failed:
                    continue
                try:
                    times = _drive(command, steps)
                except Failed as e:
                    failed[name] = e
                    continue
                prompt = times[to_prompt - 1]
                taken[name].append(_Linux(prompt, times[-1] - prompt))
            try:
                if "alone" not in failed:
                    alone.append(_alone(options, boot_steps()))
            except Failed as e:
                failed["alone"] = e
    return {
        name: failed.get(name)
        or _Linux(min(run.prompt for run in runs), min(run.session for run in runs))
        for name, runs in taken.items()
    }, failed.get("alone") or min(alone)


def _pair(side: str) -> tuple[_Linux, _Linux]:
    """Ours and QEMU's. Raises Failed."""
    sides, _ = _linux()
    ours, other = sides[side], sides["qemu"]
    for found in (ours, other):
        if isinstance(found, Failed):
            raise found
    assert isinstance(ours, _Linux) and isinstance(other, _Linux)
    return ours, other


def linux_prompt(side: str) -> tuple[Ratio, str]:
    """Process against process; ``side``: "ours" with Python's SBI, "opensbi" with QEMU's own."""
    linux, qemu = _pair(side)
    ours, other = linux.prompt, qemu.prompt
    note = f"processes, {_load()}"
    if side == "ours":
        alone = _linux()[1]
        if isinstance(alone, Failed):
            raise alone
        note += f"; the machine alone {alone * 1e3:.0f} ms ({alone / other:.2f})"
    return Ratio(ours, other, ours / other), note


def linux_session(side: str) -> tuple[Ratio, str]:
    """From the prompt to the end of the machine."""
    linux, qemu = _pair(side)
    ours, other = linux.session, qemu.session
    return Ratio(ours, other, ours / other), _load()


def opensbi_banner() -> tuple[Ratio, str]:
    """The machine alone against QEMU's process."""
    _need_qemu()
    bios = _guests().opensbi_dynamic
    options = BootOptions(bios=bios, ram_size=RAM_SIZE)
    qemu = partial(_until, _qemu("-bios", str(bios)), _BANNER)
    return least(partial(_alone, options, _BANNER), qemu, 9), f"the machine alone, {_load()}"


def opensbi_process() -> tuple[Ratio, str]:
    """Process against process: ours is Python's start and imports, most of it."""
    _need_qemu()
    bios = str(_guests().opensbi_dynamic)
    ours = partial(_until, _ours("--bios", bios), _BANNER)
    return least(ours, partial(_until, _qemu("-bios", bios), _BANNER), 9), f"processes, {_load()}"


# what the board's own work costs


@once
def _costs() -> tuple[dict[str, float], dict[str, float] | str]:
    """Seconds of one operation, by the guest's name of it: ours, and QEMU's or why not."""
    with scratch.folder() as folder:
        guest = folder / "board_costs.elf"
        compile_to("board_costs", build.SUPERVISOR, guest)
        ours = _cost_lines(_ours(str(guest)))
        try:
            _need_qemu()
            bios = str(_guests().opensbi_dynamic)
        except Unmeasurable as e:
            return ours, str(e)
        return ours, _cost_lines(_qemu("-kernel", str(guest), "-bios", bios))


def _cost_lines(command: Sequence[str]) -> dict[str, float]:
    script = Script([Step(b"call "), *[Step(b"late ")] * 5, Step(b"\n")])
    drive(script, command)
    if not script.done:
        raise _failed(command, script)
    rounds: dict[str, list[float]] = {}
    for line in script.transcript.decode(errors="replace").splitlines():
        match = re.fullmatch(r"(call|mmio|timer|late) (\d+) (\d+)", line)
        if match is not None:
            seconds = int(match[2]) / int(match[3]) / _TICKS_PER_SECOND
            rounds.setdefault(match[1], []).append(seconds)
    return {name: sorted(found)[len(found) // 2] for name, found in rounds.items()}


def cost(name: str) -> tuple[Ratio, str] | str:
    """One operation of `guests/board_costs.c`: "call", "mmio", "timer" or "late"."""
    ours, other = _costs()
    if isinstance(other, str):
        return f"{ours[name] * 1e6:.2f} us ({other})"
    return Ratio(ours[name], other[name], ours[name] / other[name]), ""


# memory


def resident() -> tuple[int, str]:
    """Bytes that `pagewalk boot` takes at most, with Linux at its prompt, over the guest's RAM.

    VmHWM of the process, less what it has touched of the RAM's mapping.
    """
    found = _guests()
    command = _ours(str(found.kernel), "--initrd", str(found.initramfs), "--append", _APPEND)
    with _at(command, boot_steps()) as pid:
        peak, ram = _peak_resident(pid), _ram_resident(pid)
    return peak - ram, f"{peak / 1e6:.0f} MB in all, {ram / 1e6:.0f} MB of them RAM"


def _peak_resident(pid: int) -> int:
    return _kilobytes(Path(f"/proc/{pid}/status").read_text(), "VmHWM")


def _ram_resident(pid: int) -> int:
    """The mapping of the guest's RAM is known by its size."""
    maps = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.M
    )
    sizes = [_kilobytes(one, "Rss") for one in maps[1:] if _kilobytes(one, "Size") == RAM_SIZE]
    if len(sizes) != 1:
        raise RuntimeError(f"{len(sizes)} mappings are as large as the guest's RAM")
    return sizes[0]


def _kilobytes(text: str, name: str) -> int:
    """The value, in bytes, of a line of /proc that ends in kB."""
    match = re.search(rf"^{name}: *(\d+) kB$", text.replace("\t", " "), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc says nothing of {name}")
    return int(match[1]) * 1024
