"""printk's formatting: text and numbers as C has them, and Linux's %p extensions.

A conversion is ``%[-+ #0][width][.precision][hh h l ll L z t]type``; ``*`` takes width or
precision from the arguments. RISC-V's va_list is a pointer to 8-byte words, one for each
argument, in whose low part the value is.

What points nowhere cannot hurt: NULL is ``(null)``, the first page, error pointers and whatever
is not mapped are ``(efault)``. An unknown letter behind %p prints the pointer and is swallowed
with all letters and digits that follow it; any other unknown type ends the text there, since
nobody knows how long its argument is. Source: Linux lib/vsprintf.c, core-api/printk-formats.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mm.gfp import format_gfp
from mm.page import format_flags

PAGE_SIZE = 4096
MAX_ERRNO = 4095
_FIELD_WIDTH_MAX = (1 << 23) - 1
_PRECISION_MAX = (1 << 15) - 1
_STRING_MAX = 1 << 20  # bytes of one string argument
TEXT_MAX = 1 << 24  # bytes of a whole text; where it is longer it is not gone on with
_DEPTH_MAX = 8  # of %pV within %pV
_M64 = (1 << 64) - 1
_ERRNO_NAMES = {
    number: {"EDEADLOCK": "EDEADLK", "ENOTSUP": "EOPNOTSUPP"}.get(name, name)
    for number, name in errno.errorcode.items()
} | {512: "ERESTARTSYS", 515: "ENOIOCTLCMD", 517: "EPROBE_DEFER", 524: "ENOTSUPP"}
_VM_FLAGS = (
    *("read", "write", "exec", "shared", "mayread", "maywrite", "mayexec", "mayshare"),
    "growsdown",
)

Read = Callable[[int, int], "bytes | None"]  # (VA, size) -> the bytes, None: not mapped


class FormatError(Exception):
    """The format or the va_list itself cannot be read, at ``va``."""

    def __init__(self, va: int) -> None:
        super().__init__(f"printk reads {va:#x}, which is not mapped")
        self.va = va


@dataclass(frozen=True)
class Symbol:
    """A function or object in kernel memory: ``offset`` of the address in it, its ``size``."""

    name: str
    offset: int
    size: int
    module: str = ""

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{self.suffix}"

    @property
    def suffix(self) -> str:
        return f" [{self.module}]" if self.module else ""


@dataclass(frozen=True)
class _Spec:
    """One conversion. ``width`` and ``precision`` are -1 where they are not given."""

    flags: str = ""
    width: int = -1
    precision: int = -1
    size: int = 4  # bytes of the argument that count

    @property
    def left(self) -> bool:
        return "-" in self.flags


class Arguments:
    """The words of a va_list at ``va``."""

    def __init__(self, read: Read, va: int) -> None:
        self._read = read
        self._va = va

    def word(self) -> int:
        """The next argument, as 64 bits."""
        data = self._read(self._va, 8)
        if data is None:
            raise FormatError(self._va)
        self._va += 8
        return int.from_bytes(data, "little")

    def integer(self, size: int, signed: bool) -> int:
        """The next argument, of which ``size`` bytes count."""
        value = self.word() & (1 << 8 * size) - 1
        return value - (1 << 8 * size) if signed and value >> 8 * size - 1 else value


class Vsprintf:
    """Formats for one kernel.

    ``read`` reads kernel memory, ``symbol`` finds what is at an address, ``show`` is how a
    plain %p shows it (hashed, or as it is), ``unsupported`` hears of types that do not exist.
    """

    def __init__(
        self,
        read: Read,
        symbol: Callable[[int], Symbol | None] = lambda va: None,
        show: Callable[[int], int] = lambda va: va,
        unsupported: Callable[[str], None] = lambda letter: None,
    ) -> None:
        self._read = read
        self._symbol = symbol
        self._show = show
        self._unsupported = unsupported
        self._depth = 0

    def c_string(self, va: int, limit: int = _STRING_MAX) -> bytes | None:
        """The string at ``va``, of at most ``limit`` bytes; None where it is not mapped."""
        text = b""
        while len(text) < limit:
            at = va + len(text)
            part = self._read(at, min(PAGE_SIZE - at % PAGE_SIZE, 256, limit - len(text)))
            if part is None:
                return None
            end = part.find(b"\0")
            if end >= 0:
                return text + part[:end]
            text += part
        return text

    def format(self, format_va: int, arguments_va: int, limit: int = TEXT_MAX) -> bytes:
        """The text of a format (VA) with the arguments of a va_list (VA). Raises FormatError.

        Once there are ``limit`` bytes nothing more of the format is looked at.
        """
        format = self.c_string(format_va)
        if format is None:
            raise FormatError(format_va)
        return self.text(format, Arguments(self._read, arguments_va), limit)

    def text(self, format: bytes, arguments: Arguments, limit: int = TEXT_MAX) -> bytes:
        """The text of ``format`` with ``arguments``, see `format`."""
        out: list[bytes] = []
        at = size = 0
        while at < len(format) and size < limit:
            percent = format.find(b"%", at)
            if percent < 0:
                percent = len(format)
            out.append(format[at:percent])
            if percent == len(format):
                break
            at, spec, kind = _parse(format, percent + 1, arguments)
            if kind == "%":
                out.append(b"%")
            elif kind == "c":
                out.append(_pad(bytes([arguments.word() & 0xFF]), spec))
            elif kind == "s":
                out.append(self._string(arguments.word(), spec))
            elif kind == "p":
                end = at
                while format[end : end + 1].isalnum():
                    end += 1
                out.append(self._pointer(format[at:end].decode(), arguments.word(), spec))
                at = end
            elif kind in _NUMBERS:
                base, signed = _NUMBERS[kind]
                value = arguments.integer(spec.size, signed)
                out.append(number(value, base, spec, signed, upper=kind == "X").encode())
            else:
                if kind:
                    self._unsupported(kind)
                break
            size += len(out[-2]) + len(out[-1])
        return b"".join(out)

    # strings and pointers

    def _refused(self, va: int, spec: _Spec) -> bytes | None:
        """check_pointer: what is printed for a pointer that cannot be good."""
        if va == 0:
            return _error("(null)", spec)
        if va < PAGE_SIZE or va > _M64 - MAX_ERRNO:
            return _error("(efault)", spec)
        return None

    def _bytes(self, va: int, size: int, spec: _Spec) -> tuple[bytes, bytes | None]:
        """``size`` bytes at ``va``, or what is printed instead of them."""
        refused = self._refused(va, spec)
        if refused is not None:
            return b"", refused
        data = self._read(va, size) if size else b""
        return (b"", _error("(efault)", spec)) if data is None else (data, None)

    def _string(self, va: int, spec: _Spec) -> bytes:
        refused = self._refused(va, spec)
        if refused is not None:
            return refused
        limit = spec.precision if spec.precision >= 0 else _STRING_MAX
        text = self.c_string(va, limit)
        return _error("(efault)", spec) if text is None else _pad(text, spec)

    def _pointer(self, letters: str, va: int, spec: _Spec) -> bytes:
        found = _POINTERS.get(letters[:1])
        if found is None:
            return self._plain(va, spec)
        return found(self, letters, va, spec)

    def _plain(self, va: int, spec: _Spec) -> bytes:
        """%p: error pointers and NULL as they are, others as the kernel shows addresses."""
        is_error = va == 0 or va > _M64 - MAX_ERRNO
        return _hex_pointer(va if is_error else self._show(va), spec)

    def _hex(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%px"""
        return _hex_pointer(va, spec)

    def _hashed(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pK, with kptr_restrict 0"""
        return self._plain(va, spec)

    def _named(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pS %ps %pB, and %pF %pf as Linux had them until 5.1"""
        kind = letters[0]
        back = 1 if kind == "B" else 0  # a return address may be the next function's first
        found = self._symbol(va - back)
        if found is None:
            return _pad(f"{va:#x}".encode(), spec)
        if kind in "sf":
            return _pad((found.name + found.suffix).encode(), spec)
        return _pad(str(replace(found, offset=found.offset + back)).encode(), spec)

    def _fwnode(self, letters: str, va: int, spec: _Spec) -> bytes:
        return self._plain(va, spec) if letters[1:2] == "w" else self._named(letters, va, spec)

    def _error_name(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pe"""
        if va <= _M64 - MAX_ERRNO:
            return self._plain(va, spec)
        error = (1 << 64) - va
        name = _ERRNO_NAMES.get(error)
        return _pad(f"-{name}".encode() if name else f"-{error}".encode(), spec)

    def _va_format(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pV: struct va_format, a format and the address of a va_list"""
        data, refused = self._bytes(va, 16, spec)
        if refused is not None:
            return refused
        format_va, list_va = (int.from_bytes(data[i : i + 8], "little") for i in (0, 8))
        pointer = self._read(list_va, 8)
        if pointer is None or self._depth == _DEPTH_MAX:
            return _error("(efault)", spec)
        self._depth += 1
        try:
            return self.format(format_va, int.from_bytes(pointer, "little"))
        except FormatError:
            return _error("(efault)", spec)
        finally:
            self._depth -= 1

    def _dump(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%*ph, C: colons, D: dashes, N: nothing between the bytes; 64 at most"""
        if spec.width == 0:
            return b""
        size = min(max(spec.width, 1), 64)
        data, refused = self._bytes(va, size, replace(spec, width=-1))
        if refused is not None:
            return refused
        separator = {"C": ":", "D": "-", "N": ""}.get(letters[1:2], " ")
        return (data.hex(separator) if separator else data.hex()).encode()

    def _bitmap(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%*pb: 32 bits a comma; %*pbl: ranges"""
        bits = max(spec.width, 0)
        data, refused = self._bytes(va, -(-bits // 64) * 8, replace(spec, width=-1))
        if refused is not None:
            return refused
        value = int.from_bytes(data, "little") & (1 << bits) - 1
        if letters[1:2] == "l":
            return ",".join(_ranges(i for i in range(bits) if value >> i & 1)).encode()
        words = []
        for start in range(0, bits, 32):
            digits = -(-min(bits - start, 32) // 4)
            words.append(f"{value >> start & 0xFFFFFFFF:0{digits}x}")
        return ",".join(reversed(words)).encode()

    def _mac(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pM %pm, F: dashes, R: the other way round"""
        data, refused = self._bytes(va, 6, spec)
        if refused is not None:
            return refused
        separator = "-" if letters[1:2] == "F" else ":"
        data = data[::-1] if letters[1:2] == "R" else data
        text = data.hex() if letters[0] == "m" else data.hex(separator)
        return _pad(text.encode(), spec)

    def _internet(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pI4 %pi4 with h n b l, %pI6 %pi6 %pI6c"""
        family = letters[1:2]
        if family not in ("4", "6"):
            return _error(f"(%p{letters[0]}?)", spec)
        data, refused = self._bytes(va, 4 if family == "4" else 16, spec)
        if refused is not None:
            return refused
        if family == "4":
            data = data[::-1] if letters[2:3] in ("h", "l") else data
            width = 3 if letters[0] == "i" else 1
            return _pad(".".join(f"{byte:0{width}}" for byte in data).encode(), spec)
        if letters[2:3] == "c" and letters[0] == "I":
            return _pad(_ip6_compressed(data).encode(), spec)
        separator = ":" if letters[0] == "I" else ""
        groups = [data[i : i + 2].hex() for i in range(0, 16, 2)]
        return _pad(separator.join(groups).encode(), spec)

    def _uuid(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pUb %pUB %pUl %pUL"""
        data, refused = self._bytes(va, 16, spec)
        if refused is not None:
            return refused
        order = letters[1:2]
        if order in ("l", "L"):
            data = data[3::-1] + data[5:3:-1] + data[7:5:-1] + data[8:]
        text = data.hex()
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        return _pad((text.upper() if order in ("B", "L") else text).encode(), spec)

    def _address(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pa %pap %pad: a phys_addr_t or dma_addr_t, by its address"""
        data, refused = self._bytes(va, 8, spec)
        if refused is not None:
            return refused
        return f"0x{int.from_bytes(data, 'little'):016x}".encode()

    def _flags(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pGp page flags, %pGg gfp_t, %pGv vm_flags: by their address"""
        kind = letters[1:2]
        if kind not in ("p", "g", "v"):
            return _error("(%pG?)", spec)
        data, refused = self._bytes(va, 4 if kind == "g" else 8, spec)
        if refused is not None:
            return refused
        flags = int.from_bytes(data, "little")
        if kind == "g":
            return format_gfp(flags).encode()
        return (format_flags(flags) if kind == "p" else format_vm_flags(flags)).encode()

    def _escaped(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%*pE: what is not printable, and the backslash, as C escapes it"""
        data, refused = self._bytes(va, max(spec.width, 1), replace(spec, width=-1))
        if refused is not None or spec.width == 0:
            return refused or b""
        names = {0: "\\0", 7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
        names |= {27: "\\e", 34: '\\"', 92: "\\\\"}
        return "".join(
            names.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in data
        ).encode()

    def _fourcc(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%p4cc"""
        if letters[:3] != "4cc":
            return _error("(%p4?)", spec)
        data, refused = self._bytes(va, 4, spec)
        if refused is not None:
            return refused
        value = int.from_bytes(data, "little")
        letters = "".join(
            chr(c) if 32 <= c < 127 else "." for c in (value & 0x7FFFFFFF).to_bytes(4, "little")
        )
        order = "big" if value >> 31 else "little"
        return _pad(f"{letters} {order}-endian (0x{value:08x})".encode(), spec)

    def _time(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%ptT: a time64_t, d or t for one half of it, s for a blank between"""
        if letters[1:2] != "T":
            return (
                _error(f"(%pt{letters[1:2] or '?'}?)", spec) if letters[1:2] != "R" else b"(%ptR?)"
            )
        data, refused = self._bytes(va, 8, spec)
        if refused is not None:
            return refused
        seconds = int.from_bytes(data, "little", signed=True)
        try:
            when = datetime(1970, 1, 1) + timedelta(seconds=seconds)
        except OverflowError:
            return _pad(str(seconds).encode(), spec)
        date, time = when.strftime("%Y-%m-%d"), when.strftime("%H:%M:%S")
        rest = letters[2:]
        if "d" in rest or "t" in rest:
            return _pad((date if "d" in rest else time).encode(), spec)
        return _pad((date + (" " if "s" in rest else "T") + time).encode(), spec)

    def _resource(self, letters: str, va: int, spec: _Spec) -> bytes:
        """%pR %pr: struct resource, its flags in words or as a number"""
        data, refused = self._bytes(va, 32, spec)
        if refused is not None:
            return refused
        start, end, _, flags = (int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8))
        kind, form = _RESOURCES.get(flags & 0x1F00, ("??? ", "0x{:08x}"))
        decode = letters[0] == "R" and kind != "??? "
        text = kind
        if decode and flags & 0x20000000:
            text += "size " + form.format(end - start + 1)
        else:
            text += form.format(start) + (f"-{form.format(end)}" if start != end else "")
        if not decode:
            text += f" flags {flags:#x}"
        else:
            for bit, word in ((0x100000, " 64bit"), (0x2000, " pref"), (0x200000, " window")):
                text += word if flags & bit else ""
            text += " disabled" if flags & 0x10000000 else ""
        return _pad(f"[{text}]".encode(), spec)


_POINTERS: dict[str, Callable[[Vsprintf, str, int, _Spec], bytes]] = {
    "x": Vsprintf._hex,
    "K": Vsprintf._hashed,
    "S": Vsprintf._named,
    "s": Vsprintf._named,
    "B": Vsprintf._named,
    "F": Vsprintf._named,
    "f": Vsprintf._fwnode,
    "e": Vsprintf._error_name,
    "V": Vsprintf._va_format,
    "h": Vsprintf._dump,
    "b": Vsprintf._bitmap,
    "M": Vsprintf._mac,
    "m": Vsprintf._mac,
    "I": Vsprintf._internet,
    "i": Vsprintf._internet,
    "U": Vsprintf._uuid,
    "a": Vsprintf._address,
    "G": Vsprintf._flags,
    "E": Vsprintf._escaped,
    "4": Vsprintf._fourcc,
    "t": Vsprintf._time,
    "R": Vsprintf._resource,
    "r": Vsprintf._resource,
}
# By type: how it is called, and how its numbers look.
_RESOURCES = {
    0x100: ("io  ", "0x{:04x}"),
    0x200: ("mem ", "0x{:08x}"),
    0x400: ("irq ", "{:d}"),
    0x800: ("dma ", "{:d}"),
    0x1000: ("bus ", "{:02x}"),
}
_NUMBERS = {"d": (10, True), "i": (10, True), "u": (10, False), "o": (8, False)}
_NUMBERS |= {"x": (16, False), "X": (16, False)}
_QUALIFIERS = {"hh": 1, "h": 2, "l": 8, "ll": 8, "L": 8, "z": 8, "t": 8}


def _parse(format: bytes, at: int, arguments: Arguments) -> tuple[int, _Spec, str]:
    """What stands behind a percent sign: where it ends, the conversion, its type."""
    flags = ""
    while at < len(format) and format[at] in b"-+ #0":
        flags += chr(format[at])
        at += 1
    at, width = _count(format, at, arguments)
    if width is not None and width < 0:
        flags, width = flags + "-", -width
    precision = None
    if format[at : at + 1] == b".":
        at, precision = _count(format, at + 1, arguments)
        precision = max(precision or 0, 0)
    qualifier = ""
    for length in (2, 1):
        if format[at : at + length].decode("latin-1") in _QUALIFIERS:
            qualifier = format[at : at + length].decode("latin-1")
            break
    at += len(qualifier)
    spec = _Spec(
        flags,
        -1 if width is None else min(width, _FIELD_WIDTH_MAX),
        -1 if precision is None else min(precision, _PRECISION_MAX),
        _QUALIFIERS.get(qualifier, 4),
    )
    return at + 1, spec, format[at : at + 1].decode("latin-1")


def _count(format: bytes, at: int, arguments: Arguments) -> tuple[int, int | None]:
    """A width or precision: digits, or ``*``."""
    if format[at : at + 1] == b"*":
        return at + 1, arguments.integer(4, True)
    end = at
    while end < len(format) and format[end] in b"0123456789":
        end += 1
    return end, int(format[at : min(end, at + 10)]) if end > at else None


def _pad(text: bytes, spec: _Spec) -> bytes:
    """As wide as the conversion wants, no longer than its precision (%s, and names)."""
    return text.ljust(spec.width) if spec.left else text.rjust(max(spec.width, 0))


def _error(text: str, spec: _Spec) -> bytes:
    """error_string: of no more than 16 characters, or the precision."""
    limit = spec.precision if spec.precision >= 0 else 16
    return _pad(text[:limit].encode(), spec)


def number(value: int, base: int, spec: _Spec, signed: bool, upper: bool = False) -> str:
    """An integer as Linux's number() prints it; ``signed``: + and blank count."""
    sign = ""
    if signed:
        sign = "-" if value < 0 else "+" if "+" in spec.flags else " " if " " in spec.flags else ""
    digits = format(abs(value), {8: "o", 10: "d", 16: "X" if upper else "x"}[base])
    prefix = ""
    if "#" in spec.flags:
        prefix = "0X" if base == 16 and upper else "0x" if base == 16 else ""
        prefix = "0" if base == 8 and value else prefix
    digits = digits.rjust(spec.precision, "0") if spec.precision >= 0 else digits
    room = max(spec.width - len(sign) - len(prefix) - len(digits), 0)
    if spec.left:
        return sign + prefix + digits + " " * room
    if "0" in spec.flags:
        return sign + prefix + "0" * room + digits
    return " " * room + sign + prefix + digits


def _hex_pointer(va: int, spec: _Spec) -> bytes:
    if spec.width < 0:
        spec = replace(spec, width=18 if "#" in spec.flags else 16, flags=spec.flags + "0")
    return number(va, 16, replace(spec, size=8), False).encode()


def format_vm_flags(flags: int) -> str:
    """%pGv: the names of what mm/vma.py knows, the rest in hexadecimal."""
    names = []
    for bit, name in enumerate(_VM_FLAGS):
        if flags >> bit & 1:
            names.append(name)
            flags &= ~(1 << bit)
    return "|".join([*names, f"{flags:#x}"] if flags or not names else names)


def _ranges(bits: Iterable[int]) -> list[str]:
    spans: list[list[int]] = []
    for bit in bits:
        if spans and spans[-1][1] == bit - 1:
            spans[-1][1] = bit
        else:
            spans.append([bit, bit])
    return [f"{low}-{high}" if high > low else f"{low}" for low, high in spans]


def _ip6_compressed(data: bytes) -> str:
    """RFC 5952: the longest run of zeros as ``::``, and IPv4 behind a mapped prefix in dots."""
    words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, 16, 2)]
    mapped = (words[:5] == [0] * 5 and words[5] == 0xFFFF) or words[4:6] == [0, 0x5EFE]
    count = 6 if mapped else 8
    best, length = -1, 1
    for start in range(count):
        end = start
        while end < count and not words[end]:
            end += 1
        if end - start > length:
            best, length = start, end - start
    parts = [f"{word:x}" for word in words[:count]]
    tail = [".".join(map(str, data[12:]))] if mapped else []
    if best < 0:
        return ":".join(parts + tail)
    return ":".join(parts[:best]) + "::" + ":".join(parts[best + length :] + tail)
