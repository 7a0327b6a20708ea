"""Address spaces: neighbours alike are one VMA (vma_merge); one more costs the same."""

from __future__ import annotations

import pytest

import mm
from emu.ram import Ram
from mm.errors import OutOfMemory
from mm.pgtable import MmStruct
from mm.proc import maps
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

RW = VM_READ | VM_WRITE


@pytest.fixture
def k() -> mm.Kernel:
    return mm.boot(Ram(16 << 20))


def ranges(k: mm.Kernel, space: MmStruct) -> list[tuple[int, int]]:
    """From RAM alone, after a check that the kernel's own index says the same."""
    mm.check(k)
    found = [(v.vm_start, v.vm_end) for v in mm.attach(k.ram).address_spaces.vmas(space)]
    assert found == [(v.vm_start, v.vm_end) for v in k.address_spaces.vmas(space)]
    assert space.map_count == len(found)
    return found


def test_adjacent_mappings(k: mm.Kernel) -> None:
    space = k.mm_alloc()
    k.mmap_region(space, 0x12000, 0x1000, RW)
    k.mmap_region(space, 0x10000, 0x1000, RW)
    assert ranges(k, space) == [(0x10000, 0x11000), (0x12000, 0x13000)]
    joined = k.mmap_region(space, 0x11000, 0x1000, RW)  # closes the hole between the two
    assert (joined.vm_start, joined.vm_end) == (0x10000, 0x13000)
    assert ranges(k, space) == [(0x10000, 0x13000)]
    k.munmap(space, 0x11000, 0x1000)
    assert ranges(k, space) == [(0x10000, 0x11000), (0x12000, 0x13000)]


def test_what_differs_stays_apart(k: mm.Kernel) -> None:
    space = k.mm_alloc()
    k.mmap_region(space, 0x10000, 0x1000, RW, "a")
    k.mmap_region(space, 0x11000, 0x1000, VM_READ, "a")
    k.mmap_region(space, 0x12000, 0x1000, VM_READ, "b")
    k.mmap_region(space, 0x13000, 0x1000, VM_READ | VM_EXEC, "b")
    k.mmap_region(space, 0x15000, 0x1000, VM_READ | VM_EXEC, "b")
    assert len(ranges(k, space)) == 5


def test_mprotect_there_and_back(k: mm.Kernel) -> None:
    space = k.mm_alloc()
    k.mmap_region(space, 0x10000, 0x100000, RW)
    k.mprotect(space, 0x20000, 0x1000, VM_READ)
    assert ranges(k, space) == [(0x10000, 0x20000), (0x20000, 0x21000), (0x21000, 0x110000)]
    k.mprotect(space, 0x21000, 0x2000, VM_READ)  # grows into its neighbour
    assert ranges(k, space) == [(0x10000, 0x20000), (0x20000, 0x23000), (0x23000, 0x110000)]
    k.mprotect(space, 0x1F000, 0x5000, RW)
    assert ranges(k, space) == [(0x10000, 0x110000)]
    text = maps(k, space)
    assert text.count("\n") == 1 and text.startswith("00010000-00110000 rw-p")


def test_a_split_without_memory_is_undone(k: mm.Kernel) -> None:
    space = k.mm_alloc()
    k.mmap_region(space, 0x10000, 0x3000, RW)
    k.fault_injection.fail_nth = 2  # the second cut's vm_area_struct
    with pytest.raises(OutOfMemory):
        k.mprotect(space, 0x11000, 0x1000, VM_READ)
    assert ranges(k, space) == [(0x10000, 0x13000)]
    k.mprotect(space, 0x11000, 0x1000, VM_READ)
    assert len(ranges(k, space)) == 3


def test_mm_alloc_does_not_read_the_mm_list() -> None:
    """One more address space costs the same however many there are: the list of them, the one
    thing that grows, is read once."""
    k = mm.boot(Ram(16 << 20))
    walked = []
    walk = k.lists.walk

    def counting(head: int, limit: int) -> object:
        walked.append(head)
        return walk(head, limit)

    k.mm_alloc()
    k.lists.walk = counting  # type: ignore[method-assign, assignment]
    spaces = [k.mm_alloc() for _ in range(100)]
    assert k.address_spaces.mmlist not in walked
    asids = [space.asid for space in spaces]
    assert len(set(asids)) == 100
    for space in spaces[::2]:
        k.mmdrop(space)
    mm.check(k)
    later = mm.attach(k.ram)
    fresh = {later.mm_alloc().asid for _ in range(60)}
    assert not fresh & set(asids[1::2])
    mm.check(later)
