"""Nothing is left in the temporary folder, however a process ends, at any moment.

the process that is tried ends itself at the n-th.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from emu.debug.atomic_file import replacing
from guest import build, scratch

needs_compiler = pytest.mark.skipif(not build.have_compiler(), reason="no compiler (ziglang)")

# argv: at which event (0: never), how, where to write how many there were, and the command line.
_ENDS_ITSELF = """
import os, signal, sys
at, how, told = int(sys.argv[1]), sys.argv[2], sys.argv[3]
seen = 0
def count(event, arguments):
    global seen
    if event.split(".")[0] not in ("open", "os", "subprocess", "shutil", "tempfile"):
        return
    seen += 1
    if seen == at:
        if how == "exit":
            os._exit(3)
        if how == "abort":
            os.abort()
        os.kill(os.getpid(), getattr(signal, how))
from guest import build, scratch  # what is imported leaves nothing
from guest.cli import boot, main, run
sys.addaudithook(count)
try:
    main.main(sys.argv[4:])
finally:
    at = 0
    if told:
        with open(told, "w") as file:
            file.write(str(seen))
"""
# A guest that ends at once, through the finisher.
_KERNEL = """
void _start(void);
__attribute__((naked, section(".text.start"))) void _start(void)
{
    __asm__("lui a0, 0x100; lui a1, 5; addiw a1, a1, 0x555; sw a1, (a0); 1: j 1b");
}
"""
_SCRIPT = "SECTIONS { . = 0x80200000; .text : { *(.text.start) *(.text*) } }"


def _mentioned(folder: Path) -> bool:
    """Whether a process has the folder's name in its command line."""
    name = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if name in (entry / "cmdline").read_bytes():
                    return True
            except OSError:
                pass  # it has ended meanwhile
    return False


def _left(folder: Path) -> list[str]:
    """What is in ``folder`` when the last process has ended that works in it."""
    while _mentioned(folder):
        time.sleep(0.01)
    return sorted(path.name for path in folder.iterdir())


class _Tried:
    """Runs `pagewalk` in a process that ends itself; ``temporary``: its $TMPDIR."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._told = folder / "told"
        self._environment = os.environ | {"TMPDIR": str(self.temporary)}
        self._environment["ZIG_GLOBAL_CACHE_DIR"] = str(folder / "cache")
        self._environment["ZIG_LOCAL_CACHE_DIR"] = str(folder / "cache")

    def run(self, at: int, how: str, *arguments: object) -> int:
        words = [str(at), how, str(self._told) if at == 0 else "", *map(str, arguments)]
        return subprocess.run(
            [sys.executable, "-c", _ENDS_ITSELF, *words],
            cwd=Path(__file__).parents[2],
            env=self._environment,
            capture_output=True,
        ).returncode

    def events(self, *arguments: object) -> int:
        """How many events a run has that nobody ends."""
        assert self.run(0, "", *arguments) == 0
        return int(self._told.read_text())


@pytest.fixture
def tried(tmp_path: Path) -> _Tried:
    return _Tried(tmp_path)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel"
    folder.mkdir()
    (folder / "kernel.c").write_text(_KERNEL)
    (folder / "kernel.ld").write_text(_SCRIPT)
    return folder


_HOW = ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "exit", "abort"]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("command", ["boot", "run"])
def test_a_process_that_is_ended_at_any_moment(tried: _Tried, kernel: Path, command: str) -> None:
    source = kernel if command == "boot" else tried.temporary.parent / "guest.c"
    if command == "run":
        source.write_text("int main(void) { return 0; }\n")
    count = tried.events(command, source)
    assert count > 10 and not _left(tried.temporary)
    for number, how in enumerate(_HOW):
        at = 1 + (count - 2) * number // (len(_HOW) - 1)  # from the first to the last
        assert tried.run(at, how, command, source) != 0, (at, how)
        assert _left(tried.temporary) == [], (at, how)


@pytest.mark.slow
@needs_compiler
def test_a_compiler_that_outlives_us(tried: _Tried, kernel: Path, tmp_path: Path) -> None:
    count = tried.events("boot", kernel)
    ends = {tried.run(at, "SIGKILL", "boot", kernel) for at in range(2, min(count, 40), 6)}
    assert ends == {-signal.SIGKILL}
    assert _left(tried.temporary) == []


def test_the_folder_goes_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with scratch.folder("x-") as folder:
        assert folder.is_dir() and folder.parent == tmp_path and folder.name.startswith("x-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a" / "b").mkdir(parents=True)
        assert len(scratch.holders()) == 1
    assert not folder.exists() and not scratch.holders()
    with pytest.raises(ZeroDivisionError), scratch.folder() as folder:
        raise ZeroDivisionError
    assert not folder.exists()


# A process that starts another one, tells of both, and is killed.
_DIES = """
import os, signal, subprocess, sys
from guest import scratch
with scratch.folder() as folder:
    held = scratch.holders() if sys.argv[1] == "holds" else ()
    child = subprocess.Popen(["cat"], stdin=0, stdout=subprocess.DEVNULL, pass_fds=held)
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("holds", [True, False])
def test_whoever_holds_it_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    """As a compiler does that outlives us."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", _DIES, "holds" if holds else "does not"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        folder = Path(os.fsdecode(process.stdout.read().strip()))
        assert process.wait() == -signal.SIGKILL
        if holds:
            time.sleep(0.2)  # for one that is too early
            assert folder.is_dir()
        else:
            assert _left(tmp_path) == []  # though `cat` runs on
        process.stdin.close()
    assert _left(tmp_path) == []


@needs_compiler
def test_compilers_hold_it(monkeypatch: pytest.MonkeyPatch, kernel: Path) -> None:
    run, held = subprocess.run, []

    def watch(*arguments: Any, **options: Any) -> Any:
        held.append(options["pass_fds"] == scratch.holders() != ())
        return run(*arguments, **options)

    monkeypatch.setattr("guest.build.subprocess.run", watch)
    assert build.compiled(kernel, "firmware").startswith(b"\x7fELF")
    assert held == [True, True]  # compiler, linker


def test_where_no_folder_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="No such file or directory"), scratch.folder():
        raise AssertionError
    assert not scratch.holders()


def test_a_file_that_is_not_finished_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_file_system_without_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.debug.atomic_file._nameless", lambda folder: None)
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"new"
