"""Linux's list_head operations on RAM (include/linux/list.h, with CONFIG_DEBUG_LIST).

Arguments and results are VAs of ``list_head``s in the direct map or in vmemmap. Every
change checks that what it is about to relink is linked both ways, and every walk is
bounded: a corrupt list raises ListCorruption, never hangs and never spreads.
"""

from __future__ import annotations

from collections.abc import Iterator

from mm.addrspace import Space
from mm.errors import BadAddress, ListCorruption


class Lists:
    """List operations in one kernel's RAM."""

    def __init__(self, space: Space) -> None:
        self._u64 = space.ram.u64
        self._space = space
        self._page_offset = space.page_offset
        self._direct_end = space.direct_end
        self._vmemmap = space.vmemmap
        self._vmemmap_size = space.vmemmap_end - space.vmemmap
        self._memmap_index = space.memmap_index

    def _index(self, va: int) -> int:
        if not va & 7:
            if self._page_offset <= va < self._direct_end:
                return (va - self._page_offset) >> 3
            if 0 <= va - self._vmemmap < self._vmemmap_size:
                return self._memmap_index + ((va - self._vmemmap) >> 3)
        raise ListCorruption(va, "pointer to a place that cannot hold a list_head")

    # Entries are nearly always the links of struct pages, and a call costs as much as all the
    # rest of what add and delete do: so they find those themselves, and ask _index for others.

    def init(self, head: int) -> None:
        """INIT_LIST_HEAD: an empty list points to itself."""
        i = self._index(head)
        self._u64[i] = head
        self._u64[i + 1] = head

    def empty(self, head: int) -> bool:
        """Whether the list at ``head`` has no entries."""
        return self._u64[self._index(head)] == head

    def first(self, head: int) -> int:
        """The first entry, 0 when the list is empty. Raises ListCorruption."""
        first = self._u64[self._index(head)]
        if first == head:
            return 0
        self._index(first)
        return first

    def _insert(self, new: int, prev: int, next_: int) -> None:
        u64, n, p, x = self._u64, self._index(new), self._index(prev), self._index(next_)
        if u64[p] != next_ or u64[x + 1] != prev:
            raise ListCorruption(prev, "list_add: next and prev disagree")
        u64[n] = next_
        u64[n + 1] = prev
        u64[p] = new
        u64[x + 1] = new

    def add(self, new: int, head: int) -> None:
        """list_add: ``new`` becomes the first entry."""
        u64, h = self._u64, self._index(head)
        vmemmap, size, memmap = self._vmemmap, self._vmemmap_size, self._memmap_index
        n = new - vmemmap
        n = memmap + (n >> 3) if 0 <= n < size and not n & 7 else self._index(new)
        first = u64[h]
        x = first - vmemmap
        x = memmap + (x >> 3) if 0 <= x < size and not x & 7 else self._index(first)
        if u64[x + 1] != head:
            raise ListCorruption(head, "list_add: next and prev disagree")
        u64[n] = first
        u64[n + 1] = head
        u64[h] = new
        u64[x + 1] = new

    def add_tail(self, new: int, head: int) -> None:
        """list_add_tail: ``new`` becomes the last entry."""
        self._insert(new, self._u64[self._index(head) + 1], head)

    def delete(self, entry: int) -> None:
        """list_del; the entry's own pointers become 0 (a struct page is valid when zero)."""
        u64 = self._u64
        vmemmap, size, memmap = self._vmemmap, self._vmemmap_size, self._memmap_index
        e = entry - vmemmap
        e = memmap + (e >> 3) if 0 <= e < size and not e & 7 else self._index(entry)
        next_, prev = u64[e], u64[e + 1]
        n = next_ - vmemmap
        n = memmap + (n >> 3) if 0 <= n < size and not n & 7 else self._index(next_)
        p = prev - vmemmap
        p = memmap + (p >> 3) if 0 <= p < size and not p & 7 else self._index(prev)
        if u64[n + 1] != entry or u64[p] != entry:
            raise ListCorruption(entry, "list_del: the neighbours do not point back")
        u64[n + 1] = prev
        u64[p] = next_
        u64[e] = 0
        u64[e + 1] = 0

    def walk(self, head: int, limit: int) -> Iterator[int]:
        """The entries from first to last, at most ``limit`` of them; checks every link.

        Raises ListCorruption on a bad or one-sided link, and when the list is longer.
        The entry just yielded may be deleted before the walk goes on.
        """
        u64 = self._u64
        prev, va = head, u64[self._index(head)]
        for _ in range(limit):
            if va == head:
                break
            i = self._index(va)
            if u64[i + 1] != prev:
                raise ListCorruption(va, "prev does not point to the entry before")
            next_ = u64[i]
            yield va
            if u64[i] == next_:
                prev = va  # else: the consumer unlinked the entry; prev stays
            va = next_
        if va != head:
            raise ListCorruption(head, f"more than {limit} entries")
        if u64[self._index(head) + 1] != prev:
            raise ListCorruption(head, "the head's prev is not the last entry")

    def resolve(self, va: int) -> int:
        """The PA of a list entry. Raises ListCorruption for no address of RAM."""
        try:
            return self._space.pa(va)
        except BadAddress as e:
            raise ListCorruption(va, "pointer to a place outside of RAM") from e
