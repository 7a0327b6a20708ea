"""slub_debug: red zones, poison, tracking and sanity checks around SLUB's objects.

    |<-------------------------------- size ---------------------------------->|
    | left red | object                | right red | free    | track x 2 | orig | pad  |
    | zone     | 6b 6b 6b ... 6b a5    | zone      | pointer | (U)       | size | 5a.. |
    | bb or cc |<---- object_size ---->| bb or cc  |         | alloc,free| (U)  |      |
    ^          ^<------------- inuse ------------->^
    slab + n * size    (red_left_pad bytes before the object)

A red zone is bb while the object is free, cc while it is handed out. Without red zones
there is none on the left, and what fills up the object's last word is 5a. The parts are
there as the cache's flags want (letters of slub_debug):

| F | sanity checks on every alloc and free; the freelist is walked |
| Z | red zones; with U also over the bytes of a kmalloc object that were not asked for |
| P | poison: free objects are 6b, their last byte a5; padding is 5a |
| U | two struct track: who allocated and freed it; for kmalloc caches the size asked for |
| T | a line for each alloc and free |
| O | not for caches whose slabs would become larger |

What is corrupt is reported (``printk``), repaired, and the operation goes on as Linux's
does: a slab whose free object was clobbered is set aside as all used, an object that was
clobbered while in use is not freed. Source: Linux mm/slub.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from emu.ram import PAGE_SIZE
from mm.errors import BadFree
from mm.page import SLAB_WORD, W_TYPE_REF
from mm.slab.core import SlabCore, print_hex_dump
from mm.slab.flags import (
    OBJECT_POISON,
    POISON_END,
    POISON_FREE,
    POISON_INUSE,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
from mm.slab.structs import FROZEN, PG_WORKINGSET, W_COUNTERS, W_FREELIST, KmemCacheStruct, Track

SLUB_RED_INACTIVE = 0xBB
SLUB_RED_ACTIVE = 0xCC
TRACK_ALLOC, TRACK_FREE = 0, 1
_OBJECTS = 0x7FFF

TrackFields = tuple[int, int, int] | None


class DebuggedCache(Protocol):
    """What debugging needs of a SLUB cache: see SlubCache. ``i`` is the word index of a slab's
    struct page, ``va`` the VA of an object of it."""

    struct: KmemCacheStruct
    flags: int
    offset: int
    red_left_pad: int

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def get_freepointer(self, va: int) -> int: ...
    def set_freepointer(self, va: int, next_: int) -> None: ...
    def check_valid_pointer(self, i: int, va: int) -> bool: ...
    def objects_of(self, i: int) -> Iterable[int]: ...
    def free_objects(self, pfn: int) -> list[int]: ...
    def all_slabs(self) -> list[int]: ...
    def remove_partial(self, i: int) -> None: ...
    def add_full(self, i: int) -> None: ...


class SlubDebug:
    """The debugging of all SLUB caches of a kernel; ``i`` and ``va`` as in DebuggedCache."""

    def __init__(self, core: SlabCore) -> None:
        self.core = core
        self.ram = core.ram
        self.space = core.space

    # where things are

    def _pa(self, va: int) -> int:
        return self.space.pa(va)

    @staticmethod
    def _free_pointer_outside(s: DebuggedCache) -> bool:
        """freeptr_outside_object."""
        return s.offset >= s.struct.inuse

    def _info_end(self, s: DebuggedCache) -> int:
        inuse: int = s.struct.inuse
        return inuse + 8 if self._free_pointer_outside(s) else inuse

    @staticmethod
    def _has_orig_size(s: DebuggedCache) -> bool:
        return bool(s.flags & SLAB_KMALLOC and s.flags & SLAB_STORE_USER)

    def _track(self, s: DebuggedCache, va: int, which: int) -> Track:
        return Track(self.ram, self._pa(va + self._info_end(s)) + which * Track.SIZE)

    def _orig_size_pa(self, s: DebuggedCache, va: int) -> int:
        return self._pa(va + self._info_end(s)) + 2 * Track.SIZE

    def orig_size(self, s: DebuggedCache, va: int) -> int:
        """The bytes that kmalloc was asked for, object_size where that is not recorded."""
        object_size: int = s.struct.object_size
        if not self._has_orig_size(s):
            return object_size
        return min(self.ram.read32(self._orig_size_pa(s, va)), object_size)

    def _set_orig_size(self, s: DebuggedCache, va: int, size: int) -> None:
        if self._has_orig_size(s):
            self.ram.write32(self._orig_size_pa(s, va), size or s.struct.object_size)

    def skip_orig_size_check(self, s: DebuggedCache, va: int) -> None:
        """After ksize all of the object is its user's: no red zone in it any more."""
        if self._has_orig_size(s):
            self._set_orig_size(s, va, s.struct.object_size)

    def krealloc(self, s: DebuggedCache, va: int, size: int) -> None:
        """The object is of ``size`` bytes now, and what is behind them is red zone."""
        if self._has_orig_size(s):
            self._set_orig_size(s, va, size)
            if s.flags & SLAB_RED_ZONE and size < s.struct.object_size:
                self.ram.fill(self._pa(va) + size, s.struct.object_size - size, SLUB_RED_ACTIVE)

    def _tail_start(self, s: DebuggedCache) -> int:
        """Offset of the padding behind all metadata (check_pad_bytes)."""
        at = self._info_end(s)
        if s.flags & SLAB_STORE_USER:
            at += 2 * Track.SIZE
            if s.flags & SLAB_KMALLOC:
                at += 4
        return at

    def _size_from_object(self, s: DebuggedCache) -> int:
        return s.size - s.red_left_pad

    def tracks(self, s: DebuggedCache, va: int) -> tuple[TrackFields, TrackFields]:
        """(addr, pid, jiffies) of the last alloc and free, None each if unknown."""
        if not s.flags & SLAB_STORE_USER:
            return None, None
        found = []
        for which in (TRACK_ALLOC, TRACK_FREE):
            t = self._track(s, va, which)
            found.append((t.addr, t.pid, t.when) if t.addr else None)
        return found[0], found[1]

    # writing

    def setup_slab(self, s: DebuggedCache, base: int, order: int, count: int) -> None:
        """setup_slab_debug and, for each object, setup_object_debug."""
        if s.flags & SLAB_POISON:
            self.ram.fill(self._pa(base), PAGE_SIZE << order, POISON_INUSE)
        for n in range(count):
            va = base + s.red_left_pad + n * s.size
            self._init_object(s, va, SLUB_RED_INACTIVE)
            if s.flags & SLAB_STORE_USER:
                for which in (TRACK_ALLOC, TRACK_FREE):
                    self._track(s, va, which).clear()
                self._set_orig_size(s, va, s.struct.object_size)

    def _init_object(self, s: DebuggedCache, va: int, value: int) -> None:
        pa, size = self._pa(va), s.struct.object_size
        inuse: int = s.struct.inuse
        if s.flags & SLAB_RED_ZONE:
            self.ram.fill(pa - s.red_left_pad, s.red_left_pad, value)
            if value == SLUB_RED_ACTIVE:
                size = self.orig_size(s, va)
        if s.flags & OBJECT_POISON and size:
            self.ram.fill(pa, size - 1, POISON_FREE)
            self.ram.write8(pa + size - 1, POISON_END)
        if s.flags & SLAB_RED_ZONE:
            self.ram.fill(pa + size, inuse - size, value)

    def _set_track(self, s: DebuggedCache, va: int, which: int) -> None:
        if s.flags & SLAB_STORE_USER:
            t = self._track(s, va, which)
            t.addr, t.pid, t.when = self.core.caller, self.core.pid, self.core.jiffies
            t.handle, t.cpu = 0, 0

    def _trace(self, s: DebuggedCache, i: int, va: int, alloc: bool) -> None:
        if s.flags & SLAB_TRACE:
            u64 = self.ram.u64
            self.core.printk(
                f"TRACE {s.name} {'alloc' if alloc else 'free'} {va:#018x} "
                f"inuse={u64[i + W_COUNTERS] & 0xFFFF} fp={u64[i + W_FREELIST]:#018x}"
            )

    # reports

    def _bug(self, s: DebuggedCache, text: str) -> None:
        self.core.errors += 1
        self.core.slab_bug(s.name, text)

    def _slab_err(self, s: DebuggedCache, i: int, text: str) -> None:
        self.core.errors += 1
        self.core.slab_err(s.name, i, text)

    def _fix(self, s: DebuggedCache, text: str) -> None:
        self.core.printk(f"FIX {s.name}: {text}")

    def _object_err(self, s: DebuggedCache, i: int, va: int, reason: str) -> None:
        self._bug(s, reason)
        if not va or not s.check_valid_pointer(i, va):
            self.core.print_slab_info(i)
            self.core.printk(f"Invalid pointer {va:#018x}")
        else:
            self.print_trailer(s, i, va)
        self.core.add_taint()

    def print_tracking(self, s: DebuggedCache, va: int) -> None:
        """Who allocated and freed an object."""
        now = self.core.jiffies
        for what, track in zip(("Allocated", "Freed"), self.tracks(s, va), strict=True):
            if track:
                addr, pid, when = track
                self.core.printk(f"{what} in {addr:#x} age={now - when} cpu=0 pid={pid}")

    def _section(self, prefix: str, va: int, size: int) -> None:
        if size > 0:
            for line in print_hex_dump(prefix, va, self.ram.read(self._pa(va), size)):
                self.core.printk(line)

    def print_trailer(self, s: DebuggedCache, i: int, va: int) -> None:
        """All about one object."""
        base = self.core.slab_base(i)
        self.print_tracking(s, va)
        self.core.print_slab_info(i)
        self.core.printk(f"Object {va:#018x} @offset={va - base} fp={s.get_freepointer(va):#018x}")
        self.core.printk("")
        inuse, size = s.struct.inuse, s.struct.object_size
        if s.flags & SLAB_RED_ZONE:
            self._section("Redzone  ", va - s.red_left_pad, s.red_left_pad)
        elif va > base + 16:
            self._section("Bytes b4 ", va - 16, 16)
        self._section("Object   ", va, min(size, PAGE_SIZE))
        if s.flags & SLAB_RED_ZONE:
            self._section("Redzone  ", va + size, inuse - size)
        at = self._tail_start(s)
        self._section("Padding  ", va + at, self._size_from_object(s) - at)

    def _check_bytes(
        self, s: DebuggedCache, i: int, what: str, start: int, value: int, size: int
    ) -> bool:
        """check_bytes_and_report: that ``size`` bytes at VA ``start`` are ``value``; else a
        report, and they are again."""
        if size <= 0:
            return True
        data = self.ram.read(self._pa(start), size)
        left = data.lstrip(bytes([value]))
        if not left:
            return True
        fault = start + size - len(left)
        end = fault + len(left.rstrip(bytes([value])))
        self._bug(s, f"{what} overwritten")
        self.core.printk(
            f"{fault:#018x}-{end - 1:#018x} @offset={fault - self.core.slab_base(i)}. "
            f"First byte {left[0]:#x} instead of {value:#x}"
        )
        self._fix(s, f"Restoring {what} {fault:#018x}-{end - 1:#018x}={value:#x}")
        self.ram.fill(self._pa(fault), end - fault, value)
        return False

    # checks

    def _patterns(
        self, s: DebuggedCache, va: int, value: int
    ) -> Iterator[tuple[str, int, int, int]]:
        """``(what, VA, byte, bytes)``: what must be filled with which byte around an object, and
        within a free one. ``value`` is the red zones'."""
        size, inuse = s.struct.object_size, s.struct.inuse
        if s.flags & SLAB_RED_ZONE:
            yield "Left Redzone", va - s.red_left_pad, value, s.red_left_pad
            yield "Right Redzone", va + size, value, inuse - size
            if value == SLUB_RED_ACTIVE:
                orig = self.orig_size(s, va)
                yield "kmalloc Redzone", va + orig, value, size - orig
        elif s.flags & SLAB_POISON:
            yield "Alignment padding", va + size, POISON_INUSE, inuse - size
        if s.flags & SLAB_POISON:
            if value != SLUB_RED_ACTIVE and s.flags & OBJECT_POISON:
                yield "Poison", va, POISON_FREE, size - 1
                yield "End Poison", va + size - 1, POISON_END, 1
            at = self._tail_start(s)
            yield "Object padding", va + at, POISON_INUSE, self._size_from_object(s) - at

    def _clobbered(self, s: DebuggedCache, va: int, value: int) -> list[str]:
        """What of an object's patterns is overwritten, in words; nothing is changed."""
        found = []
        for what, start, byte, size in self._patterns(s, va, value):
            data = self.ram.read(self._pa(start), size) if size > 0 else b""
            left = data.lstrip(bytes([byte]))
            if left:
                fault = start + size - len(left)
                found.append(
                    f"{what} of the object at {va:#x} overwritten at {fault:#x}, "
                    f"{left[0]:#x} instead of {byte:#x}"
                )
        return found

    def clobbered(self, s: DebuggedCache, i: int, free: set[int]) -> list[str]:
        """What was overwritten around and in the objects of a slab, ``free`` those that are.

        Unlike `validate` it changes and reports nothing. An object of a slab that was set aside
        counts as used, and is filled as a free one."""
        found: list[str] = []
        for va in s.objects_of(i):
            if va in free:
                found += self._clobbered(s, va, SLUB_RED_INACTIVE)
                continue
            used = self._clobbered(s, va, SLUB_RED_ACTIVE)
            if used and self._clobbered(s, va, SLUB_RED_INACTIVE):
                found += used
        return found

    def check_object(self, s: DebuggedCache, i: int, va: int, value: int) -> bool:
        """Whether everything around an object, and within a free one, is as it should be.

        ``value`` is the red zones'. What is not is reported and repaired."""
        good = True
        for what, start, byte, size in self._patterns(s, va, value):
            good &= self._check_bytes(s, i, what, start, byte, size)
        outside = self._free_pointer_outside(s)
        if (outside or value != SLUB_RED_ACTIVE) and not s.check_valid_pointer(
            i, s.get_freepointer(va)
        ):
            self._object_err(s, i, va, "Freepointer corrupt")
            s.set_freepointer(va, 0)  # the rest of the freelist is lost
            good = False
        if not good:
            self.print_trailer(s, i, va)
            self.core.add_taint()
        return good

    def check_slab(self, s: DebuggedCache, i: int) -> bool:
        """Whether the struct slab is that of a slab of the cache."""
        u64 = self.ram.u64
        if u64[i + W_TYPE_REF] != SLAB_WORD:
            self._slab_err(s, i, "Not a valid slab page")
            return False
        counters = u64[i + W_COUNTERS]
        objects, inuse = counters >> 16 & _OBJECTS, counters & 0xFFFF
        most = (PAGE_SIZE << self.core.slab_order(i)) // s.size
        if objects > most:
            self._slab_err(s, i, f"objects {objects} > max {most}")
            return False
        if inuse > objects:
            self._slab_err(s, i, f"inuse {inuse} > max {objects}")
            return False
        if counters & FROZEN:
            self._slab_err(s, i, "Slab disabled since SLUB metadata consistency check failed")
            return False
        self._slab_pad_check(s, i)
        return True

    def _slab_pad_check(self, s: DebuggedCache, i: int) -> None:
        """What is behind the last object."""
        if not s.flags & SLAB_POISON:
            return
        base = self.core.slab_base(i)
        size = PAGE_SIZE << self.core.slab_order(i)
        rest = size % s.size
        if not rest:
            return
        pad = base + size - rest
        left = self.ram.read(self._pa(pad), rest).lstrip(bytes([POISON_INUSE]))
        if not left:
            return
        fault = pad + rest - len(left)
        end = fault + len(left.rstrip(bytes([POISON_INUSE])))
        self._slab_err(
            s, i, f"Padding overwritten. {fault:#018x}-{end - 1:#018x} @offset={fault - base}"
        )
        self._section("Padding ", pad, rest)
        self._fix(s, f"Restoring slab padding {fault:#018x}-{end - 1:#018x}={POISON_INUSE:#x}")
        self.ram.fill(self._pa(fault), end - fault, POISON_INUSE)

    def on_freelist(self, s: DebuggedCache, i: int, search: int) -> bool:
        """Whether ``search`` is on the slab's freelist (0: whether the list is good).

        The walk is bounded; a broken list is cut where it breaks, and counters that
        disagree with it are put right."""
        u64 = self.ram.u64
        objects = u64[i + W_COUNTERS] >> 16 & _OBJECTS
        va, last, nr = u64[i + W_FREELIST], 0, 0
        while va and nr <= objects:
            if va == search:
                return True
            if not s.check_valid_pointer(i, va):
                if last:
                    self._object_err(s, i, last, "Freechain corrupt")
                    s.set_freepointer(last, 0)
                    break
                self._slab_err(s, i, "Freepointer corrupt")
                self._clear_freelist(s, i)
                return False
            last, va, nr = va, s.get_freepointer(va), nr + 1
        if nr > objects:
            self._slab_err(s, i, "Freelist cycle detected")
            self._clear_freelist(s, i)
            return False
        most = min((PAGE_SIZE << self.core.slab_order(i)) // s.size, _OBJECTS)
        if objects != most:
            self._slab_err(s, i, f"Wrong number of objects. Found {objects} but should be {most}")
            u64[i + W_COUNTERS] = u64[i + W_COUNTERS] & ~(_OBJECTS << 16) | most << 16
            self._fix(s, "Number of objects adjusted")
            objects = most
        inuse = u64[i + W_COUNTERS] & 0xFFFF
        if inuse != objects - nr:
            self._slab_err(
                s, i, f"Wrong object count. Counter is {inuse} but counted were {objects - nr}"
            )
            u64[i + W_COUNTERS] = u64[i + W_COUNTERS] & ~0xFFFF | objects - nr
            self._fix(s, "Object count adjusted")
            self._unlist_if_full(s, i)
        return search == 0

    def _clear_freelist(self, s: DebuggedCache, i: int) -> None:
        self._use_all(s, i)
        self._fix(s, "Freelist cleared")

    def _use_all(self, s: DebuggedCache, i: int) -> None:
        u64 = self.ram.u64
        objects = u64[i + W_COUNTERS] >> 16 & _OBJECTS
        u64[i + W_FREELIST] = 0
        u64[i + W_COUNTERS] = u64[i + W_COUNTERS] & ~0xFFFF | objects
        self._unlist_if_full(s, i)

    def _unlist_if_full(self, s: DebuggedCache, i: int) -> None:
        """A slab on the partial list that turns out to have no room must leave it."""
        if not self.ram.u64[i + W_FREELIST] and self.ram.u64[i] & PG_WORKINGSET:
            s.remove_partial(i)
            s.add_full(i)

    # alloc and free

    def alloc_processing(self, s: DebuggedCache, i: int, va: int, orig_size: int) -> bool:
        """Before ``va``, the first of the freelist, is taken: False if the slab is not fit
        for use; it has no free objects then."""
        if s.flags & SLAB_CONSISTENCY_CHECKS:
            good = self.check_slab(s, i)
            if good and (not va or not s.check_valid_pointer(i, va)):
                self._object_err(s, i, va, "Freelist Pointer check fails")
                good = False
            if not (good and self.check_object(s, i, va, SLUB_RED_INACTIVE)):
                if self.ram.u64[i + W_TYPE_REF] == SLAB_WORD:
                    self._fix(s, "Marking all objects used")
                    self._use_all(s, i)
                return False
        self._trace(s, i, va, True)
        return True

    def alloc_done(self, s: DebuggedCache, va: int, orig_size: int) -> None:
        """After ``va`` was taken: it is marked as in use."""
        self._set_orig_size(s, va, orig_size)
        self._init_object(s, va, SLUB_RED_ACTIVE)
        self._set_track(s, va, TRACK_ALLOC)

    def free_processing(self, s: DebuggedCache, i: int, va: int) -> bool:
        """Before ``va`` goes onto the freelist: False if it must not.

        Raises BadFree, after the report, for an object that is free already."""
        u64 = self.ram.u64
        checks = s.flags & SLAB_CONSISTENCY_CHECKS
        if checks and not self.check_slab(s, i):
            self._fix(s, f"Object at {va:#018x} not freed")
            return False
        inuse = u64[i + W_COUNTERS] & 0xFFFF
        if u64[i + W_FREELIST] == va or (checks and self.on_freelist(s, i, va)) or not inuse:
            if checks:
                self._object_err(s, i, va, "Object already free")
            elif not inuse:
                self._slab_err(s, i, "Slab has 0 allocated objects but 1 are to be freed")
            self._fix(s, f"Object at {va:#018x} not freed")
            raise BadFree(va, f"object of {s.name} is free already (double free)")
        if checks and not self.check_object(s, i, va, SLUB_RED_ACTIVE):
            self._fix(s, f"Object at {va:#018x} not freed")
            return False
        self._set_track(s, va, TRACK_FREE)
        self._trace(s, i, va, False)
        self._init_object(s, va, SLUB_RED_INACTIVE)
        return True

    def report_invalid_free(self, s: DebuggedCache, i: int, va: int) -> None:
        """A pointer into a slab that is not the start of an object was freed."""
        if s.flags & SLAB_CONSISTENCY_CHECKS:
            self._slab_err(s, i, f"Invalid object pointer {va:#018x}")
            self._fix(s, f"Object at {va:#018x} not freed")

    def check_discarded(self, s: DebuggedCache, i: int) -> None:
        """A slab goes back: its objects once more (free_slab)."""
        if s.flags & SLAB_CONSISTENCY_CHECKS:
            self._slab_pad_check(s, i)
            for va in s.objects_of(i):
                self.check_object(s, i, va, SLUB_RED_INACTIVE)

    def validate(self, s: DebuggedCache) -> int:
        """validate_slab of every slab of the cache; how many reports that made."""
        self.core.errors = 0
        for i in s.all_slabs():
            if not self.check_slab(s, i) or not self.on_freelist(s, i, 0):
                continue
            free = set(s.free_objects(self.core.pfn(i)))
            for va in s.objects_of(i):
                value = SLUB_RED_INACTIVE if va in free else SLUB_RED_ACTIVE
                self.check_object(s, i, va, value)
        return self.core.errors
