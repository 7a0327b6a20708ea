"""The guests that come with the package."""

from __future__ import annotations

from pathlib import Path

from firmware import images
from guest import build


def shipped() -> dict[str, Path]:
    """The guests that come with the package: name to ELF."""
    if not build.BUILT.exists():
        images.reset_code()  # raises NotBuilt with what to do
    found = {}
    for _, folder, suffix in build.SHIPPED:
        for path in sorted((build.BUILT / folder).glob(f"*{suffix}")):
            found[path.stem] = path
    return found
