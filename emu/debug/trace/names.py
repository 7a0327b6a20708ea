"""What can be asked of a trace, by name: its kinds, and the formats of its file."""

from __future__ import annotations

from pathlib import PurePath

KINDS = ("trap", "mmu", "insn", "dev")
FORMATS = ("text", "json", "perfetto")
_FORMAT_OF_SUFFIX = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "perfetto",  # what Chrome and the Perfetto UI call a JSON trace
    ".perfetto": "perfetto",
    ".pftrace": "perfetto",
    ".perfetto-trace": "perfetto",
}


def parse_kinds(text: str) -> tuple[str, ...]:
    """The kinds in ``trap,dev``, each once.

    Raises ValueError with the kinds that there are.
    """
    found = []
    for word in text.split(","):
        kind = word.strip()
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of the kinds of trace: {', '.join(KINDS)}")
        if kind not in found:
            found.append(kind)
    return tuple(found)


def format_of(path: str, asked: str | None = None) -> str:
    """Of `FORMATS`: the one asked for, or what the suffix says, else text.

    Raises ValueError for another word.
    """
    if asked is None:
        return _FORMAT_OF_SUFFIX.get(PurePath(path).suffix.lower(), "text")
    if asked not in FORMATS:
        raise ValueError(f"a trace's format is one of {', '.join(FORMATS)}, not {asked!r}")
    return asked
