"""Kernel modules in C: the shipped ones on every allocator and in every paging mode, and what
modules do with vmalloc, debugging, HighMem, caches and lists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pytest
from guest_kit import Kernel, guest, load

import mm
from emu.spec.paging import MODES, SV39, satp_root
from emu.spec.walk import Access, Refusal, Rule, Translation, walk
from emu.stop import Stop, StopReason
from guest import build
from guest.image.elf import Elf
from guest.image.shipped import shipped
from guest.kernel.abi import Call
from guest.kernel.module import Module
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.errors import CheckError
from mm.gfp import GFP_HIGHMEM, GFP_KERNEL, ZoneType

Machines = Callable[..., Kernel]
PAGE = 4096
MIB = 1 << 20
HEX = "[0-9a-f]+"

# What each shipped module prints; None where another line is expected for an allocator.
LINES: dict[str, list[str]] = {
    "buddy": [
        rf"buddy: block of order 5 at pfn {HEX}, its buddy is {HEX}, the next one given is {HEX}",
        rf"buddy: free blocks of order 5: \d+ before, \d+ after freeing both; {HEX} was whole",
    ],
    "fast_path": [r"fast_path: \d+ pairs a second in the guest, \d+ by trap: [1-9]\d+ times"],
    "gfp_flags": [
        "gfp_flags: __GFP_ZERO gives zeros",
        r"gfp_flags: kmalloc\(0\) = 0{14}10, kmalloc\(8 MiB\) = 0{16}",
        "gfp 0xcc5: GFP_DMA and GFP_DMA32 exclude each other",
    ],
    "hello_module": [
        rf"hello_module: in S-mode, init at ffffffff{HEX}",
        "hello_module: goodbye",
    ],
    "kmalloc_sizes": [
        rf"kmalloc_sizes: {asked:5} bytes asked, {given:5} given at ff{HEX}"
        for asked, given in (
            *((1, 8), (8, 8), (9, 16), (33, 64), (65, 96), (97, 128), (129, 192)),
            *((193, 256), (300, 512), (1025, 2048), (5000, 8192), (9000, 16384)),
        )
    ],
    "highmem": [r"highmem: pfn 8\w{4} is at ff\w+, in the direct map"],
    "lists": ["lists: ten nodes, last in first out: ok", "lists: empty again: yes"],
    "overflow": [],
    "page_struct": [
        rf"page_struct: order 2 at pfn {HEX}, struct page at ff{HEX}",
        rf"page_struct: kmalloc\(64\) = ff{HEX} from cache kmalloc-64",
        "page_struct: as Python wrote it",
    ],
    "slab_cache": [
        r"slab_cache: (4[0-9]|[5-9][0-9]) objects constructed for 40 used, "
        r"(96|104) bytes apart"
    ],
    "slub_freelist": [
        "slub_freelist: kmalloc-192: 21 objects of 192 bytes a slab, 20 free on the CPU's list",
        "slub_freelist: the next pointer lies 96 bytes into a free object",
    ],
    "tlb": [
        rf"tlb: pfn {HEX} at ff{HEX} reads 100",
        rf"tlb: pfn {HEX} at ff{HEX} reads 101(, the same address as before)?",
    ],
    "use_after_free": [],
    "vmalloc_area": [
        rf"vmalloc_area: vmap at ff{HEX}: frames {HEX}, {HEX}, {HEX} ... backwards",
        rf"vmalloc_area: vmalloc at ff{HEX}, one guard page behind the other",
    ],
    "vmas": [
        r"vmas: an mm_struct with ASID \d+",
        "vmas: 00010000-00011000 r-x insmod",
        "vmas: 00011000-00012000 r-- insmod",
        "vmas: 00012000-00013000 rw- insmod",
        rf"vmas: {HEX}-{HEX} rw- \[stack\]",
    ],
    "zones": [
        r"zones: DMA32: pfn 80000, 3\d\d\d pages managed, 3\d\d\d free, min 118 low 147 high 176"
    ],
}
OTHERS: dict[str, dict[str, list[str]]] = {
    "slab": {},
    "slob": {
        "kmalloc_sizes": [
            rf"kmalloc_sizes: {asked:5} bytes asked, {given:5} given at ff{HEX}"
            for asked, given in (
                *((1, 2), (8, 8), (9, 10), (33, 34), (65, 66), (97, 98), (129, 130)),
                *((193, 194), (300, 300), (1025, 1026), (5000, 8192), (9000, 16384)),
            )
        ],
        "page_struct": [rf"page_struct: order 2 at pfn {HEX}, struct page at ff{HEX}"],
    },
}
for other in OTHERS.values():
    other["fast_path"] = ["fast_path: none here: another allocator than SLUB, or debugging"]
    other["slub_freelist"] = [
        r"slub_freelist: not SLUB's CPU slab \(another allocator, or debugging\)"
    ]


def page_walk_lines(levels: int) -> list[str]:
    walked = [rf"page_walk: level {level}, PTE {HEX}: {HEX}" for level in range(levels - 1, -1, -1)]
    return [*walked, rf"page_walk: VA ff(?P<va>{HEX}) is PA (?P<pa>{HEX}), __pa says (?P=pa)"]


NAMES = sorted(n for n, p in shipped().items() if p.suffix == ".ko" and n != "fault_module")
MACHINES = [
    *((kind, "sv39") for kind in ("slub", "slab", "slob")),
    *(("slub", mode) for mode in ("sv48", "sv57")),
]


def at_rest(k: Kernel) -> dict[str, object]:
    """What there is when nothing waits to be given back: frames, objects, areas, spaces."""
    k.mm.vm_unmap_aliases()
    for cache in k.mm.slab.caches():
        cache.shrink()
    drained = k.mm.buddy.drain_all_pages()
    report = mm.check(k.mm)
    assert k.mm.buddy.nr_pcp_pages() == 0 <= drained
    return {
        # A page table stays when what it mapped is gone, so it counts as free.
        "frames": k.mm.buddy.nr_free_pages() + k.mm.buddy.nr_pcp_pages() + report.tables,
        "objects": report.objects,
        "caches": [c.name for c in k.mm.slab.caches()],
        "areas": [(a.addr, a.size) for a in k.mm.vmalloc_areas.all_areas()],
        "mms": (report.mms, report.vmas),
        "live": {c.name: c.active_objects() for c in k.mm.slab.caches()},
    }


def insert(k: Kernel, elf: Elf) -> Module:
    module, stop = k.system.load_module(elf)
    assert (stop.reason, stop.value) == (StopReason.EXIT, 0), (elf.path, stop)
    mm.check(k.mm)
    return module


def remove(k: Kernel, module: Module) -> None:
    stop = k.system.unload_module(module)
    assert (stop.reason, stop.value) == (StopReason.EXIT, 0)
    mm.check(k.mm)


def test_every_shipped_module_is_known_here() -> None:
    assert {*LINES, "page_walk"} == set(NAMES)
    assert len(NAMES) >= 12


@pytest.mark.parametrize(("slab", "mode"), MACHINES)
def test_shipped_modules(machines: Machines, slab: str, mode: str) -> None:
    k = machines(MODES[mode], config={"slab": slab})
    k.load(guest("insmod"))
    for name in NAMES:
        before = at_rest(k)
        k.log.clear()
        module = insert(k, guest(name))
        remove(k, module)
        expected = OTHERS.get(slab, {}).get(name) or LINES.get(name)
        if name == "page_walk":
            expected = page_walk_lines(MODES[mode].levels)
        assert expected is not None
        assert len(k.log) == len(expected), (name, k.log)
        for line, pattern in zip(k.log, expected, strict=True):
            assert re.fullmatch(pattern, line), (name, line)
        after = at_rest(k)
        if name == "overflow":  # without debugging nobody sees it, but nothing is lost
            assert not k.mm.slab.tainted
        assert after == before, name
    assert k.system.modules == []


def test_several_at_once_unloaded_in_another_order(machines: Machines) -> None:
    k = machines()
    k.load(guest("insmod"))
    before = at_rest(k)
    names = ["lists", "hello_module", "zones", "vmas", "page_struct", "lists", "buddy"]
    modules = [insert(k, guest(name)) for name in names]
    spans = sorted((m.base, m.base + m.size) for m in modules)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert [m.name for m in k.system.modules] == names
    # Two of `lists` are alive: 20 nodes of 24 bytes.
    for i in (3, 0, 6, 2, 5, 1, 4):
        remove(k, modules[i])
    assert k.log.count("lists: empty again: yes") == 2
    assert at_rest(k) == before
    # And their addresses are used again.
    again = insert(k, guest("hello_module"))
    assert again.base == min(m.base for m in modules)
    remove(k, again)
    assert at_rest(k) == before


def _see(k: Kernel, va: int, access: Access) -> Translation | Refusal:
    return walk(k.ram, k.mode, satp_root(k.mm.satp()), va, access)


@pytest.mark.parametrize("mode", MODES)
def test_module_text_is_never_writable(machines: Machines, mode: str) -> None:
    k = machines(MODES[mode])
    module = insert(k, guest("lists"))
    assert MODULES_VADDR <= module.base < MODULES_END
    area = k.mm.find_vm_area(module.base)
    assert area is not None
    kinds: set[tuple[bool, bool]] = set()
    frames = k.mm.vmalloc_areas.pages_of(area)
    for segment in module.elf.segments:
        for page in range(segment.va // PAGE, -(-segment.end // PAGE)):
            va = module.base + page * PAGE
            alias = k.mm.va(frames[page] * PAGE)
            assert isinstance(_see(k, va, Access.READ), Translation)
            written, run = (
                isinstance(_see(k, va, access), Translation)
                for access in (Access.WRITE, Access.EXECUTE)
            )
            assert (written, run) == (segment.writable, segment.executable)
            kinds.add((written, run))
            assert not isinstance(_see(k, alias, Access.EXECUTE), Translation)
            through = _see(k, alias, Access.WRITE)
            if segment.writable:
                assert isinstance(through, Translation)
            else:
                assert isinstance(through, Refusal) and through.rule is Rule.NOT_WRITABLE
    assert (False, True) in kinds and (True, False) in kinds
    remove(k, module)
    for frame in frames:  # the frames of a module that is gone are ordinary memory again
        assert isinstance(_see(k, k.mm.va(frame * PAGE), Access.WRITE), Translation)


# one module for the rest, whose functions Python calls

SOURCE = """
#include <linux/list.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

