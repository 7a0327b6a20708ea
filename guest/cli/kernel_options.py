"""`--paging`, `--ram`, `--slab`, `--append` and those of the hart: what the kernel machine is.

@kernel_options
def check(..., kernel: KernelOptions, ...):
    system = kernel_machine.boot(kernel)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from emu.board.memory_map import RAM_SIZE_DEFAULT
from emu.hart import HartOptions
from emu.spec.paging import MODES
from guest.boot.kernel_machine import KernelOptions
from guest.cli.hart_options import hart_options
from guest.cli.kit import SizeParameter

SLABS = ("slub", "slab", "slob")
# The parameters, by the names that click has for them.
NAMES = ("paging", "ram_size", "slab", "append", "access")


def kernel_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options; it gets them as ``kernel``, a `KernelOptions`."""

    @click.option(
        "--paging",
        type=click.Choice(list(MODES)),
        default="sv39",
        show_default=True,
        help="Translation scheme of the kernel machine.",
    )
    @click.option(
        "--ram",
        "ram_size",
        type=SizeParameter(),
        default=RAM_SIZE_DEFAULT,
        show_default="64M",
        help="RAM: bytes, or with K, M, G or T. Sparse: what is not touched costs nothing.",
    )
    @click.option(
        "--slab",
        type=click.Choice(SLABS),
        default="slub",
        show_default=True,
        help="The slab allocator of the kernel machine.",
    )
    @click.option(
        "--append",
        default="",
        metavar="'PARAMETERS'",
        help="Kernel command line: slub_debug=FZP, page_owner=on, page_poison=on, kmemleak=on, "
        "slab_nomerge, slab_freelist_hardened, min_free_kbytes=N, highmem_start=SIZE, dma=SIZE, "
        "movablecore=SIZE, failslab=I,P,S,T, fail_page_alloc=I,P,S,T.",
    )
    @hart_options
    @functools.wraps(command)
    def with_options(
        *args: Any,
        paging: str,
        ram_size: int,
        slab: str,
        append: str,
        hart: HartOptions,
        **kw: Any,
    ) -> Any:
        kernel = KernelOptions(ram_size, MODES[paging], slab, append, hart)
        return command(*args, kernel=kernel, **kw)

    return with_options
