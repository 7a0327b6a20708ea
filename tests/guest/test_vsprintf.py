"""printk's formats, on plain memory: golden values from Linux's printk-formats and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.kernel.siphash import siphash_1u64
from guest.kernel.vsprintf import Arguments, Symbol, Vsprintf, format_vm_flags

LIST = 0x1000_0000  # where the arguments are
BYTES = 0x2000_0000
NOWHERE = 0x3000_0000
M64 = (1 << 64) - 1


class Memory:
    """Bytes at VAs; everything else is not mapped."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {LIST: b"", BYTES: b""}

    def read(self, va: int, size: int) -> bytes | None:
        for start, data in self.parts.items():
            if start <= va and va + size <= start + len(data):
                return data[va - start : va - start + size]
        return None

    def text(self, format: str, *words: int, data: bytes = b"") -> str:
        """``format`` with words as arguments, ``data`` lying at BYTES on a page of zeros."""
        self.parts[LIST] = b"".join((w & M64).to_bytes(8, "little") for w in words)
        self.parts[BYTES] = data.ljust(4096, b"\0")
        symbols = {0xFF00: Symbol("versatile_init", 0, 0x110), 0xFFFF: Symbol("before", 0x87, 0x88)}
        symbols[0xFF09] = Symbol("versatile_init", 9, 0x110, "mod")
        formatter = Vsprintf(self.read, symbols.get)
        return formatter.text(format.encode(), Arguments(self.read, LIST)).decode("latin-1")


@pytest.mark.parametrize(
    ("format", "words", "text"),
    [
        ("%d|%i|%u", (-1, 42, -1), "-1|42|4294967295"),
        ("%ld %lld %lu %llu", (-1, -(1 << 63), -1, M64), f"-1 {-(1 << 63)} {M64} {M64}"),
        ("%hhd %hhu %hd %hu", (255, 257, 65535, 65537), "-1 1 -1 1"),
        ("%zu %zd %td", (1 << 40, -5, -6), "1099511627776 -5 -6"),
        ("%x %X %o %#x %#X %#o", (255, 255, 8, 255, 255, 8), "ff FF 10 0xff 0XFF 010"),
        ("%lx %llx", (M64, 1 << 63), "ffffffffffffffff 8000000000000000"),
        ("[%5d][%-5d][%05d][%+d][% d]", (-42, -42, -42, 42, 42), "[  -42][-42  ][-0042][+42][ 42]"),
        ("[%.3d][%5.3d][%-5.3d][%05.3d]", (7, 7, 7, 7), "[007][  007][007  ][00007]"),
        ("[%#6x][%#-6x][%#06x]", (255, 255, 255), "[  0xff][0xff  ][0x00ff]"),
        ("[%*d][%-*d][%*d]", (5, 1, 5, 1, -5, 1), "[    1][1    ][1    ]"),
        ("[%.*d][%.*d]", (3, 1, -3, 1), "[001][1]"),
        ("%#x %#o %.0d %0d", (0, 0, 0, 0), "0x0 0 0 0"),  # as Linux, not as C
        ("%c%c[%3c][%-3c]", (65, 0x142, 67, 68), "AB[  C][D  ]"),
        ("100%%|%%d", (), "100%|%d"),
        ("%5%|", (), "%|"),
        ("%", (), ""),
        ("%l", (), ""),
        ("a%5", (), "a"),
        ("plain", (), "plain"),
    ],
)
def test_numbers_and_characters(format: str, words: tuple[int, ...], text: str) -> None:
    assert Memory().text(format, *words) == text


@pytest.mark.parametrize(
    ("format", "words", "text"),
    [
        ("[%s]", (BYTES,), "[some text]"),
        ("[%.4s][%.0s][%.20s]", (BYTES,) * 3, "[some][][some text]"),
        ("[%12s][%-12s][%12.4s]", (BYTES,) * 3, "[   some text][some text   ][        some]"),
        ("[%.*s]", (3, BYTES), "[som]"),
        ("[%-*.*s]", (6, 2, BYTES), "[so    ]"),
        ("[%*s]", (-11, BYTES), "[some text  ]"),
        ("[%s][%8s][%.3s]", (0, 0, 0), "[(null)][  (null)][(nu]"),
        ("[%s][%s][%s]", (8, 4095, -12), "[(efault)][(efault)][(efault)]"),
        ("[%s]", (NOWHERE,), "[(efault)]"),
        ("[%.4s]", (NOWHERE,), "[(efa]"),
        ("[%s]%d", (1 << 63, 7), "[(efault)]7"),
    ],
)
def test_strings(format: str, words: tuple[int, ...], text: str) -> None:
    assert Memory().text(format, *words, data=b"some text") == text


