"""The kernel command line (`--append`): Linux's parameters, as members of `mm.Config`.

| parameter | what it does |
|---|---|
| slub_debug[=FZPU[,CACHE]] | red zones, poison, sanity checks, tracking |
| slab_nomerge | caches are not merged |
| slab_freelist_hardened | SLUB's free pointers are stored xored |
| page_owner=on | records who allocated each page |
| page_poison=on | freed frames are filled with 0xaa and checked |
| hash_pointers=always | %p of printk shows a hash in the place of an address (never: as it is) |
| kmemleak=on | records every object, to find those that nobody points to |
| min_free_kbytes=N | the reserve that watermarks keep |
| highmem_start=SIZE | RAM behind that many bytes has no address: zone HighMem |
| dma=SIZE | the first bytes of RAM are zone DMA |
| movablecore=SIZE | the last bytes of RAM are zone Movable |
| failslab=interval,probability,space,times | makes slab allocations fail |
| fail_page_alloc=interval,probability,space,times | makes page allocations fail |

Sources: Linux Documentation/admin-guide/kernel-parameters.txt and
fault-injection/fault-injection.rst. Names of ours: slab_freelist_hardened (a build option
there), highmem_start, dma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emu.ram import RAM_BASE
from mm.gfp import ZoneType
from mm.kernel import Kernel
from mm.zone import DEFAULT_ZONES, ZoneConfig

_UNITS = {"K": 10, "M": 20, "G": 30}
# Who looks at a parameter that not all do.
ALLOCATORS = {
    "slub_debug": ("slub", "slab"),
    "slab_nomerge": ("slub", "slab"),
    "slab_freelist_hardened": ("slub",),
}
_FAULTS = ("failslab", "fail_page_alloc")


class CommandLineError(ValueError):
    """A parameter that is not known or has a bad value; the text says which."""


@dataclass
class CommandLine:
    """What a command line asks for: members of mm.Config, and what is done after boot."""

    config: dict[str, Any] = field(default_factory=dict)
    after_boot: list[Callable[[Kernel], None]] = field(default_factory=list)
    hash_pointers: bool = False


def parse(text: str, ram_size: int, slab: str = "slub") -> CommandLine:
    """Parse a command line for a machine with ``ram_size`` bytes and the allocator ``slab``.

    Raises CommandLineError, also for what that allocator does not look at.
    """
    found = CommandLine()
    sizes: dict[str, int] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if slab not in ALLOCATORS.get(name, (slab,)):
            raise CommandLineError(f"{word}: {slab.upper()} has nothing of the kind")
        if name == "slub_debug":
            found.config["slub_debug"] = value
        elif name in ("slab_nomerge", "slab_freelist_hardened"):
            found.config[name] = _switch(word, value or "on")
        elif name in ("page_owner", "page_poison", "kmemleak"):
            found.config[name] = _switch(word, value)
        elif name == "hash_pointers":
            if value not in ("always", "never"):
                raise CommandLineError(f"{word}: always or never")
            found.hash_pointers = value == "always"
        elif name == "min_free_kbytes":
            found.config[name] = _number(word, value)
        elif name in ("highmem_start", "dma", "movablecore"):
            sizes[name] = _size(word, value, ram_size)
        elif name in _FAULTS:
            found.after_boot.append(_fault(word, name, value))
        else:
            raise CommandLineError(f"{word}: no such kernel parameter")
    if sizes:
        found.config |= _zones(sizes, ram_size)
    return found


def _switch(word: str, value: str) -> bool:
    if value not in ("on", "off", "1", "0"):
        raise CommandLineError(f"{word}: on or off")
    return value in ("on", "1")


def _number(word: str, value: str) -> int:
    if not value.isdecimal():
        raise CommandLineError(f"{word}: not a number")
    return int(value)


def _size(word: str, value: str, ram_size: int) -> int:
    unit = value[-1:].upper()
    number = value[:-1] if unit in _UNITS else value
    size = _number(word, number) << _UNITS.get(unit, 0)
    if not 0 < size < ram_size or size % (4 << 20):
        raise CommandLineError(f"{word}: whole blocks of 4 MiB, less than all of RAM")
    return size


def _zones(sizes: dict[str, int], ram_size: int) -> dict[str, Any]:
    """Zone boundaries as mm.Config has them: the PA behind each zone, in order."""
    config: dict[str, Any] = {}
    end = RAM_BASE + ram_size
    zones: list[tuple[ZoneType, int | None]] = []
    if "dma" in sizes:
        zones.append((ZoneType.DMA, RAM_BASE + sizes["dma"]))
    limit = end - sizes.get("movablecore", 0)
    if "highmem_start" in sizes:
        start = RAM_BASE + sizes["highmem_start"]
        if not RAM_BASE + sizes.get("dma", 0) < start < limit:
            raise CommandLineError("highmem_start: not between zone DMA and zone Movable")
        zones += [(ZoneType.NORMAL, start), (ZoneType.HIGHMEM, limit)]
        config["direct_map_end"] = start
    else:
        zones += _below(limit)
    if "movablecore" in sizes:
        zones.append((ZoneType.MOVABLE, None))
    config["zones"] = tuple(zones)
    return config


def _below(limit: int) -> ZoneConfig:
    """DMA32 and Normal, as by default, but ending at ``limit`` (PA)."""
    dma32 = next(end for kind, end in DEFAULT_ZONES if kind is ZoneType.DMA32)
    assert dma32 is not None
    return ((ZoneType.DMA32, min(dma32, limit)), (ZoneType.NORMAL, limit))


def _fault(word: str, name: str, value: str) -> Callable[[Kernel], None]:
    """Linux's ``<interval>,<probability>,<space>,<times>``."""
    numbers = value.split(",")
    if len(numbers) != 4 or not all(n.lstrip("-").isdecimal() for n in numbers):
        raise CommandLineError(f"{word}: four numbers, interval,probability,space,times")
    interval, probability, space, times = map(int, numbers)

    def switch_on(kernel: Kernel) -> None:
        kernel.fault_injection.set(
            name, interval=interval, probability=probability, space=space, times=times
        )

    return switch_on
