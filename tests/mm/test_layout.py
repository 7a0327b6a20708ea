"""Structures: offsets by C's rules, views, numpy and C from one declaration."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emu.ram import Ram, RamError
from mm.header import STRUCTS, c_header
from mm.layout import ListHead, Struct, array_of, chars, nested, s16, s32, u8, u16, u32, u64
from mm.page import Page, Ptdesc
from mm.slab.structs import Slab


class Sample(Struct, c_name="sample"):
    a = u8()
    b = u32()
    signed = s16()
    c = u64()
    link = nested(ListHead)
    lists = array_of(ListHead, 2)
    name = chars(8)
    d = u16()
    alias = s32(at=4)


def test_offsets_follow_c() -> None:
    offsets = [Sample.offset_of(n) for n in ("a", "b", "signed", "c", "link", "lists", "name", "d")]
    assert offsets == [0, 4, 8, 16, 24, 40, 72, 80]
    assert Sample.SIZE == 88
    assert Sample.word_of("c") == 2


def test_view_reads_and_writes() -> None:
    ram = Ram(1 << 16)
    s = Sample(ram, ram.base + 64)
    s.b = 0xFFFFFFFE
    assert s.alias == -2
    s.signed = -3
    assert s.signed == -3
    s.c = 1 << 63
    assert ram.read64(ram.base + 64 + 16) == 1 << 63
    s.name = "too long a name"
    assert s.name == "too lon"
    s.lists[1].prev = 7
    assert ram.read64(ram.base + 64 + 64) == 7
    with pytest.raises(IndexError):
        s.lists[2]
    with pytest.raises(RamError):
        Sample(ram, ram.end - 8)
    with pytest.raises(RamError):
        Sample(ram, ram.base + 4)
    with pytest.raises(AttributeError):
        s.link = ListHead(ram, ram.base)
    assert s == Sample(ram, ram.base + 64) and s != Sample(ram, ram.base)
    s.clear()
    assert s.fields()["b"] == 0


def test_numpy_sees_the_same_bytes() -> None:
    ram = Ram(1 << 16)
    pages = ram.array(ram.base, 4, Page.dtype())
    Page(ram, ram.base + 128)._mapcount = -1
    assert pages["page_type"][2] == 0xFFFFFFFF and pages["_mapcount"][2] == -1
    assert np.dtype(Page.dtype()).itemsize == 64


def test_struct_page_is_linux() -> None:
    words = {
        "flags": 0, "lru": 8, "mapping": 24, "index": 32, "private": 40, "page_type": 48,
        "_mapcount": 48, "_refcount": 52, "order": 56, "last_migrate_reason": 58, "gfp_mask": 60,
    }  # fmt: skip
    assert {n: Page.offset_of(n) for n in words} == words
    assert (Slab.offset_of("slab_cache"), Slab.offset_of("slab_list")) == (8, 16)
    assert (Slab.offset_of("freelist"), Slab.offset_of("counters")) == (32, 40)
    assert Ptdesc.offset_of("pt_mm") == 32
    assert {s.SIZE for s in (Page, Slab, Ptdesc)} == {64}


def test_every_structure_is_in_the_header_once() -> None:
    text = c_header()
    for struct in STRUCTS:
        assert text.count(f"struct {struct.C_NAME} {{") == 1


def test_header_compiles_for_the_guest(tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    (tmp_path / "mm.h").write_text(c_header())
    source = tmp_path / "use.c"
    source.write_text(
        '#include "mm.h"\n#include "mm.h"\n'
        "uint64_t f(void) { return VMCOREINFO->ram_size + GFP_KERNEL + PG_head; }\n"
        "uint32_t g(struct page *p) { return p->page_type + (uint32_t)p->_mapcount; }\n"
    )
    command = [
        sys.executable, "-m", "ziglang", "cc", "--target=riscv64-freestanding-none",
        "-mcpu=generic_rv64+m+a+f+d+c", "-Wall", "-Wextra", "-Werror", "-c", str(source),
        "-o", str(tmp_path / "use.o"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
