"""Module parameters: NAME=VALUE words, given to the setters of a module's section __param.

The kernel finds the parameter by its name, in which - and _ are the same, and calls the
`set` of its operations, guest code, with the text of the value. Source: Linux kernel/params.c
(parse_args, parse_one, next_arg), kernel/module/main.c (unknown_module_param_cb).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import ENOSPC

from guest.kernel.linux_errno import EINVAL

PARAM_SIZE = 32  # bytes of struct kernel_param: name, ops, arg, perm
STRINGS_SIZE = 1024  # bytes of module_param_strings in runtime/module.c
_FL_NOARG = 1


@dataclass(frozen=True)
class Param:
    """A parameter of a module: its name, its setter and its struct kernel_param (VAs)."""

    name: str
    setter: int
    va: int
    flags: int

    def is_called(self, name: str) -> bool:
        return self.name.replace("-", "_") == name.replace("-", "_")


@dataclass(frozen=True)
class Word:
    """One word of the command line. ``value`` is None without an equals sign."""

    text: str
    name: str
    value: str | None


def next_arg(text: str) -> Word:
    """Split a word; double quotes around it or its value are taken off."""
    whole = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    name, equals, value = whole.partition("=")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return Word(text, name, value if equals else None)


def set_all(
    module: str,
    params: Sequence[Param],
    words: Sequence[str],
    put: Callable[[bytes], int],
    call: Callable[[int, int, int], int],
    log: Callable[[str], None],
    takes_words: bool,
) -> int:
    """Set what ``words`` name; 0, or the error with which the module is refused.

    ``put`` stores a text where the module keeps it and returns its VA; ``call`` runs a setter
    with value and parameter. A module that reads the words itself (``takes_words``) is not told
    about those that are no parameters.
    """
    for word in map(next_arg, words):
        param = next((p for p in params if p.is_called(word.name)), None)
        if param is None:
            if not takes_words:
                log(f"{module}: unknown parameter '{word.name}' ignored")
            continue
        error = -EINVAL
        if word.value is not None:
            error = call(param.setter, put(os.fsencode(word.value) + b"\0"), param.va)
        elif param.flags & _FL_NOARG:
            error = call(param.setter, 0, param.va)
        if error == -ENOSPC:
            log(f"{module}: `{word.value or ''}' too large for parameter `{word.name}'")
        elif error:
            log(f"{module}: `{word.value or ''}' invalid for parameter `{word.name}'")
        if error:
            return error
    return 0
