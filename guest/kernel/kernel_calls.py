"""What kernel modules can ask of the kernel: the functions of the kernel's SBI extension.

Each reads its arguments from the hart's words and returns (error, value). What the memory
manager refuses, it refuses in its own words, which go to the kernel log; the caller gets an
error and 0. Numbers and arguments: `guest.kernel.abi`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from emu.hart import Hart
from emu.spec import words as W
from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE
from emu.spec.walk import Access, Translation, walk
from emu.stop import Stop, StopReason
from firmware.sbi import ERR_FAILED, ERR_INVALID_PARAM, SUCCESS, Function
from guest.kernel.abi import Call
from guest.kernel.printk import RECORD_MAX, Printk
from guest.kernel.siphash import siphash_1u64
from guest.kernel.vsprintf import FormatError, Symbol, Vsprintf
from mm.errors import GfpError, MmError, OutOfMemory, SlabError, UserFault, VmaError
from mm.gfp import GFP_KERNEL, GFP_ZERO
from mm.kernel import Kernel
from mm.slab import KmemCache

# How the memory manager's reports of corruption begin, and the errors that are no bugs of their
# caller: memory ran out, or it asked for what it cannot have.
_REPORTS = ("BUG ", "BUG: ", "slab error in ", "Slab corruption ", "pagealloc: ")
_NO_BUGS = (OutOfMemory, GfpError, VmaError, UserFault)
_NAME_SIZE_MAX = 64  # bytes of a cache's name
_VMAP_PAGES_MAX = 1 << 16


def _is_bug(error: Exception) -> bool:
    """Whether whoever met ``error`` has a bug: Linux would say BUG or WARNING."""
    return isinstance(error, MmError) and not isinstance(error, _NO_BUGS)


@dataclass(frozen=True)
class Upcall:
    """Guest functions that must run before a call returns ``value``: (VA, argument) each.

    The call has ended the run with this; whoever runs the hart runs them and goes on.
    """

    functions: tuple[tuple[int, int], ...]
    value: int


class KernelCalls:
    """The calls of one booted kernel; ``log`` takes a line of the kernel log at a time.

    ``call(va, argument)`` runs a guest function while the hart stands: a constructor, for
    a slab that Python itself asked for. ``symbol`` finds what is at an address, for %pS;
    ``hash_pointers``: %p shows no addresses.
    """

    def __init__(
        self,
        kernel: Kernel,
        hart: Hart,
        log: Callable[[str], None],
        call: Callable[[int, int], None],
        symbol: Callable[[int], Symbol | None] = lambda va: None,
        hash_pointers: bool = False,
    ) -> None:
        self._kernel = kernel
        self._hart = hart
        self._words = hart.words
        self.printk = Printk(log)
        self._random = random.Random(0)  # the same in every run
        key = (self._random.getrandbits(64), self._random.getrandbits(64))

        def show(va: int) -> int:
            return siphash_1u64(va, key) & 0xFFFFFFFF if hash_pointers else va

        self._vsprintf = Vsprintf(self._read, symbol, show, self._unsupported)
        self._said_unsupported = False
        self._call = call
        self._to_construct: list[tuple[int, int]] = []
        self._caches: dict[int, KmemCache] = {}  # derived: those that _cache has found

    def table(self) -> dict[int, Function]:
        """The functions by number."""
        kernel, w = self._kernel, self._words
        space, cache = kernel.space, self._cache
        guarded = self._guarded

        def page_of(va: int) -> int:
            return space.page_to_pfn(va)

        def page_va(pfn: int | None) -> int:
            return 0 if pfn is None else space.page_va(pfn)

        return {
            Call.RETURN.value: self._returned,
            Call.PRINTK.value: self._printk,
            Call.VSNPRINTF.value: self._vsnprintf,
            Call.RANDOM.value: lambda: (SUCCESS, self._random.getrandbits(64)),
            Call.NOP.value: lambda: (SUCCESS, 0),
            Call.KMALLOC.value: guarded(lambda: kernel.kmalloc(w[W.A0], w[W.A1])),
            Call.KREALLOC.value: guarded(lambda: kernel.krealloc(w[W.A0], w[W.A1], w[W.A2])),
            Call.KFREE.value: guarded(lambda: kernel.kfree(w[W.A0])),
            Call.KSIZE.value: guarded(lambda: kernel.ksize(w[W.A0])),
            Call.ALLOC_PAGES.value: guarded(lambda: page_va(kernel.alloc_pages(w[W.A0], w[W.A1]))),
            Call.FREE_PAGES.value: guarded(lambda: kernel.free_pages(page_of(w[W.A0]), w[W.A1])),
            Call.KMEM_CACHE_CREATE.value: guarded(self._cache_create),
            Call.KMEM_CACHE_ALLOC.value: guarded(lambda: cache(w[W.A0]).alloc(w[W.A1])),
            Call.KMEM_CACHE_FREE.value: guarded(lambda: cache(w[W.A0]).free(w[W.A1])),
            Call.KMEM_CACHE_DESTROY.value: guarded(lambda: cache(w[W.A0]).destroy()),
            Call.VMALLOC.value: guarded(
                lambda: kernel.vmalloc(w[W.A0], GFP_KERNEL | w[W.A1] & GFP_ZERO)
            ),
            Call.VFREE.value: guarded(lambda: kernel.vfree(w[W.A0])),
            Call.VMAP.value: guarded(self._vmap),
            Call.VUNMAP.value: guarded(lambda: kernel.vunmap(w[W.A0])),
            Call.VMALLOC_TO_PFN.value: guarded(self._vmalloc_to_pfn),
            Call.KMAP.value: guarded(lambda: kernel.kmap(page_of(w[W.A0]))),
            Call.KUNMAP.value: guarded(lambda: kernel.kunmap(page_of(w[W.A0]))),
            Call.KMEM_CACHE_SHRINK.value: guarded(lambda: cache(w[W.A0]).shrink()),
            Call.SPLIT_PAGE.value: guarded(lambda: kernel.split_page(page_of(w[W.A0]), w[W.A1])),
        }

    def _guarded(self, action: Callable[[], int | None]) -> Function:
        """``action`` as a call: None is 0, an error of the memory manager is logged."""

        slab, w = self._kernel.slab, self._words

        def call() -> tuple[int, int] | Stop:
            kernel_itself, slab.caller = slab.caller, w[W.PC] - 4  # the ecall, for the tracks
            try:
                value = action() or 0
                error = SUCCESS
            except (MmError, ValueError) as e:
                reported = len(self.printk.bugs)
                self.flush_messages()  # the report comes before what came of it
                lines = str(e).splitlines() or [type(e).__name__]
                for line in lines:
                    self.printk.say(line)
                if _is_bug(e) and reported == len(self.printk.bugs):
                    self.printk.note_bug(lines[0])
                value, error = 0, ERR_FAILED
            finally:
                slab.caller = kernel_itself
            self.flush_messages()
            if self._to_construct:
                functions, self._to_construct = tuple(self._to_construct), []
                return Stop(StopReason.EXIT, value=Upcall(functions, value))
            return error, value

        return call

    def flush_messages(self) -> None:
        """Pass on what the memory manager has printed since the last time."""
        messages = self._kernel.messages
        while messages:
            line = messages.popleft()
            self.printk.say(line)
            if line.startswith(_REPORTS):
                self.printk.note_bug(line)

    def report(self, line: str) -> None:
        """Log a bug of the guest's that Python has found."""
        self.printk.say(line)
        self.printk.note_bug(line)

    def _returned(self) -> Stop:
        """The end of a function that Python called: an int, as C has it."""
        result = self._words[W.A0] & 0xFFFFFFFF
        return Stop(StopReason.EXIT, value=result - (1 << 32) if result >> 31 else result)

    def _printk(self) -> tuple[int, int]:
        """Format, and log."""
        w = self._words
        try:
            text = self._vsprintf.format(w[W.A0], w[W.A1], RECORD_MAX)
        except FormatError:
            return ERR_INVALID_PARAM, 0
        return SUCCESS, self.printk.store(text, bool(w[W.A2]))

    def _unsupported(self, letter: str) -> None:
        """A format wants what printk does not have, said once (Linux: WARN_ONCE)."""
        if not self._said_unsupported:
            self._said_unsupported = True
            self.report(f"WARNING: Please remove unsupported %{letter} in format string")

    def _vsnprintf(self) -> tuple[int, int]:
        """Format into guest memory; where that cannot be written, the VA goes back."""
        w = self._words
        buffer, size = w[W.A0], w[W.A1]
        try:
            text = self._vsprintf.format(w[W.A2], w[W.A3])
        except FormatError as e:
            return ERR_INVALID_PARAM, e.va
        if size:
            stored = text[: size - 1] + b"\0"
            refused = self._write(buffer, stored)
            if refused is not None:
                return ERR_INVALID_PARAM, refused
        return SUCCESS, len(text)

    def _write(self, va: int, data: bytes) -> int | None:
        """Store into kernel memory as the guest could; the first VA where it cannot."""
        kernel = self._kernel
        root = kernel.pgtable.root(kernel.init_mm)
        done = 0
        while done < len(data):
            at = va + done
            found = walk(kernel.ram, kernel.mode, root, at, Access.WRITE)
            part = data[done : done + PAGE_SIZE - at % PAGE_SIZE]
            if not isinstance(found, Translation) or not kernel.ram.contains(found.pa, len(part)):
                return at
            kernel.ram.write(found.pa, part)
            done += len(part)
        return None

    def _read(self, va: int, size: int) -> bytes | None:
        """Kernel memory through the kernel's tables; None where something is not mapped."""
        kernel = self._kernel
        root = kernel.pgtable.root(kernel.init_mm)
        data = b""
        while len(data) < size:
            at = va + len(data)
            found = walk(kernel.ram, kernel.mode, root, at, Access.READ)
            part = min(size - len(data), PAGE_SIZE - at % PAGE_SIZE)
            if not isinstance(found, Translation) or not kernel.ram.contains(found.pa, part):
                return None
            data += kernel.ram.read(found.pa, part)
        return data

    def _name(self, va: int) -> str:
        """A C string. Raises ValueError when it is not one."""
        name = b""
        while len(name) < _NAME_SIZE_MAX:
            byte = self._read(va + len(name), 1)
            if byte is None:
                raise ValueError(f"a name at {va:#x}, which is not mapped")
            if byte == b"\0":
                return name.decode("utf-8", "replace")
            name += byte
        raise ValueError(f"a name at {va:#x} of more than {_NAME_SIZE_MAX} bytes")

    def _cache(self, va: int) -> KmemCache:
        """The cache that a guest names by its address. Raises SlabError for what is none."""
        slab = self._kernel.slab
        found = self._caches.get(va)
        if found is None or slab.cache_at(va) is not found:  # not known, or destroyed since
            self._caches = {cache.va: cache for cache in slab.caches()}
            found = self._caches.get(va)
            if found is None:
                raise SlabError(f"no kmem_cache at {va:#x}")
        return found

    def _cache_create(self) -> int:
        w = self._words
        name, size, align, flags, ctor = self._name(w[W.A0]), w[W.A1], w[W.A2], w[W.A3], w[W.A4]

        def construct(va: int) -> None:
            if self._hart.running:
                self._to_construct.append((ctor, va))
            else:
                self._call(ctor, va)

        cache = self._kernel.kmem_cache_create(
            name, size, align, flags, construct if ctor else None
        )
        return cache.va

    def _vmap(self) -> int | None:
        w = self._words
        array, count = w[W.A0], w[W.A1]
        data = self._read(array, 8 * count) if count <= _VMAP_PAGES_MAX else None
        if data is None:
            raise ValueError(f"vmap: {count} page pointers at {array:#x} cannot be read")
        pages = (int.from_bytes(data[i : i + 8], "little") for i in range(0, 8 * count, 8))
        return self._kernel.vmap([self._kernel.space.page_to_pfn(page) for page in pages])

    def _vmalloc_to_pfn(self) -> int:
        kernel = self._kernel
        found = kernel.pgtable.lookup(kernel.init_mm, self._words[W.A0])
        if found is None:
            return 0
        level, _, pte = found
        inside = self._words[W.A0] & (kernel.mode.span(level) - 1)
        return (pte >> 10 & (1 << 44) - 1) + (inside >> PAGE_SHIFT)
