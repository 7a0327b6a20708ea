"""The command line as a process: how it begins and ends.

A guest that says hello runs for 2 ms. Freeing everything one by one at the end, an engine and its
buffers among it, takes twenty times that; the system frees it at once.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def start(prog_name: str | None = None) -> NoReturn:
    """Obey ``sys.argv`` and end the process; ``prog_name``: what help and errors call it."""
    from guest.cli.main import main

    try:
        main(prog_name=prog_name)
    except SystemExit as e:
        if not isinstance(e.code, int | None):
            raise  # a message, which Python prints
        status = e.code or 0
    else:
        status = 0
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process: what was printed and what others want done at the end is done, no more."""
    atexit._run_exitfuncs()  # noqa: SLF001 - as the interpreter would, and multiprocessing does
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:  # nobody is left to tell
            status = 141
        except OSError as e:
            os.write(2, f"pagewalk: {e.strerror or e}\n".encode())
            status = 2
    os._exit(status)
