"""Sv39, Sv48 and Sv57 as data."""

from __future__ import annotations

import pytest

from emu.spec import paging as P
from emu.spec.paging import SV39, SV48, SV57, PagingMode

ALL = (SV39, SV48, SV57)


@pytest.mark.parametrize(
    ("mode", "satp_mode", "levels", "va_bits"),
    [(SV39, 8, 3, 39), (SV48, 9, 4, 48), (SV57, 10, 5, 57)],
)
def test_modes(mode: PagingMode, satp_mode: int, levels: int, va_bits: int) -> None:
    assert (mode.satp_mode, mode.levels, mode.va_bits) == (satp_mode, levels, va_bits)
    assert P.MODES[f"sv{va_bits}"] is mode
    sizes = [4096, 2 << 20, 1 << 30, 512 << 30, 256 << 40]
    assert [mode.span(i) for i in range(levels)] == sizes[:levels]
    assert [1 << mode.shift(i) for i in range(levels)] == sizes[:levels]


def test_split() -> None:
    # vpn[4]=0x1ab vpn[3]=0x0ff vpn[2]=0x100 vpn[1]=0x001 vpn[0]=0x1fe offset=0xabc
    va = 0x1AB << 48 | 0x0FF << 39 | 0x100 << 30 | 0x001 << 21 | 0x1FE << 12 | 0xABC
    assert SV57.split(va) == (0x1AB, 0x0FF, 0x100, 0x001, 0x1FE, 0xABC)
    assert SV48.split(va) == (0x0FF, 0x100, 0x001, 0x1FE, 0xABC)
    assert SV39.split(va) == (0x100, 0x001, 0x1FE, 0xABC)
    assert SV39.index(va, 0) == 0x1FE and SV57.index(va, 4) == 0x1AB
    assert SV39.split((1 << 64) - 1) == (511, 511, 511, 4095)


@pytest.mark.parametrize(
    ("mode", "low_end", "high_start"),
    [
        (SV39, 0x0000_003F_FFFF_FFFF, 0xFFFF_FFC0_0000_0000),
        (SV48, 0x0000_7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000),
        (SV57, 0x00FF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000),
    ],
)
def test_canonical(mode: PagingMode, low_end: int, high_start: int) -> None:
    for va in (0, 1, low_end, high_start, (1 << 64) - 1):
        assert mode.is_canonical(va)
        assert mode.canonical(va) == va
    for va in (low_end + 1, high_start - 1, 1 << 63, low_end | 1 << 63, high_start ^ 1 << 63):
        assert not mode.is_canonical(va)
    assert mode.canonical(low_end + 1) == high_start
    assert mode.canonical(high_start - 1) == low_end
    assert mode.canonical((1 << 63) + 5) == 5


def test_satp() -> None:
    assert SV39.satp(0x8000_1000) == 0x8000_0000_0008_0001
    assert SV48.satp(0x8000_1000, 0xABCD) == 0x9ABC_D000_0008_0001
    assert SV57.satp((1 << 56) - 4096, 0xFFFF) == 0xAFFF_FFFF_FFFF_FFFF
    for root, asid in ((0x8000_0001, 0), (1 << 56, 0), (0, 0x10000), (0, -1), (-4096, 0)):
        with pytest.raises(ValueError):
            SV39.satp(root, asid)
    assert P.satp_root(0x9ABC_D000_0008_0001) == 0x8000_1000
    assert P.satp_asid(0x9ABC_D000_0008_0001) == 0xABCD
    assert P.satp_root((1 << 64) - 1) == (1 << 56) - 4096


def test_mode_of_satp() -> None:
    assert P.mode_of_satp(0x0FFF_FFFF_FFFF_FFFF) is None
    assert [P.mode_of_satp(n << 60) for n in (8, 9, 10)] == list(ALL)
    for reserved in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        with pytest.raises(ValueError, match=f"MODE {reserved} "):
            P.mode_of_satp(reserved << 60 | 5)


def test_pte_fields() -> None:
    assert P.make_pte(0x80123, 0xCF) == 0x2004_8CCF
    assert P.pte_pfn(0x2004_8CCF) == 0x80123
    assert P.pte_pfn((1 << 64) - 1) == (1 << 44) - 1
    assert P.pte_pfn(0xFFC0_0000_0000_03FF) == 0
    assert [P.is_leaf(1 | bits << 1) for bits in range(8)] == [
        False, True, False, True, True, True, True, True
    ]  # fmt: skip
    masks = (P.PTE_PPN_MASK, P.PTE_RSW, P.PTE_RESERVED, P.PTE_PBMT, P.PTE_N, 0xFF)
    assert masks == (0x003F_FFFF_FFFF_FC00, 0x300, 0x1FC0_0000_0000_0000, 3 << 61, 1 << 63, 0xFF)
    assert sum(masks) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("pte", "text"),
    [
        (0, "not valid"),
        (0xCE, "not valid (other bits set: 0xce)"),
        (0x2004_8CCF, "page at PA 0x80123000 rwx--ad"),
        (0x2004_8C01, "table at PA 0x80123000 -------"),
        (0x2004_8C59, "page at PA 0x80123000 --xu-a-"),
        (0x2004_8FE3, "page at PA 0x80123000 r---gad rsw=3"),
        (1 << 54 | 3, "page at PA 0x0 r------ reserved bits set"),
        (1 << 60 | 3, "page at PA 0x0 r------ reserved bits set"),
        (1 << 61 | 3, "page at PA 0x0 r------ pbmt=1"),
        (3 << 61 | 1 << 63 | 3, "page at PA 0x0 r------ pbmt=3 napot"),
        ((1 << 54) - 1, "page at PA 0xfffffffffff000 rwxugad rsw=3"),
    ],
)
def test_describe_pte(pte: int, text: str) -> None:
    assert P.describe_pte(pte) == text