int load32(const int *at) { return *(const volatile int *)at; }
int store32(int *at, int value) { *(volatile int *)at = value; return 0; }
int store8(char *at, int value) { *(volatile char *)at = (char)value; return 0; }

/* Stores, or loads, upwards until something stops it. */
int run_up(volatile unsigned char *at, unsigned long step, int store)
{
    for (;; at += step)
        if (store)
            *at = 0x77;
        else
            (void)*at;
}

int fill32(int *at, unsigned long words, int value)
{
    for (unsigned long i = 0; i < words; i++)
        at[i] = value + (int)i;
    return 0;
}

/* The first word that is not value + i, or -1. */
int differs32(const int *at, unsigned long words, int value)
{
    for (unsigned long i = 0; i < words; i++)
        if (at[i] != value + (int)i)
            return (int)i;
    return -1;
}

int vmalloc_and_over(unsigned long size, int store, int step)
{
    volatile char *area = vmalloc(size);
    printk("area %lx\\n", (unsigned long)area);
    return run_up((volatile unsigned char *)area, step, store);
}

/* kmem_cache_create, with a constructor that counts for each object how often it ran. */

#define OBJECTS 300
static void *seen[OBJECTS];
static int runs, twice;
struct kmem_cache *cache;
void *object[100];

static void construct(void *at)
{
    for (int i = 0; i < runs; i++)
        twice += seen[i] == at;
    if (runs < OBJECTS)
        seen[runs] = at;
    runs++;
    *(unsigned long *)at = 0xc0ffee;
    ((unsigned long *)at)[1] = 0;
}

