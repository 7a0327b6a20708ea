"""C structures declared once.

A subclass of ``Struct`` lists its fields in C's order and gets offsets by C's rules for
RV64 (every field aligned to its size). From that one declaration come the typed Python
view over RAM (``Page(ram, pa).flags``), the numpy dtype (``Page.dtype()``) and the C
definition (``Page.c_definition()``) that guest code compiles.

    class Page(Struct, c_name="page", size=64):
        flags = u64()
        lru = nested(ListHead)
        page_type = u32()
        _mapcount = s32(at=48)      # the same bytes under another name: a C union

A view holds no data, only where to look. ``at`` of an earlier field makes an anonymous
union; whole overlays (``struct slab`` over ``struct page``) are Structs of their own.
Hot paths do not use views: they index ``ram.u64`` with ``Page.word_of("flags")``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np

from emu.ram import Ram
from mm.addrspace import Space
from mm.errors import BadAddress, CorruptionError

T = TypeVar("T")
_M64 = (1 << 64) - 1
S = TypeVar("S", bound="Struct")


class Field(Generic[T]):
    """A member of a Struct: ``offset``, ``size`` and ``align`` in bytes."""

    def __init__(self, size: int, align: int, at: int | None = None) -> None:
        self.size = size
        self.align = align
        self.at = at
        self.offset = 0
        self.name = ""

    def placed(self, offset: int) -> None:
        self.offset = offset

    def c_declaration(self) -> str:
        raise NotImplementedError

    def np_format(self) -> Any:
        raise NotImplementedError

    def read(self, view: Struct) -> T:
        raise NotImplementedError

    def write(self, view: Struct, value: T) -> None:
        raise AttributeError(f"{self.name} is a structure: assign to its members")

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: Struct, owner: type) -> T: ...
    def __get__(self, view: Struct | None, owner: type) -> Self | T:
        return self if view is None else self.read(view)

    def __set__(self, view: Struct, value: T) -> None:
        self.write(view, value)


class _Word(Field[int]):
    """An unsigned 64-bit field: the fast one, straight from the memoryview of RAM."""

    def __init__(self, at: int | None = None, c_type: str = "uint64_t ") -> None:
        super().__init__(8, 8, at)
        self.c_type = c_type
        self.word = 0

    def placed(self, offset: int) -> None:
        self.offset = offset
        self.word = offset >> 3

    def c_declaration(self) -> str:
        return f"{self.c_type}{self.name}"

    def np_format(self) -> Any:
        return "<u8"

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: Struct, owner: type) -> int: ...
    def __get__(self, view: Struct | None, owner: type) -> Self | int:
        return self if view is None else view.words[view.first_word + self.word]

    def __set__(self, view: Struct, value: int) -> None:
        try:
            view.words[view.first_word + self.word] = value
        except ValueError:
            raise CorruptionError(view.C_NAME, view.pa, f"{self.name} cannot be {value}") from None


def count_up(words: memoryview, at: int, n: int, what: str) -> None:
    """Add ``n`` to the counter in word ``at`` of RAM. Raises CorruptionError naming ``what``,
    a structure and its field, for a counter that cannot change so."""
    value = words[at] + n
    if not 0 <= value <= _M64:
        raise CorruptionError(what, 8 * at, f"it is {value - n}, {n:+} cannot be")
    words[at] = value


def count_down(words: memoryview, at: int, n: int, what: str) -> None:
    """Take ``n`` from a counter, as count_up."""
    count_up(words, at, -n, what)


class _Int(Field[int]):
    """An integer of 1, 2, 4 or 8 bytes, signed or not. It is read as a part of its word."""

    def __init__(self, size: int, signed: bool, at: int | None = None) -> None:
        super().__init__(size, size, at)
        self.signed = signed
        self.word = self.shift = 0
        self.mask = (1 << 8 * size) - 1
        self.sign = 1 << (8 * size - 1) if signed else 0

    def placed(self, offset: int) -> None:
        self.offset = offset
        self.word, self.shift = offset >> 3, (offset & 7) << 3

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: Struct, owner: type) -> int: ...
    def __get__(self, view: Struct | None, owner: type) -> Self | int:
        if view is None:
            return self
        value = view.words[view.first_word + self.word] >> self.shift & self.mask
        return value - (self.sign << 1) if value & self.sign else value

    def c_declaration(self) -> str:
        return f"{'' if self.signed else 'u'}int{8 * self.size}_t {self.name}"

    def np_format(self) -> Any:
        return f"<{'i' if self.signed else 'u'}{self.size}"

    def write(self, view: Struct, value: int) -> None:
        write_int(view.ram, view.pa + self.offset, self.size, value)


def write_int(ram: Ram, pa: int, size: int, value: int) -> None:
    """Store ``value`` modulo the width at ``pa`` (PA)."""
    value &= (1 << (8 * size)) - 1
    if size == 4:
        ram.write32(pa, value)
    elif size == 8:
        ram.write64(pa, value)
    elif size == 2:
        ram.write16(pa, value)
    else:
        ram.write8(pa, value)


class _Chars(Field[str]):
    """``char name[n]``: NUL-terminated ASCII, cut to fit."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 1)

    def c_declaration(self) -> str:
        return f"char {self.name}[{self.size}]"

    def np_format(self) -> Any:
        return f"S{self.size}"

    def read(self, view: Struct) -> str:
        raw = view.ram.read(view.pa + self.offset, self.size)
        return raw.split(b"\0", 1)[0].decode("ascii", "replace")

    def write(self, view: Struct, value: str) -> None:
        raw = value.encode("ascii", "replace")[: self.size - 1]
        view.ram.write(view.pa + self.offset, raw.ljust(self.size, b"\0"))


