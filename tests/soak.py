"""Sessions with Linux, again and again, while others take the processors: none may hang.

    python tests/soak.py -n 200                         each way, 200 sessions
    python tests/soak.py -n 50 --bios opensbi --hart inside --clock real
    python tests/soak.py -n 20 --hogs 8

Each session is a process of `pagewalk boot linux` with a disk, driven from power-on to power-off
by the script that `bench` uses, through pipes: what is typed is raised by another thread, as
from a terminal. A session fails when a reply is wrong, when the machine ends otherwise than by
power-off, or when it hangs: nothing of it runs or writes any more (see `guest.boot.progress`). Of
one that hangs `Hart.lost_wakeup` is printed. Needs the guests of `pagewalk fetch`; not part of
`pytest`, for it takes hours. The exit status is 1 when a session failed.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from emu.hart import Hart
from guest.boot.expect import Script, drive
from guest.distro.fetch import FetchError, guests
from guest.distro.initramfs import make_initramfs, write_atomically
from guest.distro.sessions import session

RAM_SIZE = 256 << 20  # bytes
DISK_SIZE = 4 << 20  # bytes
LOOK_EVERY = 5.0  # seconds
CPU_MAX = 600.0  # seconds of processor time of one session
_HOG = "while True: pass"


def watch(hart: Hart) -> None:
    """Say what wake-up was lost, of a hart that is the same at two looks."""
    before: tuple[Any, ...] = ()
    while True:
        time.sleep(LOOK_EVERY)
        now = hart.lost_wakeup(), hart.pc, list(hart.words[:32])
        if now[0] is not None and now == before:
            print(f"\nlost wake-up: {now[0]}, at {hart.pc:#x}", flush=True)
        before = now


def child(arguments: list[str]) -> int:
    """`pagewalk` with these arguments, and somebody who watches the hart."""
    from guest.boot import session as boot_session
    from guest.cli.main import main

    begin = boot_session.Session.run

    def run(self: boot_session.Session, *arguments: Any) -> Any:
        hart = self._board.hart
        threading.Thread(target=watch, args=(hart,), daemon=True).start()
        return begin(self, *arguments)

    boot_session.Session.run = run  # type: ignore[method-assign]
    return int(main(arguments, standalone_mode=False) or 0)


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("-n", "count", default=200, show_default=True, help="Sessions each way.")
@click.option("--bios", type=click.Choice(["python", "opensbi", "all"]), default="all")
@click.option("--hart", type=click.Choice(["inside", "public", "all"]), default="all")
@click.option("--clock", type=click.Choice(["real", "deterministic", "all"]), default="all")
@click.option("--hogs", default=4, show_default=True, help="Processes that only use a processor.")
def soak(count: int, bios: str, hart: str, clock: str, hogs: int) -> None:
    try:
        found = guests(fetch=False)
    except FetchError as e:
        raise click.ClickException(str(e)) from None
    write_atomically(found.initramfs, make_initramfs(found))
    ways = list(
        itertools.product(
            ("python", "opensbi") if bios == "all" else (bios,),
            ("inside", "public") if hart == "all" else (hart,),
            ("real", "deterministic") if clock == "all" else (clock,),
        )
    )
    failed: Counter[tuple[str, ...]] = Counter()
    busy = [subprocess.Popen([sys.executable, "-c", _HOG]) for _ in range(hogs)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            disk = Path(folder) / "disk"
            data = random.Random(1).randbytes(DISK_SIZE)
            disk.write_bytes(data)
            steps = session(found.version, RAM_SIZE, data, write=True)
            for number, way in itertools.product(range(1, count + 1), ways):
                command = [sys.executable, __file__, "--child", "boot", str(found.kernel)]
                command += ["--initrd", str(found.initramfs), "--append", "console=ttyS0"]
                command += ["--disk", f"{disk},cow", "--hart", way[1]]
                command += ["--bios", str(found.opensbi_dynamic)] * (way[0] == "opensbi")
                command += ["--deterministic"] * (way[2] == "deterministic")
                script, begun = Script(steps), time.monotonic()
                status = drive(script, command, cpu_max=CPU_MAX)
                lost = b"lost wake-up" in script.transcript
                what = "passed"
                if not script.passed or status != 0 or lost:
                    failed[way] += 1
                    what = f"FAILED, status {status}\n{script.missing()}"
                    what += script.transcript[-2000:].decode(errors="replace")
                seconds = time.monotonic() - begun
                print(f"{' '.join(way)} {number}: {what} ({seconds:.1f} s)", flush=True)
    finally:
        for hog in busy:
            hog.kill()
    for way in ways:
        print(f"{' '.join(way)}: {failed[way]} of {count} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2:]))
    soak()
