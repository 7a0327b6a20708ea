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

    When the block raises, what was at ``path`` stays. It is not forced to the disk: whoever
    must know that a file survived a loss of power needs a checksum in it. Raises OSError where
    no file can be made, and for a ``path`` that is something else than a file (a device would
    be replaced).
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is not a regular file")
    target = target.resolve()  # through a symbolic link, not in its place
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    file = open(scratch, "wb")  # noqa: SIM115  (closed and renamed below)
    try:
        with file:
            yield file
        os.replace(scratch, target)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
