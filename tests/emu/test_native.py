"""The library of C: it is there where it should be, and in the wheel's name."""

from __future__ import annotations

import platform
import sys

import pytest

from emu.engine import build, native

_HERE = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


@pytest.mark.skipif(not _HERE, reason="not a host that the library is tested on")
def test_it_is_built_and_loads() -> None:
    assert native.available()
    assert native.function("count_block") and native.function("tlb_fill")
    assert build.wheel_platform() == f"manylinux_2_17_{platform.machine()}"


def test_a_host_that_unicorn_exports_nothing_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not build.build()
    assert build.wheel_platform() == "any"
