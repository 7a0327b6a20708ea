"""kmemleak: what nobody points to is found, what somebody does is not."""

from __future__ import annotations

import pytest

import mm
from emu.ram import Ram
from mm.errors import CheckError, SlabError
from mm.gfp import GFP_ZERO


def need(value: int | None) -> int:
    assert value is not None
    return value


def machine(kind: str = "slub", **config: object) -> mm.Kernel:
    return mm.boot(Ram(16 << 20), mm.Config(slab=kind, **config))  # type: ignore[arg-type]


CONFIGS = pytest.mark.parametrize(
    ("kind", "record"),
    [("slub", False), ("slub", True), ("slab", False), ("slab", True), ("slob", True)],
)


@CONFIGS
def test_what_is_lost_is_named(kind: str, record: bool) -> None:
    k = machine(kind, kmemleak=record)
    k.mm_alloc()
    assert k.kmemleak.scan() == []
    k.set_current(7, "insmod")
    root = need(k.vmalloc(4096))  # a module's data, say
    area = k.find_vm_area(root)
    assert area is not None
    data = k.vmalloc_areas.pages_of(area)[0] << 12
    k.ram.fill(data, 4096)
    a, b, c, d = (need(k.kmalloc(100, 0xCC0 | GFP_ZERO)) for _ in range(4))
    k.ram.write64(data + 64, a)
    k.ram.write64(k.pa(a) + 8, b)
    k.ram.write64(k.pa(b) + 16, c + 50)  # into the object is enough
    k.ram.write(k.pa(d), b"lost!\0\x80")
    (lost,) = k.kmemleak.scan()
    assert lost.pointer == d
    assert lost.size == (100 if record else 128)
    lines = lost.report().splitlines()
    assert lines[0] == f"unreferenced object 0x{d:08x} (size {lost.size}):"
    comm, pid = ("insmod", 7) if record else ("unknown", 0)
    assert lines[1] == f'  comm "{comm}", pid {pid}, jiffies 0'
    assert lines[2] == "  hex dump (first 32 bytes):"
    assert lines[3] == ("    6c 6f 73 74 21 00 80 00 00 00 00 00 00 00 00 00  lost!...........")
    assert len(lines) == 5
    assert [u.pointer for u in mm.attach(k.ram).kmemleak.scan()] == [d]
    k.ram.write64(k.pa(a) + 8, 0)
    assert {u.pointer for u in k.kmemleak.scan()} == {b, c, d}  # what only b points to is lost too
    k.ram.write64(k.pa(b), d)
    k.kfree(d)
    k.kfree(c)
    assert {u.pointer for u in k.kmemleak.scan()} == {b}
    mm.check(k)


def test_large_allocations_are_known_by_record_only() -> None:
    k = machine(kmemleak=True)
    big = need(k.kmalloc(50_000))
    assert [(u.pointer, u.size) for u in k.kmemleak.scan()] == [(big, 50_000)]
    cache = k.kmalloc_caches.cache_for(64)
    need(k.kmalloc(64))
    assert cache.struct.cpu.slab == 0  # every allocation traps
    k.kfree(big)
    assert len(k.kmemleak.scan()) == 1
    k.vmcoreinfo.slab_root.kmemleak_object_list.prev = 0
    with pytest.raises(CheckError):
        mm.check(k)


def test_slob_needs_records() -> None:
    with pytest.raises(SlabError, match="boot with kmemleak"):
        machine("slob").kmemleak.scan()
