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

from emu import words
from emu.csr import MSTATUS_MPRV

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


def _link(*parts: bytes | str) -> bytes:
    """Code from its parts: bytes; ``"name:"``, a place; ``">name"``, the distance to one.

    A distance is the one byte behind a short jump's opcode. Raises OverflowError when the
    place is too far away.
    """
    code, places, distances = bytearray(), {}, {}
    for part in parts:
        if isinstance(part, bytes):
            code += part
        elif part.startswith(">"):
            distances[len(code)] = part[1:]
            code.append(0)
        else:
            places[part.removesuffix(":")] = len(code)
    for at, name in distances.items():
        code[at : at + 1] = (places[name] - at - 1).to_bytes(1, "little", signed=True)
    return bytes(code)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def csr_read_masked(word: int, mask: int) -> int:
    """A CSR's read, `int read(env, csr, uint64_t *value)`: state word ``word`` & ``mask``."""
    return place(
        b"\x48\xb8" + _u64(mask)  # mov rax, mask
        + b"\x48\x23\x87" + _u32(8 * word)  # and rax, [rdi + 8 * word]
        + b"\x48\x89\x02"  # mov [rdx], rax
        + b"\x31\xc0\xc3"  # xor eax, eax; ret
    )  # fmt: skip


def csr_write_masked(word: int, mask: int) -> int:
    """A CSR's write, `int write(env, csr, uint64_t value)`: sets ``word`` to value & ``mask``."""
    return place(
        b"\x48\xb8" + _u64(mask)  # mov rax, mask
        + b"\x48\x21\xd0"  # and rax, rdx
        + b"\x48\x89\x87" + _u32(8 * word)  # mov [rdi + 8 * word], rax
        + b"\x31\xc0\xc3"  # xor eax, eax; ret
    )  # fmt: skip


