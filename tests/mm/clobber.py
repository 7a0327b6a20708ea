"""Memory that somebody wrote to: words of a kernel's RAM are changed at random, and then the
kernel is used. What must come of each use is a result or an MmError, and an end.

A trial is a seed: the same seed clobbers the same words and makes the same calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

import mm
from emu.ram import RAM_BASE, Ram
from mm import proc
from mm.errors import MmError
from mm.gfp import GFP_COMP, GFP_KERNEL, GFP_ZERO
from mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, MmStruct
from mm.slab import KmemCache
from mm.vma import VM_READ, VM_WRITE
from mm.what import what

M64 = (1 << 64) - 1
SIZES = (1, 8, 24, 64, 96, 100, 190, 500, 1000, 2048, 3000, 4090, 5000, 8192, 9000, 40000)
USES = 24  # of a kernel, in one trial

Use = tuple[str, Callable[[], object]]


class Untyped(AssertionError):
    """A use of a clobbered kernel that ended in something else than an MmError."""


class Populated:
    """A kernel with some of everything in its RAM, and the RAM as it was then."""

    def __init__(self, **config: object) -> None:
        self.ram = Ram(8 << 20)
        k = mm.boot(self.ram, mm.Config(**config))  # type: ignore[arg-type]
        rng = random.Random(0)
        self.objects = [k.kmalloc(size) or 0 for size in SIZES * 2]
        for va in rng.sample(self.objects, 10):
            self.objects.remove(va)
            k.kfree(va)
        self.pages = [(k.alloc_pages(GFP_KERNEL | (GFP_COMP if n % 2 else 0), n % 4) or 0, n % 4)
                      for n in range(12)]  # fmt: skip
        for pfn, order in self.pages[8:]:
            k.free_pages(pfn, order)
        del self.pages[8:]
        self.areas = [k.vmalloc(size) or 0 for size in (4096, 20000, 4096, 70000)]
        k.vfree(self.areas.pop())
        module = k.module_alloc(8192) or 0
        k.set_memory(module, 4096, PAGE_KERNEL_EXEC)
        self.areas.append(module)
        self.names = [f"mine_{size}" for size in (40, 200, 700)]
        for name, size in zip(self.names, (40, 200, 700), strict=True):
            cache = k.kmem_cache_create(name, size)
            assert all([cache.alloc() for _ in range(7)])
        for n in range(2):
            space = k.mm_alloc()
            for i in range(3):
                k.mmap_region(space, 0x10000 + 0x10000 * i, 0x3000, VM_READ | (i & 1) << 1, "x")
            k.copy_to_user(space, 0x20000, bytes([n + 1]) * 0x1800)
        mm.check(k)
        self.image = self.ram.read(RAM_BASE, self.ram.size)
        # Where anything is: most words of RAM are 0 and nobody's. By value, so that one that
        # is there once, as most of the structures' are, is as likely as a page full of 1s.
        words = np.frombuffer(self.image, np.uint64)
        used = words.nonzero()[0]
        order = words[used].argsort(kind="stable")
        cuts = np.diff(words[used][order]).nonzero()[0] + 1
        self.used = [where.tolist() for where in np.split(used[order], cuts)]

    def pick(self, rng: random.Random) -> int:
        """The index of a word that is not 0, or of one beside it."""
        return rng.choice(rng.choice(self.used)) + rng.choice((0, 0, 0, 1, -1))


class Trial:
    """One kernel, clobbered and used. ``kernel`` is attached before or after, by the seed."""

    def __init__(self, world: Populated, seed: int) -> None:
        self.world = world
        self.rng = rng = random.Random(seed)
        ram = self.ram = world.ram
        ram.write(RAM_BASE, world.image)
        self.done: list[str] = []
        self.kernel: mm.Kernel | None = None
        if rng.random() < 0.5:
            self._attach()
        for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
            self._clobber()
        self.objects, self.areas = list(world.objects), list(world.areas)
        self.pages = list(world.pages)

    def _clobber(self) -> None:
        rng, u64 = self.rng, self.ram.u64
        at = min(max(self.world.pick(rng), 0), len(u64) - 1)
        old = u64[at]
        u64[at] = new = rng.choice(
            (
                old ^ 1 << rng.randrange(64),
                old ^ 1 << rng.randrange(64),
                u64[min(self.world.pick(rng), len(u64) - 1)],
                rng.choice((0, M64, rng.getrandbits(64), *(old + d & M64 for d in (8, -8, 64)))),
            )
        )
        self.done.append(f"word {at:#x}: {old:#x} -> {new:#x}")

    def _attach(self) -> None:
        self.kernel = mm.attach(self.ram)

    def _check(self) -> None:
        mm.check(self._k)

    def run(self) -> bool:
        """Use the kernel; whether anything was refused. Raises Untyped."""
        refused = False
        for n in range(USES):
            name, use = ("attach", self._attach) if self.kernel is None else self._use()
            if n == USES - 1 and self.kernel is not None:
                name, use = "check", self._check
            self.done.append(name)
            try:
                use()
            except MmError:
                refused = True
                if self.kernel is None:
                    break  # there is nothing to use
            except Exception as e:
                raise Untyped(f"{type(e).__name__}: {e}\n" + "\n".join(self.done)) from e
        return refused

    # uses

    def _use(self) -> Use:
        kind = self.rng.choice((self._memory, self._memory, self._caches, self._spaces, self._look))
        return kind()

    @property
    def _k(self) -> mm.Kernel:
        assert self.kernel is not None
        return self.kernel

    def _memory(self) -> Use:
        k, rng = self._k, self.rng
        size, order = rng.choice(SIZES), rng.randrange(6)
        gfp = GFP_KERNEL | rng.choice((0, GFP_ZERO))
        va = rng.choice(self.objects)
        page = rng.choice(self.pages)
        area = rng.choice(self.areas)
        return rng.choice(
            (
                ("kmalloc", lambda: self.objects.append(k.kmalloc(size, gfp) or va)),
                ("kfree", lambda: k.kfree(va)),
                ("krealloc", lambda: self.objects.append(k.krealloc(va, size, gfp) or va)),
                ("ksize", lambda: k.ksize(va)),
                ("alloc_pages", lambda: self.pages.append((k.alloc_pages(gfp, order) or 0, order))),
                ("free_pages", lambda: k.free_pages(*page)),
                ("alloc_pages_bulk", lambda: k.alloc_pages_bulk(gfp, 20)),
                ("vmalloc", lambda: self.areas.append(k.vmalloc(size * 8) or area)),
                ("vfree", lambda: k.vfree(area)),
                ("vmap", lambda: self.areas.append(k.vmap([page[0] or 0x80400]) or area)),
                ("vm_unmap_aliases", k.vm_unmap_aliases),
                ("set_memory", lambda: k.set_memory(area, 4096, PAGE_KERNEL)),
                ("drain", k.page_alloc.drain_all_pages),
                ("reclaim", k.page_alloc.reclaim.shrink),
                ("compact", lambda: k.compaction.compact_zone(k.zones[0], 9)),
            )
        )

    def _cache(self) -> KmemCache:
        k = self._k
        return self.rng.choice(k.slab.caches()[-3:])

    def _caches(self) -> Use:
        k, rng = self._k, self.rng
        name, count = f"new_{rng.getrandbits(32):x}", rng.randrange(1, 40)
        va = rng.choice(self.objects)

        def bulk() -> None:
            cache = self._cache()
            taken = [cache.alloc() for _ in range(count)]
            for taken_va in reversed(taken):
                cache.free(taken_va or 0)

        return rng.choice(
            (
                ("alloc", lambda: self.objects.append(self._cache().alloc() or va)),
                ("free", lambda: self._cache().free(va)),
                ("bulk", bulk),
                ("shrink", lambda: self._cache().shrink()),
                ("validate", lambda: self._cache().validate()),
                ("create", lambda: k.kmem_cache_create(name, 8 * count)),
                ("destroy", lambda: self._cache().destroy()),
            )
        )

    def _space(self) -> MmStruct:
        return self.rng.choice(self._k.address_spaces.mms() or [self._k.mm_alloc()])

    def _spaces(self) -> Use:
        k, rng = self._k, self.rng
        at, size = 0x1000 * rng.randrange(8, 64), 0x1000 * rng.randrange(1, 6)
        return rng.choice(
            (
                ("mm_alloc", k.mm_alloc),
                ("mmdrop", lambda: k.mmdrop(self._space())),
                ("mmap", lambda: k.mmap_region(self._space(), at, size, VM_READ | VM_WRITE)),
                ("munmap", lambda: k.munmap(self._space(), at, size)),
                ("mprotect", lambda: k.mprotect(self._space(), at, size, VM_READ)),
                ("copy_to_user", lambda: k.copy_to_user(self._space(), at, bytes(size))),
                ("copy_from_user", lambda: k.copy_from_user(self._space(), at, size)),
                ("satp", lambda: k.satp(self._space())),
            )
        )

    def _look(self) -> Use:
        k, rng = self._k, self.rng
        file = rng.choice(list(proc.FILES))
        address = rng.choice(
            (
                RAM_BASE + rng.randrange(self.ram.size),
                k.space.page_offset + rng.randrange(self.ram.size),
                k.space.vmemmap + rng.randrange(1 << 17),
                k.layout.vmalloc_start + rng.randrange(1 << 18),
                rng.choice(self.objects),
                0x10000,
            )
        )
        return rng.choice(
            (
                (file, lambda: proc.FILES[file](k)),
                (file, lambda: proc.FILES[file](k)),
                ("maps", lambda: proc.maps(k, self._space())),
                (f"what {address:#x}", lambda: str(what(k, address))),
                ("what in a process", lambda: str(what(k, 0x20000, self._space()))),
                ("log", lambda: k.log),
                ("check", self._check),
                ("attach", self._attach),
            )
        )
