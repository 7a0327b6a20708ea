"""A folder for what a compiler leaves on the way, gone however the process ends.

A process that is killed cannot clean up. So another one, a shell in a session of its own, makes
the folder, waits for the end of a pipe, and removes the folder. The pipe ends when nobody has its
other side any more: this process, and each one that it starts with `holders` (a compiler that
outlives us still writes into the folder).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# $0: the folder. `read` comes back at each line, and there is none: it fails at the end.
_KEEPER = """
trap '' HUP INT TERM
mkdir -m 700 -- "$0" || exit
echo made
while read -r line; do :; done
rm -rf -- "$0" 2> /dev/null
"""
_held: set[int] = set()


def holders() -> tuple[int, ...]:
    """Descriptors for `subprocess`'s ``pass_fds``: who has them keeps the folders that are open."""
    return tuple(_held)


@contextmanager
def folder(prefix: str = "pagewalk-") -> Iterator[Path]:
    """An empty folder in $TMPDIR. Raises OSError where none can be made."""
    # Not tempfile.gettempdir: it makes a file, to see whether it can.
    path = Path(os.environ.get("TMPDIR") or "/tmp", prefix + os.urandom(8).hex())
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, str(path)],
        env={**os.environ, "PATH": os.defpath},  # where mkdir and rm are, whatever the user's
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    held = keeper.stdin.fileno()
    _held.add(held)
    try:
        with keeper:
            assert keeper.stdout is not None and keeper.stderr is not None
            if not keeper.stdout.readline():
                why = keeper.stderr.read().decode(errors="replace").strip()
                raise OSError(None, why.rpartition(": ")[2] or "no folder can be made", str(path))
            try:
                yield path
            finally:
                _held.discard(held)
                keeper.stdin.close()
                keeper.wait()  # the folder is gone when we are through
    finally:
        _held.discard(held)