int create(unsigned size, unsigned align, unsigned long flags, int ctor)
{
    cache = kmem_cache_create("mine", size, align, flags, ctor ? construct : NULL);
    return cache != NULL;
}

int create_named(const char *name, unsigned size, unsigned align, unsigned long flags)
{
    return kmem_cache_create(name, size, align, flags, NULL) != NULL;
}

int bad_caches(void)
{
    static const char long_name[] = "a-name-of-thirty-two-characters!";
    int made = 0;
    made += create_named("", 64, 0, 0);
    made += create_named(long_name, 64, 0, 0);
    made += create_named((const char *)8, 64, 0, 0);
    made += create_named("zero", 0, 0, 0);
    made += create_named("huge", 5 << 20, 0, 0);
    made += create_named("align", 64, 24, 0);
    made += create_named("align-page", 64, 8192, 0);
    made += create_named("flags", 64, 0, 1);
    made += create_named("kmalloc-64", 64, 0, 0);
    return made;
}

int take(int count)
{
    int wrong = 0;
    for (int i = 0; i < count; i++) {
        object[i] = kmem_cache_alloc(cache, GFP_KERNEL);
        wrong |= !object[i] || *(unsigned long *)object[i] != 0xc0ffee;
    }
    return wrong;
}

int give(int count)
{
    for (int i = 0; i < count; i++)
        kmem_cache_free(cache, object[i]);
    return 0;
}

