"""What freeing a block looks at and leaves behind, page by page: free_pages_prepare."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.errors import BadPage
from mm.gfp import GFP_COMP, GFP_KERNEL
from mm.page import PAGE_FLAGS, PAGE_FLAGS_CHECK_AT_FREE, PG_BIT

# Flags of a page that may be set when it is freed: all that are not in Linux's
# PAGE_FLAGS_CHECK_AT_FREE (lru, locked, private, private_2, writeback, reserved, active,
# unevictable, mlocked) and mean nothing to the allocator itself (head).
HARMLESS = (
    "referenced", "uptodate", "dirty", "waiters", "workingset", "owner_priv_1", "owner_2",
    "arch_1", "reclaim", "swapbacked",
)  # fmt: skip


def booted(pcp: bool) -> mm.Kernel:
    return mm.boot(Ram(16 << 20), mm.Config(pcp=pcp))


def test_the_harmless_flags_are_all_others() -> None:
    harmful = {name for name in PAGE_FLAGS if PG_BIT[name] & PAGE_FLAGS_CHECK_AT_FREE}
    assert len(harmful) == 9
    assert {*HARMLESS, "head"} | harmful == set(PAGE_FLAGS)


@pytest.mark.parametrize("pcp", [True, False])
@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_KERNEL | GFP_COMP])
@pytest.mark.parametrize("order", [0, 1, 3, 5])
def test_flags_do_not_survive_a_free(pcp: bool, gfp: int, order: int) -> None:
    k = booted(pcp)
    bits = sum(PG_BIT[name] for name in HARMLESS)
    pfn = k.alloc_pages(gfp, order)
    assert pfn is not None
    for page in range(pfn, pfn + (1 << order)):
        # The low byte of a compound page's first tail is its order.
        k.page(page).flags |= bits & ~0xFF if page == pfn + 1 else bits
    k.free_pages(pfn, order)
    mm.check(k)
    again = k.alloc_pages(GFP_KERNEL, order)
    assert again is not None
    zone = k.page(again).zone << 55
    assert [k.page(p).flags for p in range(again, again + (1 << order))] == [zone] * (1 << order)


BREAK_TAIL: dict[str, Callable[[mm.Kernel, int], None]] = {
    "nonzero _refcount": lambda k, tail: setattr(k.page(tail), "_refcount", 1),
    "non-NULL mapping": lambda k, tail: setattr(k.page(tail), "mapping", 8),
    "nonzero mapcount": lambda k, tail: setattr(k.page(tail), "_mapcount", 0),
    "flag(s) set": lambda k, tail: setattr(
        k.page(tail), "flags", k.page(tail).flags | PG_BIT["mlocked"]
    ),
}


@pytest.mark.parametrize("pcp", [True, False])
@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_KERNEL | GFP_COMP])
@pytest.mark.parametrize("order", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("why", BREAK_TAIL)
def test_a_tail_in_use_keeps_its_block(pcp: bool, gfp: int, order: int, why: str) -> None:
    k = booted(pcp)
    pfn = k.alloc_pages(gfp, order)
    assert pfn is not None
    tail = pfn + (1 << order) - 1
    before = k.ram.read(k.page(tail).pa, 64)
    BREAK_TAIL[why](k, tail)
    free = k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages()
    with pytest.raises(BadPage) as bad:
        k.free_pages(pfn, order)
    assert bad.value.pfn == tail and why in bad.value.reason
    assert k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages() == free
    k.ram.write(k.page(tail).pa, before)
    k.free_pages(pfn, order)
    mm.check(k)


@pytest.mark.parametrize(
    ("link", "why"), [(0, "PageTail not set"), (64, "compound_head not consistent")]
)
def test_a_tail_of_another_compound_page(link: int, why: str) -> None:
    k = booted(True)
    pfn = k.alloc_pages(GFP_KERNEL | GFP_COMP, 2)
    assert pfn is not None
    right = k.ram.read64(k.page(pfn + 2).pa + 8)
    k.ram.write64(k.page(pfn + 2).pa + 8, link and right + link)
    with pytest.raises(BadPage) as bad:
        k.free_pages(pfn, 2)
    assert (bad.value.pfn, bad.value.reason) == (pfn + 2, why)
    k.ram.write64(k.page(pfn + 2).pa + 8, right)
    k.free_pages(pfn, 2)
    mm.check(k)


def test_the_order_in_a_compound_page() -> None:
    k = booted(True)
    pfn = k.alloc_pages(GFP_KERNEL | GFP_COMP, 3)
    assert pfn is not None
    k.page(pfn + 1).flags ^= 1
    with pytest.raises(BadPage, match="holds another order"):
        k.free_pages(pfn, 3)
    k.page(pfn + 1).flags ^= 1
    k.free_pages(pfn, 3)
    mm.check(k)


@pytest.mark.parametrize("page_owner", [True, False])
def test_a_held_head_lets_its_tails_go(page_owner: bool) -> None:
    """___free_pages: who took a reference on a block that is not compound keeps one page."""
    k = mm.boot(Ram(16 << 20), mm.Config(page_owner=page_owner))
    pfn = k.alloc_pages(GFP_KERNEL, 3)
    assert pfn is not None
    k.page_alloc.get_page(pfn)
    free = k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages()
    k.free_pages(pfn, 3)
    assert k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages() == free + 7
    assert (k.page(pfn)._refcount, k.page(pfn).order) == (1, 0)
    mm.check(k)
    k.free_page(pfn)
    assert k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages() == free + 8
    mm.check(k)


def test_a_held_compound_page_stays_whole() -> None:
    k = booted(True)
    pfn = k.alloc_pages(GFP_KERNEL | GFP_COMP, 2)
    assert pfn is not None
    k.page_alloc.get_page(pfn)
    free = k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages()
    k.free_pages(pfn, 2)
    assert k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages() == free
    k.free_pages(pfn, 2)
    assert k.page_alloc.nr_free_pages() + k.page_alloc.nr_pcp_pages() == free + 4
    mm.check(k)
