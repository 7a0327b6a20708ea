"""The kernel command line: every parameter, by what it does to the machine."""

from __future__ import annotations

import re

import pytest

import mm
from guest.boot import kernel_machine, machines
from guest.boot.find import RUN, find
from guest.boot.kernel_machine import KernelOptions, Streams
from guest.kernel import cmdline
from guest.kernel.cmdline import CommandLineError
from guest.kernel.system import System

MIB = 1 << 20
RAM = 64 * MIB


def boot(append: str) -> System:
    system = kernel_machine.boot(KernelOptions(RAM, append=append))
    mm.check(system.kernel)
    return system


def zones(system: System) -> dict[str, tuple[int, int]]:
    """name -> (first MiB, MiB) of the zones that have pages."""
    start = 0x8000_0000 >> 12
    return {
        z.name: ((z.zone_start_pfn - start) // 256, z.spanned_pages // 256)
        for z in system.kernel.zones
        if z.present_pages
    }


def test_nothing_is_the_default() -> None:
    assert cmdline.parse("", RAM) == cmdline.CommandLine()
    assert zones(boot("")) == {"DMA32": (0, 64)}


def test_zones() -> None:
    assert zones(boot("dma=16M")) == {"DMA": (0, 16), "DMA32": (16, 48)}
    assert zones(boot("dma=16M movablecore=8M")) == {
        "DMA": (0, 16),
        "DMA32": (16, 40),
        "Movable": (56, 8),
    }
    system = boot("highmem_start=32M")
    assert zones(system) == {"Normal": (0, 32), "HighMem": (32, 32)}
    first = 0x8000_0000 + 32 * MIB
    mapped = [va for va, _, _ in system.kernel.pgtable.leaves(system.kernel.pgtable.root(
        system.kernel.init_mm))]  # fmt: skip
    offset = system.kernel.layout.page_offset
    assert max(va for va in mapped if offset <= va < offset + RAM) < offset + first - 0x8000_0000


def test_switches() -> None:
    found = cmdline.parse(
        "slub_debug=FZ,kmalloc-64 slab_nomerge slab_freelist_hardened page_owner=on "
        "page_poison=1 kmemleak=off min_free_kbytes=512",
        RAM,
    )
    assert found.config == {
        "slub_debug": "FZ,kmalloc-64",
        "slab_nomerge": True,
        "slab_freelist_hardened": True,
        "page_owner": True,
        "page_poison": True,
        "kmemleak": False,
        "min_free_kbytes": 512,
    }
    assert cmdline.parse("slub_debug", RAM).config == {"slub_debug": ""}


def test_faults_are_injected_after_boot() -> None:
    kernel = boot("failslab=1,100,0,2").kernel
    assert [kernel.kmalloc(64) is None for _ in range(4)] == [True, True, False, False]
    kernel = boot("fail_page_alloc=1,100,0,1").kernel
    assert [kernel.alloc_page() is None for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    "append",
    [
        "nonsense",
        "quiet=1",
        "page_owner",
        "page_owner=maybe",
        "min_free_kbytes=-1",
        "dma=0",
        "dma=64M",
        "dma=3M",
        "dma=",
        "highmem_start=x",
        "dma=32M highmem_start=16M",
        "failslab=1,2,3",
        "failslab=a,b,c,d",
    ],
)
def test_what_is_refused_names_the_parameter(append: str) -> None:
    with pytest.raises(CommandLineError) as e:
        cmdline.parse(append, RAM)
    assert str(e.value).split("=")[0].split(":")[0] in append
    assert "\n" not in str(e.value)


def test_a_module_maps_a_frame_that_has_no_address() -> None:
    lines: list[str] = []
    options = KernelOptions(RAM, append="highmem_start=32M")
    elf = machines.load(find("highmem", RUN))
    outcome, system = kernel_machine.run(elf, options, streams=Streams(log=lines.append))
    assert outcome.status == 0
    assert isinstance(system, System)
    mm.check(system.kernel)
    match = re.fullmatch(r"highmem: pfn (\w+) is at (\w+), outside of the direct map", lines[0])
    assert match
    assert int(match[1], 16) >= (0x8000_0000 + 32 * MIB) >> 12
    assert int(match[2], 16) < system.kernel.layout.page_offset
