"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file, open for writing, that becomes ``path`` at the end of the `with`.

    When the block raises, what was at ``path`` stays. A process that is killed leaves nothing
    behind, but between two system calls at the end, or where the file system makes no files
    without a name. It is not forced to the disk: whoever must know that a file survived a loss of
    power needs a checksum in it. Raises OSError where no file can be made, and for a ``path`` that
    is something else than a file (a device would be replaced).
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is not a regular file")
    target = target.resolve()  # through a symbolic link, not in its place
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    nameless = _nameless(target.parent)
    file = nameless or open(scratch, "wb")  # noqa: SIM115  (closed and renamed below)
    try:
        with file:
            yield file
            if nameless:
                file.flush()
                _give_name(file, scratch)
        os.replace(scratch, target)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def _give_name(file: BinaryIO, path: Path) -> None:
    path.unlink(missing_ok=True)
    # With a descriptor of a folder Python calls linkat(2), which follows the link in /proc.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=folder)
    finally:
        os.close(folder)


def _nameless(folder: Path) -> BinaryIO | None:
    """A file that nobody has to remove, None where the system has none (open(2), O_TMPFILE)."""
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "wb")
    except (OSError, AttributeError):
        return None