class _Nested(Field[S]):
    def __init__(self, struct: type[S], at: int | None = None) -> None:
        super().__init__(struct.SIZE, struct.ALIGN, at)
        self.struct = struct

    def c_declaration(self) -> str:
        return f"struct {self.struct.C_NAME} {self.name}"

    def np_format(self) -> Any:
        return self.struct.dtype()

    def read(self, view: Struct) -> S:
        return self.struct(view.ram, view.pa + self.offset)


class IntArray:
    """A fixed array of 64-bit integers in RAM."""

    __slots__ = ("_index", "_u64", "count")

    def __init__(self, ram: Ram, pa: int, count: int) -> None:
        self._u64 = ram.u64
        self._index = (pa - ram.base) >> 3
        self.count = count

    def __len__(self) -> int:
        return self.count

    def _at(self, i: int) -> int:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self._index + i

    def __getitem__(self, i: int) -> int:
        return self._u64[self._at(i)]

    def __setitem__(self, i: int, value: int) -> None:
        try:
            self._u64[self._at(i)] = value
        except ValueError:
            at = 8 * self._index
            raise CorruptionError("array of words", at, f"[{i}] cannot be {value}") from None


class StructArray(Generic[S]):
    """A fixed array of structures in RAM."""

    __slots__ = ("count", "pa", "ram", "struct")

    def __init__(self, ram: Ram, pa: int, struct: type[S], count: int) -> None:
        self.ram = ram
        self.pa = pa
        self.struct = struct
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> S:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.struct(self.ram, self.pa + i * self.struct.SIZE)


class _WordArray(Field[IntArray]):
    def __init__(self, count: int, c_type: str) -> None:
        super().__init__(8 * count, 8)
        self.count = count
        self.c_type = c_type

    def c_declaration(self) -> str:
        return f"{self.c_type}{self.name}[{self.count}]"

    def np_format(self) -> Any:
        return ("<u8", (self.count,))

    def read(self, view: Struct) -> IntArray:
        return IntArray(view.ram, view.pa + self.offset, self.count)


