"""Rules of mm.check that compare structures with each other: what the page tables show with
what it should be, VMAs with PTEs, references with mappings, lists with pageblocks, and
vmcoreinfo with everything. Each case breaks one rule, and that one is named."""

from __future__ import annotations

import pytest
from check_world import Break, Cases, World, names_the_broken_rule

import mm
from emu.ram import RAM_BASE, Ram
from mm.addrspace import KERNEL_LINK_ADDR
from mm.errors import CheckError
from mm.gfp import GFP_KERNEL, ZoneType
from mm.pgtable import MmStruct

case = Cases()
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
FRAME = 1 << 10  # one more in a PTE's PPN
MIB = 1 << 20


# the direct map, vmemmap, the image


def direct(w: World) -> int:
    """A 2 MiB page of the direct map."""
    return w.k.va(RAM_BASE + 8 * MIB)


@case("pte", "direct map shows the frame at a fixed distance")
def direct_map_shows_another_frame(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte + (512 * FRAME))


@case("pte", "direct map is missing")
def direct_map_has_a_hole(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: 0)


@case("pte", "direct map is readable")
def direct_map_unreadable(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte & ~(R | W) | X)


@case("pte", "direct map is not executable")
def direct_map_executable(w: World) -> int | None:
    """Not writable elsewhere: that would be another rule's."""
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte & ~W | X)


@case("pte", "direct map shows what it should and no more")
def direct_map_shows_firmware(w: World) -> int | None:
    """The first 2 MiB of RAM are the firmware's."""
    pa, pte = w.pte(w.k.init_mm, direct(w))
    w.ram.write64(pa - 8 * 4, pte - 4 * (512 * FRAME))
    return w.k.va(RAM_BASE)


@case("pte", "vmemmap shows the frame")
def vmemmap_shows_another_frame(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, w.k.space.vmemmap, lambda pte: pte + FRAME)


@case("pte", "vmemmap is missing")
def vmemmap_has_a_hole(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, w.k.space.vmemmap + 4096, lambda pte: 0)


@case("pte", "vmemmap shows what it should and no more")
def vmemmap_is_too_long(w: World) -> int | None:
    last = w.k.space.vmemmap_end - 4096
    pa, pte = w.pte(w.k.init_mm, last)
    w.ram.write64(pa + 8, pte + FRAME)
    return last + 4096


@case("pte", "kernel image shows the frame")
def image_shows_another_frame(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, KERNEL_LINK_ADDR, lambda pte: pte + FRAME)


@case("pte", "kernel image is missing")
def image_without_vmcoreinfo(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, KERNEL_LINK_ADDR, lambda pte: 0)


@case("pte", "lies in one of the kernel's areas")
def leaf_between_the_areas(w: World) -> int | None:
    """The lowest GiB of the kernel's half is nobody's."""
    _, pte = w.pte(w.k.init_mm, direct(w))
    at = w.k.pgtable.root(w.k.init_mm) + 8 * 256
    w.ram.write64(at, pte & 0x3FF & ~W | (RAM_BASE >> 12) * FRAME)
    return 0xFFFFFFC0_00000000


# PTEs by the spec's text, at every level


@case("pte", "kernel pages have G=1")
def kernel_page_without_g(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte & ~G)


@case("pte", "a user page has G=0")
def user_page_with_g(w: World) -> int | None:
    return w.set_pte(w.mm, 0x10000, lambda pte: pte | G)


@case("pte", "bits 54 to 63")
def reserved_bit_of_a_user_page(w: World) -> int | None:
    return w.set_pte(w.mm, 0x11000, lambda pte: pte | 1 << 54)


@case("pte", "bits 54 to 63")
def pbmt_of_a_kernel_page(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, w.area, lambda pte: pte | 1 << 61)


@case("pte", "bits 54 to 63")
def napot_of_a_superpage(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte | 1 << 63)


def pointer(w: World, mm_: MmStruct, va: int, level: int) -> int:
    """The PA of the pointer of ``level`` on the way to ``va``."""
    table = w.k.pgtable.root(mm_)
    for each in (2, 1):
        at = table + 8 * (va >> 12 + 9 * each & 511)
        if each == level:
            return at
        table = w.ram.read64(at) >> 10 << 12
    raise AssertionError("Sv39 has pointers at levels 2 and 1")


def set_pointer(level: int, bits: int) -> Break:
    def corrupt(w: World) -> int | None:
        at = pointer(w, w.mm, 0x10000, level)
        w.ram.write64(at, w.ram.read64(at) | bits)
        return at

    corrupt.__name__ = f"pointer_of_level_{level}_with_{bits:#x}"
    return corrupt


