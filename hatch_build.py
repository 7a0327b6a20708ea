"""Build hook: compiles what the package ships compiled, for wheels and editable installs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the guests, and for this host the C that the engine calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(Path(__file__).parent))
        from emu.engine.build import build, wheel_platform
        from guest.build import build_all

        build_all()
        if build():
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{wheel_platform()}"
