"""The kernel memory manager: Linux's, written into guest RAM.

``boot(ram, config)`` builds it, ``attach(ram)`` finds one that is already there.
"""

from mm.check import Report, check
from mm.kernel import Config, ImageSegment, Kernel, attach, boot

__all__ = ["Config", "ImageSegment", "Kernel", "Report", "attach", "boot", "check"]