for _level in (1, 2):
    for _bits in (U, G, A, D, A | D):
        case("page table", "U, G, A and D of a pointer")(set_pointer(_level, _bits))
    case("page table", "bits 54 to 63")(set_pointer(_level, 1 << 60))


@case("page table", "an entry that is not valid is 0")
def entry_without_v_at_the_root(w: World) -> int | None:
    at = w.k.pgtable.root(w.mm) + 8 * 5
    w.ram.write64(at, FRAME)
    return at


@case("pte", "an entry that is not valid is 0")
def entry_without_v_at_level_0(w: World) -> int | None:
    return w.set_pte(w.mm, 0x12000, lambda pte: pte & ~V)


@case("pte", "W without R")
def write_only_page(w: World) -> int | None:
    return w.set_pte(w.mm, 0x10000, lambda pte: pte & ~R)


@case("pte", "superpage is aligned")
def misaligned_superpage(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, direct(w), lambda pte: pte + FRAME)


@case("page table", "level 0 has no pointers")
def pointer_at_level_0(w: World) -> int | None:
    pa, pte = w.pte(w.mm, 0x10000)
    w.ram.write64(pa, pte & ~(R | W | X | U | G | A | D))
    return pa


@case("page table", "one place")
def root_that_is_its_own_table(w: World) -> int | None:
    root = w.k.pgtable.root(w.mm)
    for i in range(256):
        w.ram.write64(root + 8 * i, root >> 12 << 10 | V)
    return root


@case("page table", "the user half of init_mm's root is empty")
def kernel_root_maps_user_space(w: World) -> int | None:
    root = w.k.pgtable.root(w.k.init_mm)
    w.ram.write64(root + 8 * 3, w.ram.read64(w.k.pgtable.root(w.mm)))
    return root + 8 * 3


# address spaces


@case("pte", "every page of a VMA is mapped")
def page_of_a_vma_is_gone(w: World) -> int | None:
    return w.set_pte(w.mm, 0x11000, lambda pte: 0)


@case("vm_area_struct", "vm_page_prot")
def vma_with_another_prot(w: World) -> int | None:
    w.vma.vm_page_prot ^= X
    return w.k.va(w.vma.pa)


@case("vm_area_struct", "live object of vm_area_struct")
def vma_that_was_freed(w: World) -> int | None:
    va = w.k.va(w.vma.pa)
    saved = w.ram.read(w.vma.pa, w.vma.SIZE)
    w.k.address_spaces.vma_cache.free(va)
    w.ram.write(w.vma.pa, saved[:40])  # all but where SLUB has its free pointer
    return va


@case("page", r"_refcount is 1, 2 user pages map it \(0x10000\)")
def two_user_pages_of_one_frame(w: World) -> int | None:
    _, pte = w.pte(w.mm, 0x10000)
    w.set_pte(w.mm, 0x11000, lambda _: pte)
    return w.page_pa(pte >> 10)


@case("mm_struct", "ASID 0x100000 is of 16 bits")
def asid_of_21_bits(w: World) -> int | None:
    w.mm.asid = 1 << 20
    return w.k.va(w.mm.pa)


@case("mm_struct", "not 0")
def asid_of_the_kernel(w: World) -> int | None:
    w.mm.asid = 0
    return w.k.va(w.mm.pa)


@case("mm_struct", "task_size")
def task_size(w: World) -> int | None:
    w.mm.task_size <<= 1
    return w.k.va(w.mm.pa)


@case("mm_struct", "mm_users")
def nobody_uses_the_mm(w: World) -> int | None:
    w.mm.mm_users = 0
    return w.k.va(w.mm.pa)


@case("mm_struct", "pgd")
def pgd_is_no_frame(w: World) -> int | None:
    w.mm.pgd += 8
    return w.k.va(w.mm.pa)


# zones and pageblocks


@case("pageblock", "0x77")
def pageblock_of_no_type(w: World) -> int | None:
    pa = w.k.vmcoreinfo.pageblock_pa + 3
    w.ram.write8(pa, 0x77)
    return pa


@case("free_list", "on the list Movable is of such a pageblock")
def pageblock_changed_type(w: World) -> int | None:
    pa = w.k.vmcoreinfo.pageblock_pa
    w.ram.write(pa, bytes([0 ^ 1]) * 8)  # all are Unmovable now
    return None


@case("free_list", "on the list Unmovable is of such a pageblock")
def block_on_another_list(w: World) -> int | None:
    k = w.k
    for order in reversed(range(11)):
        lists = k.zones[0].free_area[order].free_list
        block = k.lists.first(k.va(lists[1].pa))
        if block:
            k.lists.delete(block)
            k.lists.add(block, k.va(lists[0].pa))
            return k.pa(block - 8)
    raise AssertionError("no free block")


