"""SLAB's debugging: | red word | object | red word | last caller |, and poison in free objects.

With slub_debug: Z are the red words, P is poison, U the last caller. What is corrupt is
reported, repaired, and the operation goes on. Source: Linux 6.1 mm/slab.c
(cache_alloc_debugcheck_after, cache_free_debugcheck, check_poison_obj, verify_redzone_free).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mm.errors import BadFree
from mm.slab.core import SlabCore
from mm.slab.flags import (
    OBJECT_POISON,
    POISON_END,
    POISON_FREE,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
from mm.slab.structs import (
    KmemCacheStruct,
)

RED_INACTIVE = 0x09F911029D74E35B
RED_ACTIVE = 0xD84156C5635688C0


class DebuggedSlabCache(Protocol):
    """What debugging needs of a SLAB cache: see SlabCache."""

    struct: KmemCacheStruct
    obj_offset: int

    @property
    def name(self) -> str: ...
    def array_entries(self) -> list[int]: ...
    def all_slabs(self) -> list[int]: ...
    def objects_of(self, i: int) -> Iterable[int]: ...
    def free_objects(self, pfn: int) -> list[int]: ...
    def double_free(self, va: int) -> BadFree: ...


class SlabDebug:
    """The debugging of one SLAB cache."""

    def __init__(self, cache: DebuggedSlabCache, core: SlabCore) -> None:
        self.cache = cache
        self.core = core
        self._space = core.space
        self._ram = core.ram
        self._flags = cache.struct.flags
        self._size = cache.struct.size
        self._object_size = cache.struct.object_size
        self._obj_offset = cache.struct.obj_offset

    def red_words(self, va: int) -> tuple[int, int]:
        pa = self._space.pa(va - self._obj_offset)
        back = self._size - 8 - (8 if self._flags & SLAB_STORE_USER else 0)
        return pa, pa + back

    def init_object(self, va: int) -> None:
        if self._flags & SLAB_RED_ZONE:
            for pa in self.red_words(va):
                self._ram.write64(pa, RED_INACTIVE)
        if self._flags & SLAB_STORE_USER:
            self._ram.write64(self._space.pa(va - self._obj_offset) + self._size - 8, 0)
        if self._flags & OBJECT_POISON:
            self._poison(va)

    def _poison(self, va: int) -> None:
        size = self._object_size
        pa = self._space.pa(va)
        self._ram.fill(pa, size - 1, POISON_FREE)
        self._ram.write8(pa + size - 1, POISON_END)

    def _slab_error(self, function: str, va: int, text: str) -> None:
        a = self.core
        a.printk(f"slab error in {function}(): cache `{self.cache.name}': {text}")
        if self._flags & SLAB_RED_ZONE:
            one, two = (self._ram.read64(pa) for pa in self.red_words(va))
            a.printk(f"{va - self._obj_offset:016x}: redzone 1:{one:#x}, redzone 2:{two:#x}")
        a.add_taint()
        a.errors += 1

    def last_user(self, va: int) -> int:
        return self._ram.read64(self._space.pa(va - self._obj_offset) + self._size - 8)

    def check_poison(self, va: int) -> bool:
        """check_poison_obj: whether a free object is poison; reported and repaired if not."""
        if not self._flags & OBJECT_POISON:
            return True
        size = self._object_size
        data = self._ram.read(self._space.pa(va), size)
        want = bytes([POISON_FREE]) * (size - 1) + bytes([POISON_END])
        if data == want:
            return True
        a = self.core
        a.printk(
            f"Slab corruption ({a.print_tainted()}): {self.cache.name} start={va:016x}, len={size}"
        )
        if self._flags & SLAB_RED_ZONE:
            one, two = (self._ram.read64(pa) for pa in self.red_words(va))
            a.printk(f"Redzone: {one:#x}/{two:#x}")
        if self._flags & SLAB_STORE_USER:
            a.printk(f"Last user: ({self.last_user(va):#x})")
        lines = [at for at in range(0, size, 16) if data[at : at + 16] != want[at : at + 16]]
        for at in lines[:16]:
            a.printk(f"{at:03x}: {data[at : at + 16].hex(' ')}")
        self._poison(va)
        a.add_taint()
        a.errors += 1
        return False

    def alloc(self, va: int) -> None:
        """cache_alloc_debugcheck_after."""
        self.check_poison(va)
        if self._flags & OBJECT_POISON:
            self._ram.fill(self._space.pa(va), self._object_size, 0x5A)
        if self._flags & SLAB_RED_ZONE:
            pas = self.red_words(va)
            if any(self._ram.read64(pa) != RED_INACTIVE for pa in pas):
                self._slab_error(
                    "cache_alloc_debugcheck_after",
                    va,
                    "double free, or memory outside object was overwritten",
                )
            for pa in pas:
                self._ram.write64(pa, RED_ACTIVE)
        self._note_user(va)
        self._trace(va, "alloc")

    def _note_user(self, va: int) -> None:
        if self._flags & SLAB_STORE_USER:
            pa = self._space.pa(va - self._obj_offset) + self._size - 8
            self._ram.write64(pa, self.core.caller)

    def _trace(self, va: int, what: str) -> None:
        if self._flags & SLAB_TRACE:
            self.core.printk(f"TRACE {self.cache.name} {what} {va:#018x}")

    def free(self, va: int) -> None:
        """cache_free_debugcheck. Raises BadFree for what is free already."""
        if self._flags & SLAB_RED_ZONE:
            self._verify_redzone_free(va)
            for pa in self.red_words(va):
                self._ram.write64(pa, RED_INACTIVE)
        if self._flags & SLAB_CONSISTENCY_CHECKS and va in self.cache.array_entries():
            raise self.cache.double_free(va)
        self._note_user(va)
        self._trace(va, "free")
        if self._flags & OBJECT_POISON:
            self._poison(va)

    def _verify_redzone_free(self, va: int) -> None:
        reds = {self._ram.read64(pa) for pa in self.red_words(va)}
        if reds == {RED_ACTIVE}:
            return
        if reds == {RED_INACTIVE}:
            self._slab_error("verify_redzone_free", va, "double free detected")
            raise self.cache.double_free(va)
        self._slab_error("verify_redzone_free", va, "memory outside object was overwritten")

    def validate(self) -> int:
        """Check every object of the cache; report and repair. How many things were wrong."""
        self.core.errors = 0
        on_stack = set(self.cache.array_entries())
        for i in self.cache.all_slabs():
            free = set(self.cache.free_objects(self.core.pfn(i)))
            for va in self.cache.objects_of(i):
                is_free = va in free or va in on_stack
                if is_free:
                    self.check_poison(va)
                if self._flags & SLAB_RED_ZONE:
                    want = RED_INACTIVE if is_free else RED_ACTIVE
                    pas = self.red_words(va)
                    if any(self._ram.read64(pa) != want for pa in pas):
                        self._slab_error("validate", va, "memory outside object was overwritten")
                        for pa in pas:
                            self._ram.write64(pa, want)
        return self.core.errors

    def clobbered(self, i: int, free: set[int]) -> list[str]:
        """What was overwritten around and in the objects of a slab; nothing is changed."""
        found = []
        for va in self.cache.objects_of(i):
            red = RED_INACTIVE if va in free else RED_ACTIVE
            pas = self.red_words(va) if self._flags & SLAB_RED_ZONE else ()
            for which, pa in enumerate(pas, 1):
                if self._ram.read64(pa) != red:
                    found.append(
                        f"redzone {which} of the object at {va:#x} overwritten, "
                        f"{self._ram.read64(pa):#x} instead of {red:#x}"
                    )
            if va in free and self._flags & OBJECT_POISON:
                data = self._ram.read(self._space.pa(va), self._object_size)
                want = bytes([POISON_FREE]) * (len(data) - 1) + bytes([POISON_END])
                at = next((n for n in range(len(data)) if data[n] != want[n]), None)
                if at is not None:
                    found.append(
                        f"Poison of the object at {va:#x} overwritten at {va + at:#x}, "
                        f"{data[at]:#x} instead of {want[at]:#x}"
                    )
        return found
