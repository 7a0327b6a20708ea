"""What Linux prints about one struct page (mm/debug.c, dump_page)."""

from __future__ import annotations

from collections.abc import Iterator

from mm.addrspace import Space
from mm.page import (
    PAGE_FLAGS,
    PAGE_TYPES,
    PAGE_WORDS,
    PG_HEAD,
    W_FLAGS,
    W_LRU_NEXT,
    W_MAPPING,
    W_TYPE_REF,
    format_flags,
)

_TYPE_NAMES = {value: name for name, value in PAGE_TYPES.items()}
_W_INDEX = 4
assert len(PAGE_FLAGS) == 20


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def dump_page(space: Space, pfn: int, reason: str) -> Iterator[str]:
    """The lines of dump_page for frame ``pfn``, up to "page dumped because: ``reason``"."""
    at = space.page_index(pfn)
    words = space.ram.u64[at : at + PAGE_WORDS].tolist()
    refcount = _signed32(words[W_TYPE_REF] >> 32)
    page_type = words[W_TYPE_REF] & 0xFFFFFFFF
    has_type = page_type >> 24 in _TYPE_NAMES
    mapcount = 0 if has_type else _signed32(page_type) + 1
    yield (
        f"page: refcount:{refcount} mapcount:{mapcount} mapping:{words[W_MAPPING]:016x} "
        f"index:{words[_W_INDEX]:#x} pfn:{pfn:#x}"
    )
    if words[W_FLAGS] & PG_HEAD and pfn + 1 < space.end_pfn:
        order = space.ram.u64[at + PAGE_WORDS] & 0xFF
        yield f"head: order:{order} mapcount:{mapcount} entire_mapcount:0 nr_pages_mapped:0"
    yield f"flags: {format_flags(words[W_FLAGS])}"
    if has_type:
        yield f"page_type: {page_type >> 24:x}({_TYPE_NAMES[page_type >> 24]})"
    for half in (words[:4], words[4:]):
        yield "raw: " + " ".join(f"{word:016x}" for word in half)
    if words[W_LRU_NEXT] & 1:
        yield f"head: {words[W_LRU_NEXT] - 1:016x}"
    yield f"page dumped because: {reason}"
