"""A few machine instructions, for what the engine calls too often for Python.

Linux reads `sstatus` a hundred thousand times while it boots, and a clock of executed
instructions has to look at every block: a Python callback costs a microsecond each time,
these cost a nanosecond. Only x86-64 with the System V calling convention is known here;
elsewhere `available` says no, and the same is done by Python callbacks, more slowly.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys

_CODE_SIZE = 4096  # bytes


def _map() -> mmap.mmap | None:
    if platform.machine() not in ("x86_64", "AMD64") or sys.platform == "win32":
        return None
    try:
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        return mmap.mmap(-1, _CODE_SIZE, prot=prot)
    except OSError:  # a host that allows no writable code
        return None


_code: mmap.mmap | None = None
_used = 0
_tried = False
_placed: dict[bytes, int] = {}


def available() -> bool:
    """Whether this host can run what `place` takes."""
    global _code, _tried
    if not _tried:
        _tried = True
        _code = _map()
    return _code is not None


def place(code: bytes) -> int:
    """The host address of ``code``, made executable; the same code is kept once.

    Raises MemoryError when the page is full. Call only where `available`.
    """
    global _used
    assert _code is not None
    if code not in _placed:
        if _used + len(code) > _CODE_SIZE:
            raise MemoryError("no room for native code")
        _code[_used : _used + len(code)] = code
        start = ctypes.addressof(ctypes.c_char.from_buffer(_code))
        _placed[code] = start + _used
        _used += len(code) + 15 & ~15
    return _placed[code]


def csr_read_masked(word: int, mask: int) -> int:
    """A CSR's read, `int read(env, csr, uint64_t *value)`: state word ``word`` & ``mask``."""
    return place(
        b"\x48\xb8" + mask.to_bytes(8, "little")  # mov rax, mask
        + b"\x48\x23\x87" + (8 * word).to_bytes(4, "little")  # and rax, [rdi + 8 * word]
        + b"\x48\x89\x02"  # mov [rdx], rax
        + b"\x31\xc0\xc3"  # xor eax, eax; ret
    )  # fmt: skip


def block_counter() -> int:
    """A block hook, `void hook(uc, va, uint32_t size, uint64_t words[3])`.

    Adds ``size`` to words[0]; from words[1] on calls words[2] with the same arguments.
    """
    return place(
        b"\x89\xd0"  # mov eax, edx
        b"\x48\x03\x01"  # add rax, [rcx]
        b"\x48\x89\x01"  # mov [rcx], rax
        b"\x48\x3b\x41\x08"  # cmp rax, [rcx + 8]
        b"\x73\x01\xc3"  # jae over this: ret
        b"\xff\x61\x10"  # jmp [rcx + 16]
    )