int mark(int count)
{
    for (int i = 0; i < count; i++)
        ((unsigned long *)object[i])[1] = 1000 + i;
    return 0;
}

int marked(int count)
{
    int found = 0;
    for (int i = 0; i < count; i++)
        found += ((unsigned long *)object[i])[1] >= 1000;
    return found;
}

int constructed(void) { return twice ? -twice : runs; }
int destroy(void) { kmem_cache_destroy(cache); return 0; }

/* list.h */

struct item { int n; struct list_head link; };

static int is(struct list_head *head, const int *numbers, int count)
{
    struct item *item;
    struct list_head *position;
    int i = 0, j = 0;
    list_for_each_entry(item, head, link)
        if (i >= count || item->n != numbers[i++])
            return 0;
    list_for_each(position, head)
        if (list_entry(position, struct item, link)->n != numbers[j++])
            return 0;
    for (position = head->prev; position != head; position = position->prev)
        if (list_entry(position, struct item, link)->n != numbers[--j])
            return 0;
    return i == count && !j;
}

#define IS(...) \
    do { \
        static const int numbers[] = {__VA_ARGS__}; \
        if (!is(&head, numbers, sizeof numbers / sizeof *numbers)) \
            return __LINE__; \
    } while (0)

int lists(void)
{
    LIST_HEAD(head);
    struct item item[5], *position, *following;
    for (int i = 0; i < 5; i++) {
        item[i].n = i;
        INIT_LIST_HEAD(&item[i].link);
        if (!list_empty(&item[i].link))
            return __LINE__;
    }
    if (!list_empty(&head))
        return __LINE__;
    list_add(&item[0].link, &head);
    IS(0);
    list_add(&item[1].link, &head);
    IS(1, 0);
    list_add_tail(&item[2].link, &head);
    IS(1, 0, 2);
    list_add(&item[3].link, &item[0].link);
    IS(1, 0, 3, 2);
    list_add_tail(&item[4].link, &item[0].link);
    IS(1, 4, 0, 3, 2);
    if (list_first_entry(&head, struct item, link)->n != 1 ||
        list_last_entry(&head, struct item, link)->n != 2 ||
        list_next_entry(&item[4], link) != &item[0])
        return __LINE__;
    list_move(&item[3].link, &head);
    IS(3, 1, 4, 0, 2);
    list_del(&item[4].link);
    IS(3, 1, 0, 2);
    if (item[4].link.next != (struct list_head *)0x100 ||
        item[4].link.prev != (struct list_head *)0x122)
        return __LINE__;
    list_for_each_entry_safe(position, following, &head, link)
        if (position->n != 1)
            list_del(&position->link);
    IS(1);
    list_del(&item[1].link);
    return list_empty(&head) ? 0 : __LINE__;
}

/* krealloc, kcalloc */

int reallocs(void)
{
    unsigned char *p = krealloc(NULL, 50, GFP_KERNEL), *q;
    if (!p || ksize(p) < 50)
        return __LINE__;
    for (int i = 0; i < 50; i++)
        p[i] = (unsigned char)(i + 1);
    q = krealloc(p, 20000, GFP_KERNEL);
    if (!q || q == p || ksize(q) < 20000)
        return __LINE__;
    for (int i = 0; i < 50; i++)
        if (q[i] != i + 1)
            return __LINE__;
    memset(q, 0x11, 20000);
    if (krealloc(q, 100, GFP_KERNEL) != q) /* it shrinks in place */
        return __LINE__;
    if (krealloc(q, 8ul << 20, GFP_KERNEL | __GFP_NOWARN) != NULL || q[19999] != 0x11)
        return __LINE__;
    if (krealloc(q, 0, GFP_KERNEL) != (void *)16)
        return __LINE__;
    kfree((void *)16);
    kfree(NULL);
    if (ksize(NULL) || ksize((void *)16))
        return __LINE__;
    if (kcalloc(1ul << 33, 1ul << 33, GFP_KERNEL) || kcalloc((1ul << 63) + 1, 2, GFP_KERNEL) ||
        kmalloc_array(-1ul, -1ul, GFP_KERNEL))
        return __LINE__;
    p = kcalloc(25, 40, GFP_KERNEL);
    if (!p)
        return __LINE__;
    for (int i = 0; i < 1000; i++)
        if (p[i])
            return __LINE__;
    kfree(p);
    return kcalloc(0, 40, GFP_KERNEL) == (void *)16 ? 0 : __LINE__;
}

