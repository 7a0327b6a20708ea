"""One allocation trace through SLAB, SLUB and SLOB: what each costs.

Each allocator gets fresh RAM and runs the same operations. What is measured:

| | |
|---|---|
| time | host seconds of all operations, the best of three runs; Python's, so compare, no more |
| held | pages that the allocator took from the page allocator for the trace: peak, and at the end before and after its caches were shrunk |
| internal | when the most bytes were asked for: of the bytes in live objects (as large as their slot; under SLOB with the header of kmalloc), those that nobody asked for |
| external | at that moment: of the bytes in held pages, those in no live object |
| lines | distinct 64-byte lines of RAM that an operation reads or writes, on average, and for the worst one |

**Lines** stand for cache misses. They are counted by a Ram that notes every access of the
memory manager: slab metadata, struct pages, free pointers in objects, and the page
allocator's structures when slabs come and go. The user's own use of the object is not in
it. Constants of a cache (its size, its order) that Python holds in derived variables cost C
a line of kmem_cache now and then; they are not counted, for none of the three.
"""  # noqa: E501

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from mm.alloc_trace import Op
from mm.boot import Config, boot
from mm.errors import OutOfMemory
from mm.gfp import GFP_KERNEL
from mm.kernel import Kernel
from mm.slab import KmemCache

KINDS = ("slab", "slub", "slob")
LINE_SHIFT = 6
_SLOB_HEADER = 8  # bytes before what kmalloc gives


@dataclass(frozen=True)
class Result:
    """What one allocator made of a trace. Pages, bytes, seconds; fractions of 1."""

    allocator: str
    operations: int
    seconds: float
    peak_pages: int
    end_pages: int
    shrunk_pages: int
    asked_bytes: int  # at the moment of the most
    slot_bytes: int
    held_bytes: int
    lines_per_op: float
    lines_worst: int

    @property
    def internal(self) -> float:
        """Internal fragmentation at that moment."""
        return (self.slot_bytes - self.asked_bytes) / self.slot_bytes if self.slot_bytes else 0.0

    @property
    def external(self) -> float:
        """External fragmentation at that moment."""
        return (self.held_bytes - self.slot_bytes) / self.held_bytes if self.held_bytes else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"internal": self.internal, "external": self.external}


