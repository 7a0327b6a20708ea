"""A process's file descriptors: 0, 1 and 2 are the console, and others their copies."""

from __future__ import annotations

from enum import Enum


class Way(Enum):
    """What a descriptor of the console is for."""

    IN = "in"
    OUT = "out"


STANDARD = {0: Way.IN, 1: Way.OUT, 2: Way.OUT}
DESCRIPTORS_MAX = 1024  # RLIMIT_NOFILE