unsigned long high_pfn;

int high_page(int trap_flags)
{
    struct page *page = alloc_pages(GFP_KERNEL | __GFP_HIGHMEM, 0);
    if (!page)
        return -ENOMEM;
    high_pfn = page_to_pfn(page);
    printk("pfn %lx\\n", high_pfn);
    return 0;
}

int high_free(void) { __free_pages(pfn_to_page(high_pfn), 0); return 0; }

int any_call(long function, long arg0, long arg1)
{
    return (int)kernel_call(function, arg0, arg1).value;
}

int destroy_null(void) { kmem_cache_destroy(NULL); return 0; }

static int __init nothing(void) { return 0; }
module_init(nothing);
"""


class Calls:
    """The functions of SOURCE in a machine."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.elf = load(build.MODULE, SOURCE)
        self.module = insert(k, self.elf)

    def stop(self, name: str, *arguments: int) -> Stop:
        offset = self.elf.symbol(name)
        assert offset is not None, name
        stop = self.k.system.call(self.module.base + offset, *arguments)
        mm.check(self.k.mm)
        return stop

    def __call__(self, name: str, *arguments: int) -> int:
        stop = self.stop(name, *arguments)
        assert stop.reason is StopReason.EXIT, stop
        assert isinstance(stop.value, int)
        return stop.value


@pytest.fixture
def calls(kernel: Kernel) -> Calls:
    return Calls(kernel)


# vmalloc


def _faults_at(k: Kernel, stop: Stop, va: int, store: bool) -> None:
    assert stop.reason is StopReason.FAULT and stop.trap is not None, stop
    assert (stop.trap.cause, stop.trap.tval) == (15 if store else 13, va)
    found = k.hart.walk(va, Access.WRITE if store else Access.READ)
    assert isinstance(found, Refusal) and found.rule is Rule.NOT_VALID


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("store", [0, 1])
def test_the_guard_page_stops_an_overrun(machines: Machines, mode: str, store: int) -> None:
    k = machines(MODES[mode])
    g = Calls(k)
    before = at_rest(k)
    stop = g.stop("vmalloc_and_over", 3 * PAGE, store, 1)
    area = int(k.log[-1].removeprefix("area "), 16)
    _faults_at(k, stop, area + 3 * PAGE, bool(store))
    found = k.mm.find_vm_area(area)
    assert found is not None and (found.addr, found.size) == (area, 4 * PAGE)
    notes = k.system.fault_notes(stop.trap) if stop.trap else []
    assert notes[0] == (
        f"Unable to handle kernel paging request at virtual address {area + 3 * PAGE:016x}"
    )
    if store:
        for frame in k.mm.vmalloc_areas.pages_of(found):
            assert k.ram.read(frame * PAGE, PAGE) == b"\x77" * PAGE
    k.mm.vfree(area)
    mm.check(k.mm)
    # Freed, though not yet flushed, the first page is gone too.
    _faults_at(k, g.stop("run_up", area, 1, store), area, bool(store))
    assert at_rest(k) == before