def test_a_string_without_an_end() -> None:
    memory = Memory()
    assert memory.text("%s", BYTES, data=b"x" * 4096) == "(efault)"  # runs into what is not mapped
    assert memory.text("%.4000s", BYTES, data=b"x" * 4096) == "x" * 4000


POINTERS = [
    # plain
    ("%p", (0x1234,), "0000000000001234"),
    ("%px %px", (M64, 0), "ffffffffffffffff 0000000000000000"),
    ("%pK", (0xABC0,), "000000000000abc0"),
    ("[%20px][%-20px][%#px]", (16, 16, 16), f"[{16:>20x}][{16:<20x}][0x{16:016x}]"),
    # symbols
    ("%pS %ps", (0xFF00, 0xFF00), "versatile_init+0x0/0x110 versatile_init"),
    ("%pF %pf", (0xFF00, 0xFF00), "versatile_init+0x0/0x110 versatile_init"),
    ("%pSR", (0xFF09,), "versatile_init+0x9/0x110 [mod]"),
    ("%ps|", (0xFF09,), "versatile_init [mod]|"),
    ("%pB", (0x10000,), "before+0x88/0x88"),
    ("%pS %ps", (0xBAD0, 0xBAD0), "0xbad0 0xbad0"),
    # errors
    ("%pe %pe", (-28, -4095), "-ENOSPC -4095"),
    ("%pe|%pe", (0, 0x5000), "0000000000000000|0000000000005000"),
    ("%pe %pe", (-35, -95), "-EDEADLK -EOPNOTSUPP"),
    # what does not point anywhere, for everything that is looked at
    *((f"%{f}|", (0,), "(null)|") for f in ("pM", "pI4", "pI6c", "pUb", "pa", "pGp", "pV", "6ph")),
    *((f"%{f}|", (NOWHERE,), "(efault)|") for f in ("pM", "pI4", "pI6c", "pUb", "pa", "pGg", "pV")),
    *((f"%{f}|", (-1,), "(efault)|") for f in ("pM", "pi6", "pUL", "pGv", "3ph", "pR", "ptT")),
    # letters that there are not: the pointer, and all letters behind it are swallowed
    ("%pZ|", (0x10,), "0000000000000010|"),
    ("%pZebra9 %d", (0x10, 5), "0000000000000010 5"),
    ("%pd %pD %pg %pC %pN %pO|%s", (1, 2, 3, 4, 5, 6, 0), None),
    ("%p-%p_x", (1, 2), f"{1:016x}-{2:016x}_x"),
    ("%pI5|%pGx|%px9|", (BYTES, BYTES, 1), f"(%pI?)|(%pG?)|{1:016x}|"),
]


@pytest.mark.parametrize(("format", "words", "text"), POINTERS)
def test_pointers(format: str, words: tuple[int, ...], text: str | None) -> None:
    if text is None:  # each took its one argument
        text = " ".join(f"{word:016x}" for word in words[:-1]) + "|(null)"
    assert Memory().text(format, *words) == text


