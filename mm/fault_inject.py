"""Fault injection: allocations that fail on request, to try what callers do then.

Two attributes, as in Linux: ``failslab`` (every object of a slab cache, small kmallocs
among them) and ``fail_page_alloc`` (every request to the page allocator, those of slabs and
page tables among them). Each call of an allocator that has one armed asks ``should_fail``:

| step | rule |
|---|---|
| 1 | ``fail_nth`` is set: count it down; the allocation that brings it to 0 fails, others pass |
| 2 | ``probability`` (percent) or ``times`` is 0: pass |
| 3 | ``space`` is larger than the request: take the request's bytes off it and pass |
| 4 | ``interval`` above 1: only every interval-th call goes on |
| 5 | fail with ``probability`` percent; every failure takes one off ``times`` (-1: no limit) |

``fail_nth`` is one counter for both, as /proc/self/fail-nth is: set it to 1, 2, 3, ... to
make each allocation of an operation fail in turn. A request with __GFP_NOFAIL never fails.
Everything, the state of the random numbers too, lies in vmcoreinfo: the same seed fails the
same calls, and a snapshot goes on where it was. What differs from Linux: ignore_gfp_wait and
min_order start at 0, so that there is nothing to switch off before GFP_KERNEL can fail.

Source: Linux lib/fault-inject.c (should_fail_ex), mm/failslab.c, mm/fail_page_alloc.c.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.ram import PAGE_SIZE
from mm.gfp import __GFP_DIRECT_RECLAIM as GFP_DIRECT_RECLAIM
from mm.gfp import __GFP_NOFAIL as GFP_NOFAIL
from mm.layout import Struct, nested, s64, u64
from mm.page_alloc import PageAllocator
from mm.slab import SlabAllocator

_M64 = (1 << 64) - 1
_PCP_DEBUG_FAIL = 1 << 8  # per_cpu_pages.debug: guest code shall not pop from the lists


class FaultAttr(Struct, c_name="fault_attr"):
    """What shall fail. ``probability`` in percent, ``space`` in bytes."""

    probability = u64()
    interval = u64()
    times = s64()  # failures that are left; -1: no limit
    space = s64()
    verbose = u64()  # 1: a message for each failure
    count = u64()  # calls so far, for interval
    ignore_gfp_wait = u64()  # requests that may wait (__GFP_DIRECT_RECLAIM) pass
    min_order = u64()  # fail_page_alloc: smaller requests pass
    failures = u64()


class FaultState(Struct, c_name="fault_injection"):
    """All of fault injection's state, in vmcoreinfo."""

    failslab = nested(FaultAttr)
    fail_page_alloc = nested(FaultAttr)
    fail_nth = u64()  # 0: off; 1: the next allocation fails
    random = u64()  # xorshift64 state; 0: not seeded