def csr_read_moved(word: int, from_bit: int, to_bit: int) -> int:
    """A CSR's read, as `csr_read_masked`: the word with two bits moved down, others to 0.

    The bits ``from_bit`` and the next are 0 in the value, and stand at ``to_bit`` in it.
    """
    return place(
        b"\x48\x8b\x87" + _u32(8 * word)  # mov rax, [rdi + 8 * word]
        + b"\x48\x89\xc1"  # mov rcx, rax
        + b"\x48\xc1\xe9" + bytes((from_bit,))  # shr rcx, from_bit
        + b"\x83\xe1\x03"  # and ecx, 3
        + b"\x48\x0f\xba\xf0" + bytes((from_bit,))  # btr rax, from_bit
        + b"\x48\x0f\xba\xf0" + bytes((from_bit + 1,))  # btr rax, from_bit + 1
        + b"\x48\xc1\xe1" + bytes((to_bit,))  # shl rcx, to_bit
        + b"\x48\x09\xc8"  # or rax, rcx
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


def tlb_fill(env: int, original: int, pmp_allows: int, set_page: int) -> int:
    """QEMU's tlb_fill, that lets data pages stay fast where nothing is translated.

    `bool fill(cpu, va, int size, int access, int mode, bool probe, retaddr)`. The engine gives
    R, W and X to a page that is not translated, and each store to a page with X takes its slow
    way. Here a load or store makes an entry with R and W, if the PMP has no objection, and a
    fetch one with all three; the rest is left to ``original``.

    ``env``: where the CPU has the pointer to its words. The others are addresses of
    functions: `riscv_cpu_tlb_fill`, `pmp_hart_has_privs`, `tlb_set_page`.
    """
    return place(
        _link(
            b"\x83\xf9\x02",  # cmp ecx, 2: a fetch
            b"\x74", ">original",  # je
            b"\x48\x8b\x87", _u32(env),  # mov rax, [rdi + env]
            b"\x41\x83\xf8\x03",  # cmp r8d, 3: M-mode
            b"\x75", ">lower",  # jne
            b"\xf7\x80", _u32(8 * words.MSTATUS), _u32(MSTATUS_MPRV),  # test [rax + mstatus], MPRV
            b"\x75", ">original",  # jnz
            b"\xeb", ">bare",  # jmp
            "lower:",
            b"\x4c\x8b\x90", _u32(8 * words.SATP),  # mov r10, [rax + satp]
            b"\x49\xc1\xea\x3c",  # shr r10, 60: the mode
            b"\x74", ">bare",  # jz
            "original:",
            b"\x48\xb8", _u64(original), b"\xff\xe0",  # mov rax, original; jmp rax
            "bare:",
            b"\x57\x56\x52\x51\x41\x50\x41\x51",  # push rdi, rsi, rdx, rcx, r8, r9
            b"\x48\x83\xec\x08",  # sub rsp, 8: aligned to 16
            b"\x48\x89\xc7",  # mov rdi, rax: env; rsi is the PA
            b"\x48\x63\xd2",  # movsxd rdx, edx: size
            b"\xb9\x03\x00\x00\x00",  # mov ecx, 3: to read and to write
            b"\x4d\x63\xc0",  # movsxd r8, r8d: mode
            b"\x48\xb8", _u64(pmp_allows), b"\xff\xd0",  # mov rax, pmp_allows; call rax
            b"\x48\x83\xc4\x08",  # add rsp, 8
            b"\x41\x59\x41\x58\x59\x5a\x5e\x5f",  # pop r9, r8, rcx, rdx, rsi, rdi
            b"\x84\xc0",  # test al, al
            b"\x74", ">original",  # jz
            b"\x48\x81\xe6\x00\xf0\xff\xff",  # and rsi, -4096
            b"\x48\x89\xf2",  # mov rdx, rsi: the PA is the VA
            b"\xb9\x03\x00\x00\x00",  # mov ecx, 3: R and W
            b"\x41\xb9\x00\x10\x00\x00",  # mov r9d, 4096
            b"\x48\x83\xec\x08",  # sub rsp, 8
            b"\x48\xb8", _u64(set_page), b"\xff\xd0",  # mov rax, set_page; call rax
            b"\x48\x83\xc4\x08",  # add rsp, 8
            b"\xb8\x01\x00\x00\x00\xc3",  # mov eax, 1; ret
        )
    )  # fmt: skip


class BlockFilter(ctypes.Structure):
    """What `block_filter` works on: the CPU and its words, the chunks of RAM, whom to call.

    ``seen`` is the address of a byte for each of ``chunks`` chunks from ``ram_base`` (PA) on.
    """

    _fields_ = [
        ("cpu", ctypes.c_uint64),
        ("env", ctypes.c_uint64),
        ("ram_base", ctypes.c_uint64),
        ("chunks", ctypes.c_uint64),
        ("seen", ctypes.c_uint64),
        ("unseen", ctypes.c_uint64),
    ]


def block_filter(physical: int, chunk_shift: int) -> int:
    """A hook for new blocks of code, `void hook(uc, block, previous, BlockFilter *data)`.

    Returns at once where the block lies in a chunk of RAM that has been seen; else, and
    where it crosses into another page, calls data->unseen with the same arguments.
    ``physical``: the address of `riscv_cpu_get_phys_page_debug`.
    """
    return place(
        _link(
            b"\x57\x56\x52\x51\x48\x83\xec\x08",  # push rdi, rsi, rdx, rcx; sub rsp, 8
            b"\x0f\xb7\x46\x0a",  # movzx eax, word [rsi + 10]: the block's size
            b"\x48\x8b\x36",  # mov rsi, [rsi]: its VA
            b"\x89\xf2",  # mov edx, esi
            b"\x81\xe2\xff\x0f\x00\x00",  # and edx, 0xfff
            b"\x01\xc2",  # add edx, eax
            b"\x81\xfa\x00\x10\x00\x00",  # cmp edx, 0x1000
            b"\x77", ">unseen",  # ja
            b"\x48\x89\xf0",  # mov rax, rsi
            b"\x48\x8b\x51\x08",  # mov rdx, [rcx + env]
            b"\x48\x83\xba", _u32(8 * words.PRIV), b"\x03",  # cmp qword [rdx + priv], 3
            b"\x74", ">look",  # je: M-mode fetches from the PA
            b"\x48\x8b\x39",  # mov rdi, [rcx + cpu]
            b"\x48\x81\xe6\x00\xf0\xff\xff",  # and rsi, -4096
            b"\x48\xb8", _u64(physical), b"\xff\xd0",  # mov rax, physical; call rax
            b"\x48\x8b\x4c\x24\x08",  # mov rcx, [rsp + 8]
            "look:",
            b"\x48\x2b\x41\x10",  # sub rax, [rcx + ram_base]
            b"\x48\xc1\xe8", bytes((chunk_shift,)),  # shr rax, chunk_shift
            b"\x48\x3b\x41\x18",  # cmp rax, [rcx + chunks]
            b"\x73", ">unseen",  # jae: also -1, no page
            b"\x48\x8b\x51\x20",  # mov rdx, [rcx + seen]
            b"\x80\x3c\x02\x00",  # cmp byte [rdx + rax], 0
            b"\x74", ">unseen",  # je
            b"\x48\x83\xc4\x28\xc3",  # add rsp, 40; ret
            "unseen:",
            b"\x48\x83\xc4\x08\x59\x5a\x5e\x5f",  # add rsp, 8; pop rcx, rdx, rsi, rdi
            b"\xff\x61\x28",  # jmp [rcx + unseen]
        )
    )  # fmt: skip


def register_read() -> int:
    """A device's read, `uint64_t read(uc, offset, unsigned size, uint64_t words[4])`.

    At offset words[0] gives words[1] and counts in words[2]; elsewhere, and while words[1] is
    0, calls words[3] with the same arguments.
    """
    return place(
        _link(
            b"\x48\x3b\x31",  # cmp rsi, [rcx]
            b"\x75", ">ask",  # jne
            b"\x48\x8b\x41\x08",  # mov rax, [rcx + 8]
            b"\x48\x85\xc0",  # test rax, rax
            b"\x74", ">ask",  # jz
            b"\x48\xff\x41\x10\xc3",  # inc qword [rcx + 16]; ret
            "ask:",
            b"\xff\x61\x18",  # jmp [rcx + 24]
        )
    )  # fmt: skip