class _StructArrayField(Field[StructArray[S]]):
    def __init__(self, struct: type[S], count: int) -> None:
        super().__init__(struct.SIZE * count, struct.ALIGN)
        self.struct = struct
        self.count = count

    def c_declaration(self) -> str:
        return f"struct {self.struct.C_NAME} {self.name}[{self.count}]"

    def np_format(self) -> Any:
        return (self.struct.dtype(), (self.count,))

    def read(self, view: Struct) -> StructArray[S]:
        return StructArray(view.ram, view.pa + self.offset, self.struct, self.count)


def u8(at: int | None = None) -> _Int:
    return _Int(1, False, at)


def u16(at: int | None = None) -> _Int:
    return _Int(2, False, at)


def u32(at: int | None = None) -> _Int:
    return _Int(4, False, at)


def u64(at: int | None = None) -> _Word:
    return _Word(at)


def s16(at: int | None = None) -> _Int:
    return _Int(2, True, at)


def s32(at: int | None = None) -> _Int:
    return _Int(4, True, at)


def s64(at: int | None = None) -> _Int:
    return _Int(8, True, at)


def ptr(target: str = "void", at: int | None = None) -> _Word:
    """A pointer as guest code sees it: a kernel VA, 0 for NULL."""
    return _Word(at, f"{target} *")


def chars(count: int) -> _Chars:
    return _Chars(count)


def nested(struct: type[S], at: int | None = None) -> _Nested[S]:
    return _Nested(struct, at)


def u64_array(count: int) -> _WordArray:
    return _WordArray(count, "uint64_t ")


def ptr_array(target: str, count: int) -> _WordArray:
    return _WordArray(count, f"{target} *")


def array_of(struct: type[S], count: int) -> _StructArrayField[S]:
    return _StructArrayField(struct, count)


