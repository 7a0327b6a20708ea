"""A few instructions, assembled by ziglang's clang."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from guest import build, scratch
from pagewalk import arguments


def assemble(text: str, at: int = 0x8000_0000) -> bytes:
    """The code of ``text``, which runs at ``at`` (PA or VA): RV64GC, in GNU assembly.

    The text goes through the C preprocessor; its instructions stand one a line, or with ";"
    between them. The same text is assembled once. Raises BuildError with what the assembler
    said, or what to install where there is none (ziglang: the extra ``compile``); TypeError,
    ValueError.

        assemble("1: addi a0, a0, 1; j 1b")
    """
    if not isinstance(text, str):
        raise TypeError(f"text: a str is wanted, not {text!r:.40}")
    return _assembled(text, arguments.integer("at", at, 64, 2))


@cache
def _assembled(text: str, at: int) -> bytes:
    with scratch.folder() as folder:
        source = Path(folder, "text.S")
        source.write_text(f"{text}\n")
        try:
            return build.build_code(source, at, folder)
        except build.BuildError as e:
            raise build.BuildError(str(e).replace(f"{source}:", "text:")) from None
