"""The kernel memory manager: Linux's, written into guest RAM.

``boot(ram, config)`` builds it, ``attach(ram)`` finds one that is already there.
"""

from mm.boot import Config, ImageSegment, boot
from mm.check import Report, check
from mm.kernel import Kernel, attach

__all__ = ["Config", "ImageSegment", "Kernel", "Report", "attach", "boot", "check"]
