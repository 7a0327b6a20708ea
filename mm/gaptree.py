"""Which ranges of an address space are taken: by address, and by the gaps between them.

A treap of ranges ``[start, end)`` that do not overlap. Each node knows the free gap right
below its range and the largest gap in its subtree, so that the lowest gap of a given size is
found by one descent (Linux keeps the free ranges in a tree augmented with subtree_max_size
and searches it in the same way, find_vmap_lowest_match). A sentinel above every address
owns the last gap. All operations take O(log n) steps, expected; the priorities come from a
generator with a fixed seed, so that the same calls always build the same tree.

The tree is an index only: whoever owns it can build it again from the ranges.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_TOP = 1 << 64


class Node(Generic[T]):
    """A range ``[start, end)`` with what is there (``item``); ``gap`` bytes below it are free."""

    __slots__ = ("end", "gap", "item", "left", "max_gap", "parent", "priority", "right", "start")

    def __init__(self, start: int, end: int, item: T, priority: float) -> None:
        self.start = start
        self.end = end
        self.item = item
        self.priority = priority
        self.gap = 0
        self.max_gap = 0
        self.left: Node[T] | None = None
        self.right: Node[T] | None = None
        self.parent: Node[T] | None = None


class GapTree(Generic[T]):
    """Ranges of one address space; their bounds are multiples of ``grain``, all in bytes."""

    def __init__(self, sentinel: T, grain: int = 1) -> None:
        self._grain = grain
        self._random = random.Random(1)
        self._root: Node[T] = Node(_TOP, _TOP, sentinel, 2.0)  # above every other priority
        self._root.gap = self._root.max_gap = _TOP
        self.count = 0

    def at_or_below(self, address: int) -> Node[T] | None:
        """The range with the highest start that is not above ``address``."""
        node: Node[T] | None = self._root
        best = None
        while node is not None:
            if node.start <= address:
                best, node = node, node.right
            else:
                node = node.left
        return best

    def at_or_above(self, address: int) -> Node[T]:
        """The range with the lowest start not below ``address``; the sentinel if none."""
        return self._above(address - 1)

    def _above(self, address: int) -> Node[T]:
        """The range, or the sentinel, with the lowest start above ``address``."""
        node: Node[T] | None = self._root
        best = self._root
        while node is not None:
            if node.start > address:
                best, node = node, node.left
            else:
                node = node.right
        return best

    def lowest_fit(self, size: int, low: int, high: int, align: int = 1) -> int | None:
        """The start of the lowest gap in ``[low, high)`` that holds ``size`` bytes.

        With an alignment: the lowest gap that holds them wherever it starts (as Linux
        searches), so that a gap that fits by luck alone may be passed over.
        """
        need = size + max(align - self._grain, 0)
        node: Node[T] | None = self._above(low)
        assert node is not None
        at = -(-max(low, node.start - node.gap) // align) * align
        if at + size <= min(node.start, high):
            return at
        node = _next_gap(node, need)
        if node is None:
            return None
        at = -(-(node.start - node.gap) // align) * align
        return at if at + size <= high else None

    def insert(self, start: int, end: int, item: T) -> Node[T]:
        """Take ``[start, end)``. Raises ValueError when part of it is taken."""
        node: Node[T] = Node(start, end, item, self._random.random())
        parent = self._root
        above = self._root
        while True:
            if start < parent.start:
                above = parent
                child = parent.left
            else:
                child = parent.right
            if child is None:
                break
            parent = child
        below = above.start - above.gap
        if not below <= start < end <= above.start:
            raise ValueError(f"{start:#x}-{end:#x} is taken")
        node.parent = parent
        if start < parent.start:
            parent.left = node
        else:
            parent.right = node
        node.gap = node.max_gap = start - below
        above.gap = above.start - end
        while node.parent is not None and node.parent.priority < node.priority:
            self._rotate_up(node)
        _fix_up(node)
        _fix_up(above)
        self.count += 1
        return node

    def remove(self, node: Node[T]) -> None:
        """Give the range of ``node`` back; its gap joins the one above."""
        above = self._above(node.start)
        above.gap += node.end - node.start + node.gap
        while node.left is not None and node.right is not None:
            higher = node.left if node.left.priority > node.right.priority else node.right
            self._rotate_up(higher)
        child = node.left or node.right
        parent = node.parent
        assert parent is not None  # the sentinel is the root and stays
        if child is not None:
            child.parent = parent
        if parent.left is node:
            parent.left = child
        else:
            parent.right = child
        node.parent = node.left = node.right = None
        _fix_up(parent)
        _fix_up(above)
        self.count -= 1

    def __iter__(self) -> Iterator[Node[T]]:
        """The ranges by address, without the sentinel."""
        node: Node[T] | None = self._above(-1)
        while node is not None and node is not self._root:
            yield node
            node = _next(node)

    def _rotate_up(self, node: Node[T]) -> None:
        parent = node.parent
        assert parent is not None
        above = parent.parent
        if parent.left is node:
            parent.left = node.right
            if node.right is not None:
                node.right.parent = parent
            node.right = parent
        else:
            parent.right = node.left
            if node.left is not None:
                node.left.parent = parent
            node.left = parent
        parent.parent = node
        node.parent = above
        if above is not None:
            if above.left is parent:
                above.left = node
            else:
                above.right = node
        _fix(parent)
        _fix(node)


def _fix(node: Node[T]) -> bool:
    """Compute ``max_gap`` from the children; whether it changed."""
    best = node.gap
    if node.left is not None and node.left.max_gap > best:
        best = node.left.max_gap
    if node.right is not None and node.right.max_gap > best:
        best = node.right.max_gap
    changed = node.max_gap != best
    node.max_gap = best
    return changed


def _fix_up(start: Node[T]) -> None:
    """The same from ``start`` to the root."""
    node: Node[T] | None = start
    while node is not None:
        _fix(node)
        node = node.parent


def _next(node: Node[T]) -> Node[T] | None:
    if node.right is not None:
        node = node.right
        while node.left is not None:
            node = node.left
        return node
    while node.parent is not None and node.parent.right is node:
        node = node.parent
    return node.parent


def _next_gap(start: Node[T], size: int) -> Node[T] | None:
    """The first node after ``start`` whose gap is of at least ``size``."""
    node = start
    while True:
        if node.right is not None and node.right.max_gap >= size:
            node = node.right
            while True:
                if node.left is not None and node.left.max_gap >= size:
                    node = node.left
                elif node.gap >= size:
                    return node
                else:
                    assert node.right is not None
                    node = node.right
        while node.parent is not None and node.parent.right is node:
            node = node.parent
        if node.parent is None:
            return None
        node = node.parent
        if node.gap >= size:
            return node