class FaultInjection:
    """The switches over ``state``. What is off costs the allocators nothing but a None."""

    def __init__(
        self,
        state: FaultState,
        page_alloc: PageAllocator,
        slab: SlabAllocator,
        printk: Callable[[str], None],
    ) -> None:
        self.state = state
        self.page_alloc = page_alloc
        self.slab = slab
        self.printk = printk  # takes the messages of verbose
        if state.fail_nth or state.failslab.probability or state.fail_page_alloc.probability:
            self._rearm()

    def set(self, name: str, **values: int) -> None:
        """Set attributes of ``failslab`` or ``fail_page_alloc``, e.g.
        ``set("failslab", probability=10, times=-1)``. What was never set is interval 1,
        times 1, as in Linux. Raises ValueError for a name or value that cannot be.
        """
        attr = self._attr(name)
        if not attr.interval:
            attr.interval, attr.times = 1, 1
        for key, value in values.items():
            if key not in _SETTABLE:
                raise ValueError(f"{name} has no {key}: {', '.join(_SETTABLE)}")
            low, high = _SETTABLE[key]
            if not low <= value <= high:
                raise ValueError(f"{name}: {key} {value} is not {low} to {high}")
            setattr(attr, key, value)
        self._rearm()

    def _attr(self, name: str) -> FaultAttr:
        if name not in ("failslab", "fail_page_alloc"):
            raise ValueError(f"{name!r} is not failslab or fail_page_alloc")
        attr: FaultAttr = getattr(self.state, name)
        return attr

    @property
    def fail_nth(self) -> int:
        """Allocations until the one that fails; 0: off, or it has failed."""
        return self.state.fail_nth

    @fail_nth.setter
    def fail_nth(self, n: int) -> None:
        if n < 0:
            raise ValueError(f"fail_nth {n}")
        self.state.fail_nth = n
        self._rearm()

    def seed(self, seed: int) -> None:
        """Start the random numbers anew: the same seed fails the same calls."""
        self.state.random = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & _M64 or 1

    def off(self) -> None:
        """Switch everything off; the counts stay."""
        self.state.fail_nth = 0
        for attr in (self.state.failslab, self.state.fail_page_alloc):
            attr.probability = 0
        self._rearm()

    def _rearm(self) -> None:
        """Hang the hooks that are on into the allocators, and have guest code trap to them."""
        state = self.state
        slab = bool(state.fail_nth or state.failslab.probability)
        page = bool(state.fail_nth or state.fail_page_alloc.probability)
        if slab != (self.slab.failslab is not None):
            self.slab.set_failslab(self._should_failslab if slab else None)
        if page != (self.page_alloc.should_fail is not None):
            self.page_alloc.should_fail = self._should_fail_alloc_page if page else None
            for zone in self.page_alloc.zones:
                pcp = zone.per_cpu_pageset
                pcp.debug = pcp.debug & ~_PCP_DEBUG_FAIL | (_PCP_DEBUG_FAIL if page else 0)

    def _should_failslab(self, cache_name: str, cache_flags: int, gfp: int, size: int) -> bool:
        """should_failslab: ``size`` in bytes."""
        return self._should_fail("failslab", self.state.failslab, size, gfp)

    def _should_fail_alloc_page(self, gfp: int, order: int) -> bool:
        """should_fail_alloc_page."""
        attr = self.state.fail_page_alloc
        if order < attr.min_order:
            return False
        return self._should_fail("fail_page_alloc", attr, PAGE_SIZE << order, gfp)

    def _should_fail(self, name: str, attr: FaultAttr, size: int, gfp: int) -> bool:
        if gfp & GFP_NOFAIL or (attr.ignore_gfp_wait and gfp & GFP_DIRECT_RECLAIM):
            return False
        nth = self.state.fail_nth
        if nth:
            self.state.fail_nth = nth - 1
            if nth > 1:
                return False
            self._rearm()
        elif not self._by_chance(attr, size):
            return False
        attr.failures += 1
        if attr.verbose:
            self.printk("FAULT_INJECTION: forcing a failure.")
            self.printk(
                f"name {name}, interval {attr.interval}, probability {attr.probability}, "
                f"space {attr.space}, times {attr.times}"
            )
        if attr.times > 0:
            attr.times -= 1
        return True

    def _by_chance(self, attr: FaultAttr, size: int) -> bool:
        if not attr.probability or not attr.times:
            return False
        if attr.space > size:
            attr.space -= size
            return False
        if attr.interval > 1:
            attr.count += 1
            if attr.count % attr.interval:
                return False
        return attr.probability > self._random_below_100()

    def _random_below_100(self) -> int:
        if not self.state.random:
            self.seed(0)
        x = self.state.random
        x ^= x << 13 & _M64
        x ^= x >> 7
        x ^= x << 17 & _M64
        self.state.random = x
        return (x >> 32) * 100 >> 32


_SETTABLE = {
    "probability": (0, 100),
    "interval": (1, 1 << 32),
    "times": (-1, 1 << 32),
    "space": (0, 1 << 62),
    "verbose": (0, 1),
    "ignore_gfp_wait": (0, 1),
    "min_order": (0, 10),
}