def test_a_neighbour_is_out_of_reach(calls: Calls) -> None:
    k = calls.k
    first, second = k.mm.vmalloc(PAGE), k.mm.vmalloc(PAGE)
    assert first and second and second - first == 2 * PAGE
    calls("fill32", second, PAGE // 4, 7)
    _faults_at(k, calls.stop("run_up", first, 4, 1), first + PAGE, True)
    assert calls("differs32", second, PAGE // 4, 7) == -1
    k.mm.vfree(first)
    k.mm.vfree(second)


def test_scattered_frames_appear_in_order(calls: Calls) -> None:
    k = calls.k
    before = at_rest(k)
    frames = [k.mm.alloc_page() for _ in range(24)]
    assert None not in frames
    used, kept = frames[1::2][::-1], frames[0::2]
    for n, pfn in enumerate(used):
        assert pfn is not None
        words = range(n * 1024 + 5, n * 1024 + 1029)
        k.ram.write(pfn * PAGE, b"".join(w.to_bytes(4, "little") for w in words))
    assert all(a - b != 1 and b - a != 1 for a, b in itertools.pairwise(used))
    area = k.mm.vmap(used)
    assert area is not None
    mm.check(k.mm)
    assert calls("differs32", area, len(used) * 1024, 5) == -1
    calls("fill32", area, len(used) * 1024, 99)
    for n, pfn in enumerate(used):
        assert k.ram.read(pfn * PAGE, 4) == (99 + 1024 * n).to_bytes(4, "little")
    k.mm.vunmap(area)
    _faults_at(k, calls.stop("load32", area), area, False)
    for pfn in [*used, *kept]:
        k.mm.free_page(pfn)
    assert at_rest(k) == before


def test_a_huge_mapping_under_guest_stores(machines: Machines) -> None:
    k = machines(ram_size=32 * MIB)
    g = Calls(k)
    before = at_rest(k)
    area = k.mm.vmalloc_huge(4 * MIB)
    assert area is not None and area % (2 * MIB) == 0
    mm.check(k.mm)
    for n in range(2):
        found = _see(k, area + n * 2 * MIB + 12345, Access.WRITE)
        assert isinstance(found, Translation) and found.level == 1
    g("fill32", area, MIB, 3)
    assert g("differs32", area, MIB, 3) == -1
    found = k.mm.find_vm_area(area)
    assert found is not None
    pfns = k.mm.vmalloc_areas.pages_of(found)
    for n in (0, 511, 512, 1023):
        assert k.ram.read(pfns[n] * PAGE, 4) == (3 + 1024 * n).to_bytes(4, "little")
    _faults_at(k, g.stop("run_up", area + 4 * MIB - PAGE, 8, 1), area + 4 * MIB, True)
    k.mm.vfree(area)
    _faults_at(k, g.stop("load32", area), area, False)
    assert at_rest(k) == before


# slub_debug


@pytest.fixture
def debug(machines: Machines) -> Iterator[Kernel]:
    yield machines(config={"slub_debug": "FZPU"})


def _report(log: list[str], first: str) -> list[str]:
    """The one report whose `BUG` line this is, with its frame."""
    starts = [i for i, line in enumerate(log) if re.fullmatch(first, line)]
    assert len(starts) == 1, log
    i = starts[0]
    assert log[i - 1] == "=" * 77 and log[i + 1] == "-" * 77
    return log[i:]


def test_overflow_is_reported(debug: Kernel) -> None:
    before = at_rest(debug)
    remove(debug, insert(debug, guest("overflow")))
    lines = _report(debug.log, r"BUG kmalloc-64 \(Not tainted\): Right Redzone overwritten")
    span = re.fullmatch(
        rf"(0x{HEX})-\1 @offset=(\d+)\. First byte 0x58 instead of 0xcc",
        next(line for line in lines if "First byte" in line),
    )
    assert span is not None
    assert any(
        re.fullmatch(rf"FIX kmalloc-64: Restoring Right Redzone {span[1]}-{span[1]}=0xcc", line)
        for line in lines
    )
    obj = next(m for line in lines if (m := re.match(rf"Object (0x{HEX}) @offset=(\d+)", line)))
    assert int(span[1], 16) - int(obj[1], 16) == 64  # one byte behind 64
    assert int(span[2]) - int(obj[2]) == 64
    assert any(re.match(r"Allocated in .* age=\d+ cpu=0 pid=\d+", line) for line in lines)
    assert any(re.match(r"Slab 0xff.* objects=\d+ used=\d+ fp=0x", line) for line in lines)
    mm.check(debug.mm)
    # The object is not given out again: it is all that is missing.
    after = at_rest(debug)
    live, old = after["live"], before["live"]
    assert isinstance(live, dict) and isinstance(old, dict)
    assert {n: live[n] - old[n] for n in live if live[n] != old[n]} in ({}, {"kmalloc-64": 1})


def test_use_after_free_is_reported(debug: Kernel) -> None:
    remove(debug, insert(debug, guest("use_after_free")))
    lines = _report(debug.log, r"BUG kmalloc-128 \(Not tainted\): Poison overwritten")
    assert any(
        re.fullmatch(rf"(0x{HEX})-\1 @offset=\d+\. First byte 0x58 instead of 0x6b", line)
        for line in lines
    )
    assert any(re.match(r"FIX kmalloc-128: Restoring Poison", line) for line in lines)
    assert any(re.match(r"Freed in .* age=\d+ cpu=0 pid=\d+", line) for line in lines)
    mm.check(debug.mm)
    assert debug.mm.slab.tainted
    debug.log.clear()
    remove(debug, insert(debug, guest("overflow")))
    _report(debug.log, r"BUG kmalloc-64 \(Tainted: G    B +\): Right Redzone overwritten")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("overflow", "use_after_free")])
def test_good_modules_make_no_report(debug: Kernel, name: str) -> None:
    debug.load(guest("insmod"))
    before = at_rest(debug)
    remove(debug, insert(debug, guest(name)))
    assert not [line for line in debug.log if "BUG" in line]
    assert not debug.mm.slab.tainted
    assert at_rest(debug) == before


