"""slub_debug: every corruption that guest code can write is found, named and repaired."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.errors import BadFree, SlabError
from mm.slab import SLAB_NO_MERGE
from mm.slab.core import print_hex_dump
from mm.slab.flags import (
    DEBUG_DEFAULT_FLAGS,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.options import parse_slub_debug
from mm.slab.slub import SlubCache


def need(value: int | None) -> int:
    assert value is not None
    return value


def machine(debug: str = "FZPU", **config: object) -> mm.Kernel:
    return mm.boot(Ram(8 << 20), mm.Config(slub_debug=debug, **config))  # type: ignore[arg-type]


def thing(k: mm.Kernel, size: int = 60) -> SlubCache:
    cache = k.slab.create("thing", size, flags=SLAB_NO_MERGE)
    assert isinstance(cache, SlubCache)
    return cache


def take(k: mm.Kernel) -> list[str]:
    lines = list(k.messages)
    k.messages.clear()
    return lines


def test_parse() -> None:
    assert parse_slub_debug("FZ") == [(SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE, False, [])]
    assert parse_slub_debug(",kmalloc-*") == [(DEBUG_DEFAULT_FLAGS, False, ["kmalloc-*"])]
    assert parse_slub_debug("P,a,b;-,c") == [(SLAB_POISON, False, ["a", "b"]), (0, False, ["c"])]
    with pytest.raises(ValueError, match="'X' unknown"):
        parse_slub_debug("FX")
    with pytest.raises(ValueError):
        machine("FX")


def test_only_the_named_caches() -> None:
    k = machine("FZ,kmalloc-64")
    flags = {c.name: c.struct.flags & DEBUG_DEFAULT_FLAGS for c in k.slab.caches()}
    assert flags.pop("kmalloc-64") == SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE
    assert not any(flags.values())
    assert machine("").slab.caches()[3].struct.flags & SLAB_STORE_USER
    again = mm.attach(k.ram)  # the option is in RAM
    assert again.slab.create("kmalloc-64x", 24).struct.flags & DEBUG_DEFAULT_FLAGS == 0


@pytest.mark.parametrize(
    ("debug", "size", "layout"),
    [  # size, inuse, offset, red_left_pad
        ("F", 64, (64, 64, 32, 0)),
        ("Z", 64, (88, 72, 32, 8)),
        ("Z", 60, (80, 64, 24, 8)),
        ("P", 64, (72, 64, 64, 0)),
        ("U", 64, (128, 64, 32, 0)),
        ("ZP", 60, (88, 64, 64, 8)),
        ("FZPU", 64, (160, 72, 72, 8)),
        ("Z", 4, (32, 8, 8, 8)),
    ],
)
def test_layout(debug: str, size: int, layout: tuple[int, ...]) -> None:
    s = thing(machine(debug), size).struct
    assert (s.size, s.inuse, s.offset, s.red_left_pad) == layout


def test_bytes_around_an_object() -> None:
    k = machine()
    cache = thing(k)  # 60 bytes: right red zone 4, then free pointer, 2 tracks, padding
    va = need(cache.alloc())
    pa = k.pa(va)
    assert k.ram.read(pa - 8, 8) == b"\xcc" * 8 and k.ram.read(pa + 60, 4) == b"\xcc" * 4
    assert k.ram.read(pa, 60) == b"\x6b" * 59 + b"\xa5"
    assert k.ram.read(pa + 64 + 8 + 64, cache.size - 8 - 136) == b"\x5a" * (cache.size - 144)
    cache.free(va)
    assert k.ram.read(pa - 8, 8) == b"\xbb" * 8 and k.ram.read(pa + 60, 4) == b"\xbb" * 4
    assert k.ram.read(pa, 60) == b"\x6b" * 59 + b"\xa5"
    assert cache.struct.cpu.slab == 0  # guest code always traps


Break = Callable[[mm.Kernel, SlubCache, int], None]


def poke(offset: int, data: bytes) -> Break:
    return lambda k, cache, va: k.ram.write(k.pa(va) + offset, data)


@pytest.mark.parametrize(
    ("name", "live", "breaks", "at", "first", "expected"),
    [
        ("Right Redzone", True, poke(60, b"\x11\x22"), (60, 61), 0x11, 0xCC),
        ("Left Redzone", True, poke(-3, b"\x33"), (-3, -3), 0x33, 0xCC),
        ("Right Redzone", False, poke(62, b"\x44"), (62, 62), 0x44, 0xBB),
        ("Poison", False, poke(10, b"AB"), (10, 11), 0x41, 0x6B),
        ("End Poison", False, poke(59, b"\x01"), (59, 59), 0x01, 0xA5),
        ("Object padding", True, poke(136, b"\x00\x07"), (136, 137), 0x00, 0x5A),
    ],
)
def test_overwritten_bytes_are_reported_and_restored(
    name: str, live: bool, breaks: Break, at: tuple[int, int], first: int, expected: int
) -> None:
    k = machine()
    cache = thing(k)
    va = need(cache.alloc())
    if not live:
        cache.free(va)
    k.messages.clear()
    breaks(k, cache, va)
    corrupt = k.ram.read(k.pa(va) - 8, cache.size)
    if live:
        cache.free(va)  # refused: the object is left alone
    else:
        assert need(cache.alloc()) != va  # the slab is set aside
    lines = take(k)
    low, high = va + at[0], va + at[1]
    base = va & ~0xFFF
    assert lines[0] == "=" * 77
    assert lines[1] == f"BUG thing (Not tainted): {name} overwritten"
    assert lines[2] == "-" * 77 and lines[3] == ""
    assert lines[4] == (
        f"{low:#018x}-{high:#018x} @offset={low - base}. "
        f"First byte {first:#x} instead of {expected:#x}"
    )
    assert lines[5] == f"FIX thing: Restoring {name} {low:#018x}-{high:#018x}={expected:#x}"
    assert re.fullmatch(r"Allocated in 0x[0-9a-f]+ age=\d+ cpu=0 pid=0", lines[6])
    text = "\n".join(lines)
    assert f"Object {va:#018x} @offset={va - base} fp=" in text
    assert f"Redzone  {va - 8:016x}: " in text and f"Object   {va:016x}: " in text
    last = f"Object at {va:#018x} not freed" if live else "Marking all objects used"
    assert lines[-1] == f"FIX thing: {last}"
    assert k.slab.core.print_tainted() == "Tainted: G    B             "
    restored = k.ram.read(k.pa(va) - 8, cache.size)
    assert restored != corrupt
    mm.check(k)
    if live:
        cache.free(va)
        assert not take(k)


def test_validate_finds_it_without_a_free() -> None:
    k = machine()
    cache = thing(k)
    objects = [need(cache.alloc()) for _ in range(5)]
    assert cache.validate() == 0
    k.ram.write8(k.pa(objects[2]) + 60, 0)
    assert cache.validate() == 1 and cache.validate() == 0
    assert "BUG thing (Not tainted): Right Redzone overwritten" in take(k)


def test_kmalloc_redzone() -> None:
    k = machine()
    va = need(k.kmalloc(50))
    k.ram.write8(k.pa(va) + 50, 0xEE)
    k.kfree(va)
    assert "BUG kmalloc-64 (Not tainted): kmalloc Redzone overwritten" in take(k)
    k.kfree(va)
    va = need(k.kmalloc(50))
    assert k.ksize(va) == 64  # from here on all 64 bytes are the caller's
    k.ram.fill(k.pa(va), 64, 7)
    k.kfree(va)
    assert not take(k)
    va = need(k.kzalloc(50))
    assert k.ram.read(k.pa(va), 51) == bytes(50) + b"\xcc"


def test_double_free() -> None:
    k = machine()
    cache = thing(k)
    a, b = need(cache.alloc()), need(cache.alloc())
    cache.free(a)
    cache.free(b)
    image = k.ram.read(k.pa(a & ~0xFFF), 4096)
    with pytest.raises(BadFree, match="double free"):
        cache.free(a)
    lines = take(k)
    assert lines[1] == "BUG thing (Not tainted): Object already free"
    assert lines[-1] == f"FIX thing: Object at {a:#018x} not freed"
    assert any(line.startswith("Freed in") for line in lines)
    assert k.ram.read(k.pa(a & ~0xFFF), 4096) == image
    with pytest.raises(BadFree):
        cache.free(b + 8)
    tainted = "Tainted: G    B             "
    assert f"BUG thing ({tainted}): Invalid object pointer {b + 8:#018x}" in take(k)
    mm.check(k)


@pytest.mark.parametrize("wild", [0xDEAD, 0xFFFFFFFFFFFFFFF8])
def test_freelist_of_the_slab(wild: int) -> None:
    k = machine("F")
    cache = thing(k, 64)
    va = need(cache.alloc())
    pfn = need(k.slab.slab_pfn(va))
    k.page(pfn).index = wild
    assert need(cache.alloc()) != va
    text = "\n".join(take(k))
    assert "Freelist Pointer check fails" in text and f"Invalid pointer {wild:#018x}" in text
    assert "FIX thing: Marking all objects used" in text
    mm.check(k)


def test_freepointer_and_chain() -> None:
    k = machine("F")
    cache = thing(k, 64)
    objects = [need(cache.alloc()) for _ in range(3)]
    for va in objects[:2]:
        cache.free(va)
    k.ram.write64(k.pa(objects[1]) + 32, 0x1234)
    with pytest.raises(SlabError):
        cache.free_objects(need(k.slab.slab_pfn(objects[0])))
    cache.free(objects[2])
    text = "\n".join(take(k))
    assert "BUG thing (Not tainted): Freechain corrupt" in text
    assert "Wrong object count. Counter is 1 but counted were 63" in text
    assert "FIX thing: Object count adjusted" in text
    mm.check(k)
    k.ram.write64(k.pa(objects[2]) + 32, 0x777)
    need(cache.alloc())
    assert "Freepointer corrupt" in "\n".join(take(k))
    mm.check(k)


def test_cycle() -> None:
    k = machine("F")
    cache = thing(k, 64)
    a, b = need(cache.alloc()), need(cache.alloc())
    cache.free(a)
    k.ram.write64(k.pa(a) + 32, a)
    assert cache.validate() == 1
    text = "\n".join(take(k))
    assert "Freelist cycle detected" in text and "FIX thing: Freelist cleared" in text
    mm.check(k)
    cache.free(b)
    mm.check(k)


def test_slab_padding_and_counters() -> None:
    k = machine("FP")
    cache = thing(k, 200)
    va = need(cache.alloc())
    base = va & ~0xFFF
    tail = 4096 % cache.size
    assert tail
    k.ram.write8(k.pa(base) + 4095, 1)
    pfn = need(k.slab.slab_pfn(va))
    k.page(pfn).private += 5 << 16  # objects
    cache.validate()
    text = "\n".join(take(k))
    objects = cache.objects_per_slab
    assert f"objects {objects + 5} > max {objects}" in text
    k.page(pfn).private -= 5 << 16
    cache.validate()
    lines = take(k)
    where = f"{base + 4095:#018x}-{base + 4095:#018x}"
    assert f"Padding overwritten. {where} @offset=4095" in lines[1]
    assert f"FIX thing: Restoring slab padding {where}=0x5a" in lines
    k.page(pfn).private += 3  # inuse
    cache.validate()
    assert "Wrong object count. Counter is 4 but counted were 1" in "\n".join(take(k))
    mm.check(k)


def test_tracks_and_trace() -> None:
    k = machine("UT")
    cache = thing(k)
    k.set_current(42, "insmod")
    k.slab.caller = 0xFFFFFFFF00001234
    k.vmcoreinfo.slab_root.jiffies = 1000
    k.messages.clear()
    va = need(cache.alloc())
    info = k.slab.object_info(va + 5)
    assert info and info.object == va and info.allocated
    assert info.alloc_track == (0xFFFFFFFF00001234, 42, 1000) and info.free_track is None
    assert take(k)[0].startswith(f"TRACE thing alloc {va:#018x} inuse=")
    cache.free(va)
    info = mm.attach(k.ram).slab.object_info(va)
    assert info and not info.allocated and info.free_track == (0xFFFFFFFF00001234, 42, 1000)


def test_hex_dump() -> None:
    assert print_hex_dump("Object   ", 0xFFFFFFD600001000, b"kkkkkkkkkkkkkkk\xa5A") == [
        "Object   ffffffd600001000: " + "6b " * 15 + "a5  kkkkkkkkkkkkkkk.",
        "Object   ffffffd600001010: 41                                               A",
    ]


def test_higher_orders_only_without_o() -> None:
    with_o, without = machine("FZPUO"), machine("FZPU")
    for k, has in ((with_o, False), (without, True)):
        flags = {c.name: c.struct.flags & SLAB_RED_ZONE for c in k.slab.caches()}
        assert bool(flags["kmalloc-4k"]) == has and flags["kmalloc-64"]


def test_hardened_pointers_are_not_addresses() -> None:
    k = mm.boot(Ram(8 << 20), mm.Config(slab_freelist_hardened=True))
    cache = k.kmalloc_caches.cache_for(64)
    assert isinstance(cache, SlubCache)
    a, b = need(k.kmalloc(64)), need(k.kmalloc(64))
    k.kfree(a)
    k.kfree(b)
    stored = k.ram.read64(k.pa(b) + 32)
    swabbed = int.from_bytes((b + 32).to_bytes(8, "little"), "big")
    assert stored != a and stored ^ cache.struct.random ^ swabbed == a
    assert cache.struct.cpu.slab == 0 and k.slab.caches()[1].struct.random != cache.struct.random
    k.ram.write64(k.pa(b) + 32, a)  # a forged pointer decodes to garbage
    assert k.kmalloc(64) == b
    with pytest.raises(SlabError, match="no object"):
        k.kmalloc(64)