class _Player:
    """Plays a trace on a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.caches: dict[str, KmemCache] = {}
        self.objects: dict[str, tuple[int, KmemCache | None]] = {}

    def play(self, op: Op) -> None:
        """Do one operation. Raises OutOfMemory."""
        if op.kind == "c":
            self.caches[op.name] = self.kernel.kmem_cache_create(f"t-{op.name}"[:31], op.size)
        elif op.kind == "f":
            va, cache = self.objects.pop(op.name)
            if cache is None:
                self.kernel.kfree(va)
            else:
                cache.free(va)
        else:
            cache = self.caches[op.cache] if op.kind == "o" else None
            got = self.kernel.kmalloc(op.size) if cache is None else cache.alloc(GFP_KERNEL)
            if got is None:
                raise OutOfMemory(f"{op}: RAM is too small for this trace")
            self.objects[op.name] = got, cache


def _held(kernel: Kernel, before: int) -> int:
    return before - kernel.page_alloc.nr_free_pages() - kernel.page_alloc.nr_pcp_pages()


def _slot_size(kernel: Kernel, va: int, cache: KmemCache | None) -> int:
    """The bytes that a live object takes up in its page."""
    if kernel.slab.KIND == "slob":
        if cache is not None:
            return cache.size
        size = kernel.ksize(va)
        return size + _SLOB_HEADER if va % PAGE_SIZE else size
    holder = cache or kernel.slab.cache_of(va)
    return holder.size if holder is not None else kernel.ksize(va)


def _timed(ops: Sequence[Op], kind: str, ram_size: int) -> float:
    kernel = boot(Ram(ram_size), Config(slab=kind))
    player = _Player(kernel)
    start = time.perf_counter()
    for op in ops:
        player.play(op)
    return time.perf_counter() - start


def measure(ops: Sequence[Op], kind: str, ram_size: int = 64 << 20, runs: int = 3) -> Result:
    """Play ``ops`` on allocator ``kind``. Raises OutOfMemory when ``ram_size`` bytes of RAM do
    not suffice."""
    ram = CountingRam(ram_size)
    kernel = boot(ram, Config(slab=kind))
    player = _Player(kernel)
    before = kernel.page_alloc.nr_free_pages() + kernel.page_alloc.nr_pcp_pages()
    asked: dict[str, tuple[int, int]] = {}
    asked_now = slots_now = peak = lines = worst = 0
    most = (0, 0, 0)
    for op in ops:
        ram.lines.clear()
        ram.counting = True
        player.play(op)
        ram.counting = False
        lines += len(ram.lines)
        worst = max(worst, len(ram.lines))
        if op.kind == "f":
            size, slot = asked.pop(op.name)
            asked_now -= size
            slots_now -= slot
        elif op.kind != "c":
            va, cache = player.objects[op.name]
            size = op.size if cache is None else cache.object_size
            asked[op.name] = size, _slot_size(kernel, va, cache)
            asked_now += size
            slots_now += asked[op.name][1]
        held = _held(kernel, before)
        peak = max(peak, held)
        if asked_now > most[0]:
            most = asked_now, slots_now, held << PAGE_SHIFT
    end = _held(kernel, before)
    for cache in kernel.slab.caches():
        cache.shrink()
    return Result(
        kind,
        len(ops),
        min(_timed(ops, kind, ram_size) for _ in range(runs)),
        peak,
        end,
        _held(kernel, before),
        *most,
        lines / max(len(ops), 1),
        worst,
    )


def compare(
    ops: Sequence[Op], kinds: Iterable[str] = KINDS, ram_size: int = 64 << 20, runs: int = 3
) -> list[Result]:
    """``measure`` for each allocator."""
    return [measure(ops, kind, ram_size, runs) for kind in kinds]


def table(results: Sequence[Result]) -> str:
    """The results as a table, one allocator a row."""
    head = (
        f"{'':5} {'us/op':>7} {'peak':>7} {'end':>7} {'shrunk':>7} {'internal':>9} "
        f"{'external':>9} {'lines/op':>9} {'worst':>6}\n"
        f"{'':5} {'':>7} {'pages':>7} {'pages':>7} {'pages':>7}\n"
    )
    rows = "".join(
        f"{r.allocator.upper():5} {r.seconds / max(r.operations, 1) * 1e6:7.2f} {r.peak_pages:7d} "
        f"{r.end_pages:7d} {r.shrunk_pages:7d} {r.internal:9.1%} {r.external:9.1%} "
        f"{r.lines_per_op:9.2f} {r.lines_worst:6d}\n"
        for r in results
    )
    return head + rows


# counting


class _CountingView:
    """``ram.u64`` that notes the lines it is asked for."""

    __slots__ = ("_lines", "_ram", "_view")

    def __init__(self, ram: CountingRam, view: memoryview) -> None:
        self._ram = ram
        self._view = view
        self._lines = ram.lines

    def _note(self, key: int | slice) -> None:
        if isinstance(key, slice):
            first, last, _ = key.indices(len(self._view))
            self._lines.update(range(first >> 3, ((last - 1) >> 3) + 1))
        else:
            self._lines.add(key >> 3)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: Any) -> Any:
        if self._ram.counting:
            self._note(key)
        return self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._ram.counting:
            self._note(key)
        self._view[key] = value


class _CountingArray(np.ndarray[Any, Any]):
    """A numpy view of RAM that notes the lines of those elements that are read or written."""

    ram: CountingRam | None = None

    def __array_finalize__(self, obj: Any) -> None:
        self.ram = getattr(obj, "ram", None)

    def note(self, part: Any) -> None:
        """``part``: an array that may be a view of RAM."""
        ram = self.ram
        if ram is not None and ram.counting and isinstance(part, np.ndarray) and part.size:
            ram.note_array(part)

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, _CountingArray) and part.base is not None:
            if not np.may_share_memory(part, self):
                self.note(self)  # fancy indexing copied: which elements is not asked
            return part
        if self.ram is not None and self.ram.counting and not isinstance(part, np.ndarray):
            index = int(key) if np.ndim(key) == 0 and self.ndim == 1 else None
            if index is not None:
                self.note(super().__getitem__(slice(index, index + 1 or None)))
            else:
                self.note(self)
        return part

    def __setitem__(self, key: Any, value: Any) -> None:
        plain = self.view(np.ndarray)
        part = plain[key]
        if isinstance(part, np.ndarray) and np.may_share_memory(part, plain):
            self.note(part)
        elif np.ndim(key) == 0 and self.ndim == 1 and isinstance(key, int):
            self.note(plain[key : key + 1 or None])
        else:
            self.note(plain)
        if isinstance(value, _CountingArray):
            value.note(value)
            value = value.view(np.ndarray)
        plain[key] = value

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        outs = kwargs.pop("out", ())
        for array in (*inputs, *outs):
            if isinstance(array, _CountingArray):
                array.note(array)
        plain = [x.view(np.ndarray) if isinstance(x, _CountingArray) else x for x in inputs]
        if outs:
            kwargs["out"] = tuple(
                x.view(np.ndarray) if isinstance(x, _CountingArray) else x for x in outs
            )
        return getattr(ufunc, method)(*plain, **kwargs)

    def tolist(self) -> Any:
        self.note(self)
        return super().tolist()


class CountingRam(Ram):
    """RAM that notes, while ``counting``, which 64-byte ``lines`` are touched."""

    __slots__ = ("_plain", "counting", "lines")

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.counting = False
        self.lines: set[int] = set()
        self._plain = self.u64
        self.u64 = _CountingView(self, self._plain)  # type: ignore[assignment]

    def refusing_with(self, error: Callable[[int, int, str], Exception]) -> Self:
        """One object alone, so that there is one that counts."""
        self.error = error
        return self

    def _offset(self, pa: int, size: int, align: int) -> int:
        offset = super()._offset(pa, size, align)
        if self.counting and size and align < 8:  # scalars, read, write, fill
            self.lines.update(range(offset >> LINE_SHIFT, ((offset + size - 1) >> LINE_SHIFT) + 1))
        return offset

    def array(self, pa: int, count: int, dtype: npt.DTypeLike = np.uint64) -> npt.NDArray[Any]:
        counting, self.counting = self.counting, False
        view = super().array(pa, count, dtype)
        self.counting = counting
        if not counting:
            return view
        counted = view.view(_CountingArray)
        counted.ram = self
        return counted

    def note_array(self, part: npt.NDArray[Any]) -> None:
        """Note the lines of every element of a view of this RAM."""
        start = part.__array_interface__["data"][0] - self.host_address
        if not 0 <= start < self.size:
            return
        offsets = np.zeros(1, np.int64)
        for length, step in zip(part.shape, part.strides, strict=True):
            offsets = (offsets[:, None] + np.arange(length) * step).ravel()
        offsets += start
        for at in (0, part.itemsize - 1):
            self.lines.update(np.unique((offsets + at) >> LINE_SHIFT).tolist())