@case("zone", "_watermark")
def min_watermark(w: World) -> int | None:
    w.k.zones[0]._watermark[0] = 0
    return w.k.zones[0].pa


@case("zone", "lowmem_reserve")
def lowmem_reserve(w: World) -> int | None:
    w.k.zones[0].lowmem_reserve[ZoneType.NORMAL] += 1
    return w.k.zones[0].pa


# vmcoreinfo: every word that follows from something else

CHANGED_BY_ONE = (
    "version", "ram_base", "ram_size", "satp_mode", "page_offset", "vmemmap", "start_pfn",
    "memmap_pa", "vmalloc_start", "vmalloc_end", "nr_zones", "zones", "zones_pa",
    "pageblock_flags", "pageblock_pa", "memblock", "memblock_pa", "swapper_pg_dir_pa", "init_mm",
    "mm_cachep", "vm_area_cachep", "vmap_area_cachep", "vmap_lazy_nr",
)  # fmt: skip


@pytest.mark.parametrize("name", CHANGED_BY_ONE)
@pytest.mark.parametrize("bit", [0, 12, 33])
def test_a_field_of_vmcoreinfo(name: str, bit: int) -> None:
    w = World()
    info = w.k.vmcoreinfo
    setattr(info, name, getattr(info, name) ^ 1 << bit)
    with pytest.raises(CheckError) as e:
        mm.check(w.k)
    assert (e.value.structure, e.value.address) == ("vmcoreinfo", info.pa)
    assert name in e.value.rule


@pytest.mark.parametrize("index", range(13))
@pytest.mark.parametrize("value", [0, 8])
def test_a_pointer_to_a_cache_of_kmalloc(index: int, value: int) -> None:
    w = World()
    pointers = w.k.vmcoreinfo.kmalloc_caches
    pointers[index] = pointers[(index + value) % 13] if value else 0
    with pytest.raises(CheckError, match=rf"vmcoreinfo .*kmalloc_caches\[{index}\] is"):
        mm.check(w.k)


@pytest.mark.parametrize(
    "name",
    ["page_group_by_mobility_disabled", "high_memory", "page_owner", "page_poison", "pkmap"],
)
def test_a_field_of_page_alloc_info(name: str) -> None:
    w = World()
    info = w.k.vmcoreinfo.page_alloc
    setattr(info, name, getattr(info, name) + 4096)
    with pytest.raises(CheckError, match=f"vmcoreinfo .*page_alloc.{name} is"):
        mm.check(w.k)


def test_the_rest_of_vmcoreinfo() -> None:
    w = World()
    info = w.k.vmcoreinfo
    info.page_alloc.node_zones[ZoneType.DMA] = info.zones
    with pytest.raises(CheckError, match="node_zones"):
        mm.check(w.k)
    info.page_alloc.node_zones[ZoneType.DMA] = 0
    info.asid_next = 0
    with pytest.raises(CheckError, match="asid_next"):
        mm.check(w.k)
    info.asid_next = 1
    info.slab_root.options = 4
    with pytest.raises(CheckError, match=r"slab_root\.options"):
        mm.check(w.k)
    info.slab_root.options = 0
    info.slab_root.kind = 1
    with pytest.raises(CheckError, match=r"slab_root\.kind"):
        mm.check(w.k)
    info.slab_root.kind = 0
    info.slab_root.kmalloc_dma_caches[0] = info.kmalloc_caches[0]
    with pytest.raises(CheckError, match="kmalloc_dma_caches"):
        mm.check(w.k)
    info.slab_root.kmalloc_dma_caches[0] = 0
    mm.check(w.k)


@case.each()
def test_the_broken_rule_is_named(structure: str, rule: str, corrupt: Break) -> None:
    names_the_broken_rule(structure, rule, corrupt)


def test_references_beyond_the_mappings_are_fine() -> None:
    w = World()
    _, pte = w.pte(w.mm, 0x10000)
    w.k.page_alloc.get_page(pte >> 10)
    mm.check(w.k)


def test_a_direct_map_of_any_page_size_is_right() -> None:
    """Split down to 4 KiB it shows the same."""
    k = mm.boot(Ram(16 * MIB))
    pfn = k.alloc_pages(GFP_KERNEL, 0)
    assert pfn is not None
    k.pgtable.protect_range(k.init_mm, k.space.pfn_to_virt(pfn), 4096, V | G | R | A | D)
    assert mm.check(k).leaves > 512
    for size in (1 << 30, 8 << 30):
        mm.check(mm.boot(Ram(size)))
