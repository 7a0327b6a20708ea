"""Reading text by the C format string that is said to have printed it.

``scan(fmt, line)`` takes the values out of a line and prints them again by the same format;
only when that gives the very same bytes is the line taken to be of that format.
"""

from __future__ import annotations

import re

_CONVERSION = re.compile(
    r"%(?P<flags>[-0#]*)(?P<width>\d*)(?:\.(?P<prec>\d+))?(?:ll|l)?(?P<type>[duixsc])"
)


def _pattern(fmt: str) -> tuple[str, list[str], str]:
    """(regular expression, types, the format in Python's dialect)."""
    fmt = fmt.replace("%px", "%016lx")
    regex, types, python, at = "", [], "", 0
    for match in _CONVERSION.finditer(fmt):
        regex += re.escape(fmt[at : match.start()])
        python += fmt[at : match.start()]
        at = match.end()
        kind = match["type"]
        types.append(kind)
        if kind == "s":
            regex += r"( *\S+ *?)"
        elif kind == "x":
            regex += r"( *(?:0x)?[0-9a-f]+)"
        else:
            regex += r"( *-?\d+ *?)"
        precision = f".{match['prec']}" if match["prec"] else ""
        python += f"%{match['flags']}{match['width']}{precision}{'d' if kind in 'ui' else kind}"
    return regex + re.escape(fmt[at:]), types, python + fmt[at:]


def scan(fmt: str, line: str) -> list[int | str]:
    """The values in ``line``. Raises AssertionError when it was not printed by ``fmt``."""
    regex, types, python = _pattern(fmt)
    match = re.fullmatch(regex, line)
    assert match is not None, f"{line!r} is not {fmt!r}"
    values: list[int | str] = []
    for text, kind in zip(match.groups(), types, strict=True):
        text = text.strip()
        values.append(text if kind == "s" else int(text, 16 if kind == "x" else 10))
    assert python % tuple(values) == line, f"{line!r} is not printed by {fmt!r}"
    return values


def matches(fmt: str, line: str) -> bool:
    """Whether ``fmt`` prints such a line."""
    try:
        scan(fmt, line)
    except AssertionError:
        return False
    return True