BYTE_FORMATS = [
    ("%*ph", (6, BYTES), bytes(range(6)), "00 01 02 03 04 05"),
    ("%*phC", (3, BYTES), b"\x00\x01\x02", "00:01:02"),
    ("%*phD", (3, BYTES), b"\x00\x01\x02", "00-01-02"),
    ("%*phN", (3, BYTES), b"\x00\x01\x02", "000102"),
    ("%2ph|%ph|", (BYTES, BYTES), b"\xaa\xbb", "aa bb|aa|"),
    ("%*ph|", (0, BYTES), b"\xaa", "|"),
    ("%*phN", (100, BYTES), b"\xcd" * 100, "cd" * 64),
    ("%pM", (BYTES,), bytes(range(6)), "00:01:02:03:04:05"),
    ("%pMR %pMF", (BYTES, BYTES), bytes(range(6)), "05:04:03:02:01:00 00-01-02-03-04-05"),
    ("%pm %pmR", (BYTES, BYTES), bytes(range(6)), "000102030405 050403020100"),
    ("[%20pM]", (BYTES,), bytes(range(6)), "[   00:01:02:03:04:05]"),
    ("%pI4 %pi4", (BYTES, BYTES), b"\x01\x02\x03\x04", "1.2.3.4 001.002.003.004"),
    ("%pI4l %pI4h", (BYTES, BYTES), b"\x04\x03\x02\x01", "1.2.3.4 1.2.3.4"),
    ("%pI4b %pI4n", (BYTES, BYTES), b"\xff\x00\x03\x04", "255.0.3.4 255.0.3.4"),
    (
        "%pI6 %pi6",
        (BYTES, BYTES),
        bytes.fromhex("00010002000300040005000600070008"),
        "0001:0002:0003:0004:0005:0006:0007:0008 00010002000300040005000600070008",
    ),
    ("%pI6c", (BYTES,), bytes.fromhex("00010002000300040005000600070008"), "1:2:3:4:5:6:7:8"),
    ("%pI6c", (BYTES,), bytes.fromhex("20010db8000000000001000000000001"), "2001:db8::1:0:0:1"),
    ("%pI6c", (BYTES,), bytes(16), "::"),
    ("%pI6c", (BYTES,), bytes(15) + b"\x01", "::1"),
    ("%pI6c", (BYTES,), b"\xfe\x80" + bytes(14), "fe80::"),
    ("%pI6c", (BYTES,), bytes(10) + b"\xff\xff\x7f\x00\x00\x01", "::ffff:127.0.0.1"),
    ("%pUb", (BYTES,), bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    ("%pUB", (BYTES,), bytes(range(16)), "00010203-0405-0607-0809-0A0B0C0D0E0F"),
    ("%pUl", (BYTES,), bytes(range(16)), "03020100-0504-0706-0809-0a0b0c0d0e0f"),
    ("%pUL", (BYTES,), bytes(range(16)), "03020100-0504-0706-0809-0A0B0C0D0E0F"),
    ("%pU", (BYTES,), bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    ("%*pb", (8, BYTES), b"\x55", "55"),
    ("%*pb", (40, BYTES), b"\x78\x56\x34\x12\xab", "ab,12345678"),
    ("%*pb|%*pb", (3, BYTES, 64, BYTES), b"\xff", "7|00000000,000000ff"),
    ("%*pbl", (64, BYTES), b"\x79\x80", "0,3-6,15"),
    ("%*pbl|%*pb|%pb|", (8, BYTES + 8, 0, BYTES, BYTES), b"\x79\x80", "|||"),
    ("%pa %pap %pad", (BYTES,) * 3, b"\x78\x56\x34\x12", " ".join(["0x0000000012345678"] * 3)),
    # page flags: bit 5 lru, bit 2 referenced, bit 3 uptodate; zone 1 in bit 55
    (
        "%pGp",
        (BYTES,),
        (0x2C | 1 << 55).to_bytes(8, "little"),
        "0x8000000000002c(referenced|uptodate|lru|node=0|zone=1)",
    ),
    ("%pGg", (BYTES,), (0xCC0).to_bytes(4, "little"), "GFP_KERNEL"),
    (
        "%pGg",
        (BYTES,),
        (0xCC0 | 0x2000 | 4).to_bytes(4, "little"),
        "GFP_KERNEL|GFP_DMA32|__GFP_NOWARN",
    ),
    ("%pGv", (BYTES,), (0x75).to_bytes(8, "little"), "read|exec|mayread|maywrite|mayexec"),
    ("%3pE", (BYTES,), b"a\nb", "a\\nb"),
    ("%*pE", (8, BYTES), b'\x1b "C\x07"\x90\r', '\\e \\"C\\a\\"\\220\\r'),
    ("%p4cc", (BYTES,), b"BG12", "BG12 little-endian (0x32314742)"),
    ("%p4cc", (BYTES,), b"BG1\xb2", "BG12 big-endian (0xb2314742)"),
    ("%ptT", (BYTES,), (1546615943).to_bytes(8, "little"), "2019-01-04T15:32:23"),
    ("%ptTd %ptTt", (BYTES, BYTES), (1546615943).to_bytes(8, "little"), "2019-01-04 15:32:23"),
    ("%ptTs", (BYTES,), (0).to_bytes(8, "little"), "1970-01-01 00:00:00"),
]


@pytest.mark.parametrize(("format", "words", "data", "text"), BYTE_FORMATS)
def test_what_a_pointer_points_at(
    format: str, words: tuple[int, ...], data: bytes, text: str
) -> None:
    assert Memory().text(format, *words, data=data) == text


def resource(start: int, end: int, flags: int) -> bytes:
    return b"".join(n.to_bytes(8, "little") for n in (start, end, 0, flags))


@pytest.mark.parametrize(
    ("letter", "data", "text"),
    [
        ("R", resource(0x60000000, 0x6FFFFFFF, 0x102200), "[mem 0x60000000-0x6fffffff 64bit pref]"),
        ("r", resource(0x60000000, 0x6FFFFFFF, 0x2200), "[mem 0x60000000-0x6fffffff flags 0x2200]"),
        ("R", resource(1, 2, 0), "[??? 0x00000001-0x00000002 flags 0x0]"),
        ("R", resource(0x3F8, 0x3FF, 0x100), "[io  0x03f8-0x03ff]"),
        ("R", resource(7, 7, 0x400), "[irq 7]"),
        ("R", resource(0, 0xFFF, 0x20000200), "[mem size 0x00001000]"),
        ("R", resource(0, 0xFF, 0x1000), "[bus 00-ff]"),
    ],
)
def test_resources(letter: str, data: bytes, text: str) -> None:
    assert Memory().text(f"%p{letter}", BYTES, data=data) == text


@pytest.mark.parametrize("bad", ["%n", "%f", "%e", "%j", "%lq", "%v", "%\xff"])
def test_what_linux_does_not_know_ends_the_text(bad: str) -> None:
    assert Memory().text(f"%d {bad} %s", 1, 2, 8) == "1 "


def test_a_format_within_a_format() -> None:
    memory = Memory()
    inner = BYTES + 64
    # struct va_format at BYTES: its format, and where the va_list is; the va_list is at +128.
    data = bytearray(4096)
    data[0:16] = inner.to_bytes(8, "little") + (BYTES + 32).to_bytes(8, "little")
    data[32:40] = (BYTES + 128).to_bytes(8, "little")
    data[64:80] = b"%d and %s".ljust(16, b"\0")
    data[128:144] = (7).to_bytes(8, "little") + (BYTES + 256).to_bytes(8, "little")
    data[256:262] = b"inner\0"
    assert memory.text("<%pV> %d", BYTES, 9, data=bytes(data)) == "<7 and inner> 9"
    # One that contains itself ends.
    data[64:80] = b"x%pV".ljust(16, b"\0")
    data[128:136] = BYTES.to_bytes(8, "little")
    assert memory.text("%pV", BYTES, data=bytes(data)) == "x" * 8 + "(efault)"


def test_a_text_has_a_limit() -> None:
    memory = Memory()
    memory.parts[LIST] = bytes(64)
    formatter = Vsprintf(memory.read)
    text = formatter.text(b"%8000000d" * 8, Arguments(memory.read, LIST))
    assert len(text) == 3 * 8_000_000  # the first that has 16 MiB
    assert formatter.text(b"ab%dcd%d", Arguments(memory.read, LIST), 3) == b"ab0"


_letters = st.text("xKSsBFfeVhbMmIiUaGE4tRrpgvTcdlLqZ9", max_size=3)
_conversions = st.one_of(
    st.builds(
        "%{}{}{}{}".format,
        st.text("-+ #0", max_size=3),
        st.sampled_from(["", "*", "5", "70", "4000"]),
        st.sampled_from(["", ".", ".*", ".3", ".4000"]),
        st.one_of(
            st.builds("p{}".format, _letters),
            st.builds("{}{}".format, st.sampled_from(["", "h", "hh", "l", "z"]), st.characters()),
            st.sampled_from("disuxXoc%"),
        ),
    ),
    st.text(max_size=3),
)
_words = st.one_of(
    st.integers(0, M64),
    st.integers(BYTES - 16, BYTES + 4200),
    st.integers(LIST - 16, LIST + 300),
    st.sampled_from([0, 1, 4095, M64, M64 - 4095, 1 << 63]),
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(_conversions, max_size=6), st.lists(_words, min_size=40, max_size=40), st.binary())
def test_hostile_formats(formats: list[str], words: list[int], data: bytes) -> None:
    """Whatever they are, and wherever they point, there is a text."""
    memory = Memory()
    format = "".join(formats).replace("\0", "").encode("utf-8", "replace")
    memory.parts[LIST] = b"".join(word.to_bytes(8, "little") for word in words)
    memory.parts[BYTES] = data.ljust(4096, b"%s%pV"[len(data) % 5 :][:1] or b"x")
    formatter = Vsprintf(memory.read, lambda va: Symbol("f", va % 7, 8) if va % 2 else None)
    text = formatter.text(format, Arguments(memory.read, LIST))
    assert isinstance(text, bytes)


def test_vm_flags_that_have_no_name() -> None:
    assert format_vm_flags(0x1_0000_0101) == "read|growsdown|0x100000000"
    assert format_vm_flags(0) == "0x0"


def test_siphash() -> None:
    """The reference's test vector for the input 00 01 .. 07 and the key 00 01 .. 0f."""
    word = int.from_bytes(bytes(range(8)), "little")
    key = tuple(int.from_bytes(bytes(range(i, i + 8)), "little") for i in (0, 8))
    assert siphash_1u64(word, (key[0], key[1])).to_bytes(8, "little").hex() == "6224939a79f5f593"