class Struct:
    """A typed view of the ``SIZE`` bytes of RAM at ``pa`` (PA, a multiple of 8).

    Raises ``ram.error`` where that is not RAM. Two views are equal when they are of one type
    and look at the same place.

    What is in RAM can have been clobbered. A structure says in ``problem`` what its fields
    cannot be; code that goes by a structure which it found through RAM looks at it with
    ``at`` or ``trust`` first, and gets a CorruptionError that names the field, not a wild
    access later on.
    """

    __slots__ = ("first_word", "pa", "ram", "words")

    C_NAME: ClassVar[str] = ""
    SIZE: ClassVar[int] = 0
    ALIGN: ClassVar[int] = 1
    FIELDS: ClassVar[tuple[Field[Any], ...]] = ()

    def __init_subclass__(cls, c_name: str = "", size: int = 0) -> None:
        if not c_name:
            return  # a subclass that adds methods only
        fields = [(n, f) for n, f in cls.__dict__.items() if isinstance(f, Field)]
        end, align = 0, 1
        for name, field in fields:
            offset = -(-end // field.align) * field.align if field.at is None else field.at
            if offset % field.align:
                raise TypeError(f"struct {c_name}: {name} at {offset} is not aligned")
            field.name = name
            field.placed(offset)
            end = max(end, offset + field.size)
            align = max(align, field.align)
        total = -(-end // align) * align
        if size:
            if size < total or size % align:
                raise TypeError(f"struct {c_name} is of {total} bytes, not {size}")
            total = size
        cls.C_NAME, cls.SIZE, cls.ALIGN = c_name, total, align
        cls.FIELDS = tuple(f for _, f in fields)

    def __init__(self, ram: Ram, pa: int) -> None:
        offset = pa - ram.base
        if offset & 7 or offset < 0 or offset + self.SIZE > ram.size:
            raise ram.error(pa, self.SIZE, f"no struct {self.C_NAME} can be there")
        self.ram = ram
        self.pa = pa
        # Where the fields are for their descriptors; no field of C is called so.
        self.words = ram.u64
        self.first_word = offset >> 3

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Struct) or type(other) is not type(self):
            return NotImplemented
        return self.pa == other.pa and self.words is other.words

    def __hash__(self) -> int:
        return hash((self.C_NAME, self.pa))

    def __repr__(self) -> str:
        return f"<struct {self.C_NAME} at PA {self.pa:#x}>"

    def problem(self, space: Space) -> str | None:
        """What is impossible about the fields, the name of the field first; None if nothing."""
        return None

    def trust(self, space: Space) -> Self:
        """The structure itself, if nothing is impossible about it. Raises CorruptionError."""
        problem = self.problem(space)
        if problem is not None:
            raise CorruptionError(self.C_NAME, self.pa - self.ram.base + space.page_offset, problem)
        return self

    @classmethod
    def at(cls, space: Space, va: int) -> Self:
        """The structure that a pointer in RAM points to (VA). Raises CorruptionError."""
        try:
            pa = space.pa(va)
        except BadAddress as e:
            raise CorruptionError(cls.C_NAME, va, "a pointer to it is no address of RAM") from e
        return cls(space.ram, pa).trust(space)

    def clear(self) -> None:
        """Set every byte of the structure to 0."""
        self.ram.write(self.pa, bytes(self.SIZE))

    def fields(self) -> dict[str, Any]:
        """Every field's value by name; nested structures as dictionaries. For tests and dumps."""
        values: dict[str, Any] = {}
        for field in self.FIELDS:
            value = getattr(self, field.name)
            if isinstance(value, Struct):
                value = value.fields()
            elif isinstance(value, StructArray):
                value = [value[i].fields() for i in range(len(value))]
            elif isinstance(value, IntArray):
                value = [value[i] for i in range(len(value))]
            values[field.name] = value
        return values

    @classmethod
    def offset_of(cls, name: str) -> int:
        """The offset of field ``name`` in bytes. Raises KeyError."""
        for field in cls.FIELDS:
            if field.name == name:
                return field.offset
        raise KeyError(f"struct {cls.C_NAME} has no {name}")

    @classmethod
    def word_of(cls, name: str) -> int:
        """The offset of field ``name`` in 64-bit words, for indexing ``ram.u64``."""
        return cls.offset_of(name) >> 3

    @classmethod
    def dtype(cls) -> np.dtype[Any]:
        """The numpy structured dtype of this structure."""
        return np.dtype(
            {
                "names": [f.name for f in cls.FIELDS],
                "formats": [f.np_format() for f in cls.FIELDS],
                "offsets": [f.offset for f in cls.FIELDS],
                "itemsize": cls.SIZE,
            }
        )

    @classmethod
    def c_definition(cls) -> str:
        """The C definition, followed by static assertions on its size and every offset."""
        lines = [f"struct {cls.C_NAME} {{"]
        end = pads = 0
        fields = list(cls.FIELDS)
        while fields:
            first = fields.pop(0)
            union = [first]
            while fields and fields[0].offset == first.offset:
                union.append(fields.pop(0))
            start = -(-end // first.align) * first.align
            if first.offset != start:
                lines.append(f"    uint8_t __pad{pads}[{first.offset - end}];")
                pads += 1
            if len(union) == 1:
                lines.append(f"    {first.c_declaration()};")
            else:
                members = " ".join(f"{f.c_declaration()};" for f in union)
                lines.append(f"    union {{ {members} }};")
            end = first.offset + max(f.size for f in union)
        if cls.SIZE - end >= cls.ALIGN:
            lines.append(f"    uint8_t __pad{pads}[{cls.SIZE - end}];")
        lines.append("};")
        tag = f"struct {cls.C_NAME}"
        lines.append(f'_Static_assert(sizeof({tag}) == {cls.SIZE}, "{tag}");')
        for field in cls.FIELDS:
            where = f"__builtin_offsetof({tag}, {field.name}) == {field.offset}"
            lines.append(f'_Static_assert({where}, "{tag}.{field.name}");')
        return "\n".join(lines) + "\n"


class ListHead(Struct, c_name="list_head"):
    """Linux's circular doubly linked list: pointers are VAs of other ``list_head``s."""

    next = ptr("struct list_head")
    prev = ptr("struct list_head")