def test_a_left_overrun_is_reported(debug: Kernel) -> None:
    calls = Calls(debug)
    va = debug.mm.kmalloc(96)
    assert va is not None
    with pytest.raises(CheckError, match=r"kmalloc-96: Left Redzone .*, 0x41 instead of 0xcc"):
        calls("store8", va - 1, 0x41)  # done, and seen by the check that follows each call
    debug.mm.kfree(va)
    debug.log += debug.mm.messages
    lines = _report(debug.log, r"BUG kmalloc-96 \(Not tainted\): Left Redzone overwritten")
    assert any("First byte 0x41 instead of 0xcc" in line for line in lines)
    mm.check(debug.mm)


# HighMem


def test_a_module_uses_high_memory(machines: Machines) -> None:
    base = 0x8000_0000
    k = machines(
        SV39,
        ram_size=32 * MIB,
        config={"zones": ((ZoneType.NORMAL, base + 16 * MIB), (ZoneType.HIGHMEM, None))},
    )
    g = Calls(k)
    before = at_rest(k)
    assert g("high_page", 0) == 0
    theirs = int(k.log[-1].removeprefix("pfn "), 16)
    ours = k.mm.alloc_pages(GFP_KERNEL | GFP_HIGHMEM, 0)
    assert ours is not None and ours != theirs
    seen: set[int] = set()
    for n, pfn in enumerate((theirs, ours)):
        assert (base + 16 * MIB) // PAGE <= pfn < (base + 32 * MIB) // PAGE
        # Where the direct map would have it there is nothing.
        linear = k.mm.layout.page_offset + pfn * PAGE - base
        _faults_at(k, g.stop("load32", linear), linear, False)
        assert k.mm.page_address(pfn) is None
        va = k.mm.kmap(pfn)
        seen.add(va)
        g("fill32", va, 1024, 50 * n)
        assert k.ram.read(pfn * PAGE + 40, 4) == (50 * n + 10).to_bytes(4, "little")
        k.ram.write(pfn * PAGE, (-9).to_bytes(4, "little", signed=True))
        assert g("load32", va) == -9
    assert len(seen) == 2
    for pfn in (theirs, ours):
        k.mm.kunmap(pfn)
    assert k.mm.highmem.flush_all_zero_pkmaps() == 2
    _faults_at(k, g.stop("load32", va), va, False)
    g("high_free")
    k.mm.free_page(ours)
    assert at_rest(k) == before


# kmem_cache_create


@pytest.mark.parametrize("slab", ["slub", "slab"])
def test_a_constructor_runs_once_for_each_object(machines: Machines, slab: str) -> None:
    k = machines(config={"slab": slab})
    g = Calls(k)
    before = at_rest(k)
    assert g("create", 120, 0, 0, 1) == 1
    cache = next(c for c in k.mm.slab.caches() if c.name == "mine")
    assert g("constructed") == 0
    assert g("take", 1) == 0
    assert g("constructed") == cache.objects_per_slab
    g("give", 1)
    assert g("take", 100) == 0
    slabs = cache.nr_slabs
    assert slabs > 2
    assert g("constructed") == slabs * cache.objects_per_slab
    g("mark", 100)
    g("give", 100)
    assert g("take", 100) == 0  # 0xc0ffee is still there
    assert g("constructed") == slabs * cache.objects_per_slab
    # Those that come again are as they were left; a slab may hold others in between.
    assert g("marked", 100) >= 100 - 2 * cache.objects_per_slab
    g("give", 100)
    g("destroy")
    assert k.log == []
    assert at_rest(k) == before


def test_slob_constructs_at_every_allocation(machines: Machines) -> None:
    k = machines(config={"slab": "slob"})
    g = Calls(k)
    before = at_rest(k)
    assert g("create", 120, 0, 0, 1) == 1
    assert g("take", 100) == 0
    assert g("constructed") == 100
    g("give", 100)
    g("destroy")
    assert k.log == []
    assert at_rest(k) == before


