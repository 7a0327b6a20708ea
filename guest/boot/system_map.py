"""Names of addresses that the user has in a file: a System.map, nm(1)'s output, kallsyms."""

from __future__ import annotations

import io
from pathlib import Path

from guest.boot.outcome import UsageError
from guest.image import user_file

# A System.map of Debian's has 6 MiB and 170,000 lines; each line costs some 200 bytes here.
_SYSTEM_MAP_SIZE_MAX, _SYMBOLS_MAX, _NAME_SIZE_MAX = 64 << 20, 1 << 20, 4096


def read_system_map(path: Path, kinds: str = "tTwW") -> list[tuple[int, int, str]]:
    """The symbols of a System.map, `nm` output or /proc/kallsyms: ``(va, 0, name)``.

    ``kinds``: the letters of nm(1) that are taken, by default those of text.
    Raises UsageError for a file that is none of these, UserFileError for one that cannot be
    read.
    """
    found = []
    for number, line in enumerate(io.BytesIO(user_file.read(path, _SYSTEM_MAP_SIZE_MAX)), 1):
        if number > _SYMBOLS_MAX:
            raise UsageError(f"{path}: more than {_SYMBOLS_MAX} lines of symbols")
        words = line.split(maxsplit=3)
        if not words:
            continue
        try:
            va, kind, name = int(words[0], 16), words[1].decode(), words[2].decode()
            if not 0 <= va < 1 << 64 or len(name) > _NAME_SIZE_MAX:
                raise ValueError
        except (ValueError, IndexError):
            text = line[:60].decode(errors="replace")
            raise UsageError(
                f"{path}:{number}: not a line of symbols (address, type, name): {text!r}"
            ) from None
        if kind in kinds:
            found.append((va, 0, name))
    return found
