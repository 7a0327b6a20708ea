"""Boot and attach: RAM is the truth, and how large it is does not matter."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Translation, walk
from mm.boot import ImageSegment
from mm.errors import MmError
from mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from mm.page import PG_RESERVED
from mm.vma import VM_READ, VM_WRITE

Booter = Callable[..., mm.Kernel]
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)
BASE = 0x8000_0000
LINK = 0xFFFFFFFF_80000000


def image() -> tuple[ImageSegment, ...]:
    start = BASE + (2 << 20)
    return (
        ImageSegment(start + 0x1000, LINK + 0x1000, 0x2345, "rx"),
        ImageSegment(start + 0x4000, LINK + 0x4000, 0x1000, "r"),
        ImageSegment(start + 0x5000, LINK + 0x5000, 0x3000, "rw"),
    )


@MODES
@pytest.mark.parametrize("mib", [8, 9, 16, 63, 64, 256, 4096])
def test_boot_checks(boot: Booter, mode: PagingMode, mib: int) -> None:
    k = boot(mib, paging=mode, image=image(), reserved=((BASE + (6 << 20) + 5, 100),))
    report = mm.check(k)
    assert report.free + report.allocated + report.reserved == report.frames == mib << 8
    assert k.page(0x80600).flags & PG_RESERVED and k.page_is_reserved(0x80600)
    assert k.page(0x80000).flags & PG_RESERVED
    assert not k.page_is_reserved(0x80601)


@MODES
def test_image_permissions(boot: Booter, mode: PagingMode) -> None:
    k = boot(16, paging=mode, image=image())
    root = k.pgtable.root(k.init_mm)

    def rights(va: int) -> str:
        return "".join(
            letter if isinstance(walk(k.ram, mode, root, va, a), Translation) else "-"
            for letter, a in (("r", Access.READ), ("w", Access.WRITE), ("x", Access.EXECUTE))
        )

    for segment, own, alias in zip(image(), ("r-x", "r--", "rw-"), ("r--", "r--", "rw-"),
                                   strict=True):  # fmt: skip
        for at in (0, segment.size - 1):
            assert rights(segment.va + at) == own
            assert rights(k.va(segment.pa + at)) == alias
    assert rights(LINK + 0x8000) == "---" and rights(LINK) == "r--"


def test_bad_configurations() -> None:
    start = BASE + (2 << 20)
    with pytest.raises(ValueError, match="8 MiB"):
        mm.boot(Ram(4 << 20))
    with pytest.raises(ValueError, match="use sv48"):
        mm.boot(Ram(256 << 30))
    for segment, why in (
        (ImageSegment(start, LINK, 4096, "r"), "overlaps"),
        (ImageSegment(start + 0x1000, LINK, 4096, "r"), "must be linked at"),
        (ImageSegment(start + 0x1001, LINK + 0x1001, 4096, "r"), "not whole pages"),
        (ImageSegment(start + 0x1000, LINK + 0x1000, 4096, "rwx"), "rwx"),
        (ImageSegment(BASE + (1 << 30), LINK + (1 << 30), 4096, "r"), "not whole pages of RAM"),
    ):
        with pytest.raises(ValueError, match=why):
            mm.boot(Ram(16 << 20), mm.Config(image=(segment,)))
    with pytest.raises(ValueError, match="not RAM"):
        mm.boot(Ram(16 << 20), mm.Config(reserved=((0, 4096),)))
    with pytest.raises(ValueError, match="firmware"):
        mm.boot(Ram(16 << 20), mm.Config(firmware_size=3 << 20))
    with pytest.raises(MmError):
        mm.attach(Ram(16 << 20))


def test_ram_elsewhere(boot: Booter) -> None:
    ram = Ram((16 << 20) + 4096 * 3, base=0x1_2340_5000)
    k = mm.boot(ram)
    mm.check(k)
    pfn = k.alloc_page()
    assert pfn is not None and ram.contains(pfn << 12, 4096)


def test_boot_again_in_the_same_ram(kernel: mm.Kernel) -> None:
    kernel.alloc_pages_bulk(GFP_KERNEL, 1000)
    again = mm.boot(kernel.ram)
    mm.check(again)
    fresh = mm.boot(Ram(16 << 20))
    assert again.alloc_page() == fresh.alloc_page()


def work(k: mm.Kernel) -> None:
    """Some of everything."""
    pages = [k.alloc_pages(GFP_KERNEL, i % 4) for i in range(30)]
    for i, p in enumerate(pages[::2]):
        assert p is not None
        k.free_pages(p, i * 2 % 4)
    objects = [k.kmalloc(size) for size in range(1, 9000, 177)]
    for va in objects[::3]:
        assert va is not None
        k.kfree(va)
    k.slab.create("mine", 48).alloc()
    m = k.mm_alloc()
    k.mmap_region(m, 0x10000, 0x9000, VM_READ | VM_WRITE, "[heap]")
    k.munmap(m, 0x12000, 0x1000)
    areas = [k.vmalloc(n * 4096) for n in (1, 3, 2)]
    assert areas[1] is not None
    k.vfree(areas[1])


def answers(k: mm.Kernel) -> list[object]:
    va = k.layout.vmalloc_start
    found = k.find_vm_area(va)
    return [
        mm.check(k), k.log, k.vmcoreinfo.fields(), [z.fields() for z in k.zones],
        [(c.name, c.size, c.order, c.nr_partial, c.active_objects()) for c in k.slab.caches()],
        [(m.pa, m.fields(), [v.fields() for v in k.address_spaces.vmas(m)])
         for m in k.address_spaces.mms()],
        [a.fields() for a in k.vmalloc_areas.areas], found and found.pa,
        list(k.pgtable.leaves(k.pgtable.root(k.init_mm))), k.memblock.memory, k.memblock.reserved,
    ]  # fmt: skip


@MODES
def test_attach_finds_everything_and_goes_on_alike(boot: Booter, mode: PagingMode) -> None:
    k = boot(144, paging=mode, image=image())
    work(k)
    copy = Ram(k.ram.size)
    copy.write(copy.base, k.ram.read(k.ram.base, k.ram.size))
    other = mm.attach(copy)
    assert answers(other) == answers(k)
    for kernel in (k, other):
        work_more(kernel)
    assert answers(other) == answers(k)
    assert copy.read(copy.base, copy.size) == k.ram.read(k.ram.base, k.ram.size)


def work_more(k: mm.Kernel) -> None:
    for i in range(200):
        k.alloc_pages(GFP_HIGHUSER_MOVABLE, i % 11)
        k.kmalloc(i * 50)
    k.mm_alloc()
    k.vmalloc(7 * 4096)
    k.munmap(k.address_spaces.mms()[0], 0, 1 << 20)


def test_attach_refuses_what_is_not_its_own(kernel: mm.Kernel) -> None:
    info = kernel.vmcoreinfo
    for field, value in (("version", 9), ("ram_size", 1 << 30), ("satp_mode", 0), ("nr_zones", 9)):
        old = getattr(info, field)
        setattr(info, field, value)
        with pytest.raises(MmError):
            mm.attach(kernel.ram)
        setattr(info, field, old)
    mm.check(mm.attach(kernel.ram))


def test_log_is_linux_like(kernel: mm.Kernel) -> None:
    text = "\n".join(kernel.log)
    assert "  DMA32    [mem 0x0000000080000000-0x0000000080ffffff]" in text
    assert "  Normal   empty" in text and "  Movable  empty" in text
    managed = sum(z.managed_pages for z in kernel.zones) * 4
    assert f"Memory: {managed}K/16384K available" in text
    assert "SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=1, Nodes=1" in text


def test_boot_touches_little_of_much_ram() -> None:
    """64 GiB take a few MiB of the host's memory; how long it takes is measured in bench."""
    mm.boot(Ram(64 << 20), mm.Config(paging=SV48))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(9):
        mm.boot(Ram(64 << 30), mm.Config(paging=SV48))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 8192  # KiB


def test_check_of_64_gib_leaves_the_untouched_alone() -> None:
    k = mm.boot(Ram(64 << 30))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = mm.check(k)
    assert report.frames == 1 << 24 and report.deferred > 1 << 23
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 32 << 10