def test_objects_that_python_takes_are_constructed_too(calls: Calls) -> None:
    """Python's first allocation makes the slab; C then pops the others off the CPU's list."""
    k = calls.k
    before = at_rest(k)
    assert calls("create", 120, 0, 0, 1) == 1
    cache = next(c for c in k.mm.slab.caches() if c.name == "mine")
    va = cache.alloc()
    assert va is not None
    mm.check(k.mm)
    assert k.ram.read64(k.mm.pa(va)) == 0xC0FFEE
    assert calls("take", 20) == 0
    assert calls("constructed") == cache.objects_per_slab
    calls("give", 20)
    cache.free(va)
    assert cache.shrink() >= 0
    # A slab that came and went between two calls leaves nothing to be done to its frame.
    other = cache.alloc()
    assert other is not None
    cache.free(other)
    cache.shrink()
    frame = k.mm.alloc_page()
    assert frame is not None
    k.ram.fill(frame * PAGE, PAGE)
    calls("constructed")
    assert k.ram.read(frame * PAGE, PAGE) == bytes(PAGE)
    k.mm.free_page(frame)
    calls("destroy")
    assert at_rest(k) == before


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_destroy_is_refused_with_objects_alive(machines: Machines, slab: str) -> None:
    k = machines(config={"slab": slab})
    g = Calls(k)
    before = at_rest(k)
    assert g("create", 120, 0, 0, 1) == 1
    g("take", 3)
    g("destroy")
    text = "\n".join(k.log)
    assert "kmem_cache_destroy mine: Slab cache still has objects" in text
    assert "Objects remaining in mine on __kmem_cache_shutdown()" in text
    cache = next(c for c in k.mm.slab.caches() if c.name == "mine")
    if slab != "slob":
        assert text.count("Object 0xff") == 3
        for va in cache.live_objects():
            assert f"Object {va:#018x} @offset=" in text
    g("give", 3)
    k.log.clear()
    g("destroy")
    assert k.log == []
    assert at_rest(k) == before


def test_bad_caches_are_refused_by_name(calls: Calls) -> None:
    before = at_rest(calls.k)
    assert calls("bad_caches") == 0
    expected = [
        "cache name '': 1 to 31 ASCII characters",
        "cache name 'a-name-of-thirty-two-characters!': 1 to 31 ASCII characters",
        "a name at 0x8, which is not mapped",
        "cache zero: object size 0 is not 1 to 4 MiB",
        "cache huge: object size 5242880 is not 1 to 4 MiB",
        "cache align: alignment 24 is no power of two up to a page",
        "cache align-page: alignment 8192 is no power of two up to a page",
        "cache flags: unknown flags 0x1",
        "cache kmalloc-64 exists already",
    ]
    assert calls.k.log == expected
    assert at_rest(calls.k) == before


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_a_cache_that_is_none_is_refused(machines: Machines, slab: str) -> None:
    k = machines(config={"slab": slab})
    g = Calls(k)
    before = at_rest(k)
    page = k.mm.alloc_page()
    assert page is not None
    bad = [
        *(0, 1, k.mm.va(page * PAGE), k.mm.va(page * PAGE) + 3, 0x4141414141414141),
        *(k.mm.layout.vmemmap_start + 7, g.module.base, k.mm.va(k.ram.end - 8)),
    ]
    assert g("create", 120, 0, 0, 0) == 1
    gone = k.mm.slab.caches()[-1]
    assert gone.name == "mine"
    g("destroy")
    for va in (gone.va, *bad):
        for call in (Call.KMEM_CACHE_ALLOC, Call.KMEM_CACHE_FREE, Call.KMEM_CACHE_DESTROY):
            k.log.clear()
            assert g("any_call", call.value, va, GFP_KERNEL) == 0
            assert k.log == [f"no kmem_cache at {va:#x}"]
    k.log.clear()
    assert g("destroy_null") == 0 and k.log == []  # as Linux: nothing to do
    # The same address may be a cache again.
    assert g("create", 120, 0, 0, 0) == 1
    assert k.mm.slab.caches()[-1].va == gone.va or slab == "slob"
    assert g("any_call", Call.KMEM_CACHE_DESTROY.value, k.mm.slab.caches()[-1].va, 0) == 0
    assert k.log == []
    k.mm.free_page(page)
    assert at_rest(k) == before


# list.h, krealloc, kcalloc


def test_list_macros(calls: Calls) -> None:
    assert calls("lists") == 0


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"slab": "slab"},
        {"slab": "slob"},
        {"slub_debug": "FZPU"},
        {"kmemleak": True},
    ],
    ids=str,
)
def test_krealloc_and_kcalloc(machines: Machines, config: dict[str, object]) -> None:
    k = machines(config=config)
    g = Calls(k)
    before = at_rest(k)
    assert g("reallocs") == 0, "the line of SOURCE that found it"
    assert k.log == []
    assert at_rest(k) == before
