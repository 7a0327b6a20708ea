"""Allocation traces: what some code asked kmalloc and its caches for, one operation a line.

    # comment
    c NAME SIZE     make a cache of objects of SIZE bytes
    a ID SIZE       ID = kmalloc(SIZE)
    o ID NAME       ID = kmem_cache_alloc(NAME)
    f ID            free what ID is

An ID is any word; it may be used again once it was freed. What is not freed at the end
stays allocated. ``GENERATED`` has four traces that differ in what they do to an allocator;
the same seed makes the same trace.

| name | what it is like | what it is hard on |
|---|---|---|
| churn | small objects of like sizes, made and freed at random around a steady number | speed |
| mixed | all sizes from 8 bytes to 8 KiB, mostly long-lived, then two in three are freed | holes |
| fifo | a queue of packets and their headers, freed in the order in which they came | reuse |
| boot | sixty caches of their own, most objects in a few of them; little is freed | waste |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


class TraceError(ValueError):
    """A line of a trace that is none; the text names line and reason."""


@dataclass(frozen=True)
class Op:
    """One operation. ``kind``: c, a, o or f; ``size`` in bytes of c and a."""

    kind: str
    name: str  # the ID; of c, the cache
    size: int = 0
    cache: str = ""  # of o

    def __str__(self) -> str:
        if self.kind == "f":
            return f"f {self.name}"
        return f"{self.kind} {self.name} {self.cache if self.kind == 'o' else self.size}"


def parse(lines: Iterable[str]) -> list[Op]:
    """The operations of a trace. Raises TraceError for the first line that makes no sense:
    a free of what is not allocated, an ID in use, an unknown cache."""
    ops: list[Op] = []
    live: set[str] = set()
    caches: set[str] = set()
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue

        def bad(why: str, at: int = number, text: str = line.strip()) -> TraceError:
            return TraceError(f"line {at}: {text!r}: {why}")

        kind, *rest = words
        if kind not in ("c", "a", "o", "f") or len(rest) != (1 if kind == "f" else 2):
            raise bad("it is none of: c NAME SIZE, a ID SIZE, o ID NAME, f ID")
        name = rest[0]
        if kind == "f":
            if name not in live:
                raise bad(f"{name} is not allocated")
            live.remove(name)
            ops.append(Op("f", name))
            continue
        size = 0
        if kind != "o":
            if not rest[1].isdecimal() or not 1 <= int(rest[1]) <= 4 << 20:
                raise bad("the size is no number of bytes from 1 to 4 MiB")
            size = int(rest[1])
        elif rest[1] not in caches:
            raise bad(f"no cache {rest[1]} was made before")
        if kind == "c":
            if name in caches:
                raise bad(f"cache {name} exists already")
            if len(name) > 31 or not name.isascii():
                raise bad("a cache's name is of at most 31 ASCII characters")
            caches.add(name)
        else:
            if name in live:
                raise bad(f"{name} is allocated already")
            live.add(name)
        ops.append(Op(kind, name, size, rest[1] if kind == "o" else ""))
    return ops


def dump(ops: Iterable[Op], comment: str = "") -> Iterator[str]:
    """The lines of a trace, without newlines."""
    if comment:
        yield f"# {comment}"
    yield from (str(op) for op in ops)


def churn(seed: int = 1, ops: int = 6000, live: int = 600) -> list[Op]:
    """Small objects (16 to 128 bytes), random frees, around ``live`` of them at any time."""
    rng = random.Random(seed)
    made: list[Op] = []
    names: list[str] = []
    for i in range(ops):
        if names and rng.random() * 2 * live < len(names):
            at = rng.randrange(len(names))
            names[at], names[-1] = names[-1], names[at]
            made.append(Op("f", names.pop()))
        else:
            made.append(Op("a", f"x{i}", rng.randint(16, 128)))
            names.append(f"x{i}")
    return made


def mixed(seed: int = 2, objects: int = 2500) -> list[Op]:
    """Sizes from 8 bytes to 8 KiB, as many of each magnitude; two in three are freed at the
    end, in random order, then half of those are asked for once more in other sizes."""
    rng = random.Random(seed)

    def size() -> int:
        return int(2 ** rng.uniform(3, 13))

    made = [Op("a", f"m{i}", size()) for i in range(objects)]
    gone = rng.sample(range(objects), objects * 2 // 3)
    made += [Op("f", f"m{i}") for i in gone]
    made += [Op("a", f"n{i}", size()) for i in range(len(gone) // 2)]
    return made


def fifo(seed: int = 3, packets: int = 2000, depth: int = 300) -> list[Op]:
    """Packets (a header of 232 bytes and 64 to 1500 bytes of data) through a queue whose
    length swings between nothing and ``depth``."""
    rng = random.Random(seed)
    made: list[Op] = []
    waiting: list[int] = []
    filling = True
    sent = 0
    while sent < packets or waiting:
        if sent < packets and filling:
            for _ in range(rng.randint(1, 8)):
                made.append(Op("a", f"skb{sent}", 232))
                made.append(Op("a", f"data{sent}", rng.choice((64, 128, 576, 1500))))
                waiting.append(sent)
                sent += 1
        for _ in range(rng.randint(0, 5 if filling else 9)):
            if waiting:
                first = waiting.pop(0)
                made += [Op("f", f"data{first}"), Op("f", f"skb{first}")]
        if len(waiting) >= depth:
            filling = False
        elif not waiting or sent >= packets:
            filling = sent < packets
    return made


# Names and object sizes (bytes) as a kernel's boot leaves them in /proc/slabinfo.
_BOOT_CACHES = (
    ("dentry", 192), ("inode_cache", 600), ("kernfs_node_cache", 128), ("radix_tree_node", 576),
    ("ext4_inode_cache", 1096), ("proc_inode_cache", 672), ("shmem_inode_cache", 712),
    ("sock_inode_cache", 832), ("task_struct", 3776), ("mm_struct2", 1088), ("files_cache", 704),
    ("signal_cache", 1152), ("sighand_cache", 2112), ("cred", 168), ("pid", 128), ("filp", 232),
    ("names_cache", 4096), ("vm_area", 152), ("anon_vma", 104), ("anon_vma_chain", 64),
    ("maple_node", 256), ("buffer_head", 104), ("bio-0", 192), ("blkdev_ioc", 88),
    ("request_queue", 1064), ("bdev_cache", 1600), ("biovec-16", 256), ("biovec-64", 1024),
    ("biovec-128", 2048), ("biovec-max", 4096), ("jbd2_journal_head", 120), ("jbd2_inode", 64),
    ("mbcache", 56), ("dnotify_mark", 80), ("inotify_inode_mark", 80), ("fsnotify_conn", 48),
    ("eventpoll_epi", 128), ("eventpoll_pwq", 64), ("skbuff_head", 232), ("skbuff_fclone", 472),
    ("tcp", 2240), ("udp", 1152), ("unix", 1088), ("tw_sock_TCP", 248), ("request_sock_TCP", 304),
    ("ip_fib_trie", 48), ("ip_fib_alias", 56), ("inet_peer_cache", 176), ("rtable", 168),
    ("ftrace_event_field", 56), ("trace_event_file", 96), ("taskstats", 424),
    ("posix_timers", 264), ("key_jar", 280), ("user_namespace", 640), ("nsproxy", 72),
    ("uid_cache", 144), ("task_group", 448), ("pool_workqueue", 512), ("shared_policy", 48),
)  # fmt: skip


def boot(seed: int = 4, objects: int = 5000) -> list[Op]:
    """Sixty caches; the first few get most of the objects; kmalloc in between."""
    rng = random.Random(seed)
    made = [Op("c", name, size) for name, size in _BOOT_CACHES]
    weights = [1 / (rank + 1) for rank in range(len(_BOOT_CACHES))]
    live: list[str] = []
    for i in range(objects):
        name = f"b{i}"
        if rng.random() < 0.25:
            made.append(Op("a", name, rng.choice((8, 16, 24, 32, 40, 64, 96, 200, 512, 1024))))
        else:
            cache = rng.choices(_BOOT_CACHES, weights)[0][0]
            made.append(Op("o", name, 0, cache))
        live.append(name)
        if rng.random() < 0.15:
            made.append(Op("f", live.pop(rng.randrange(len(live)))))
    return made


GENERATED: dict[str, Callable[[], list[Op]]] = {
    "churn": churn,
    "mixed": mixed,
    "fifo": fifo,
    "boot": boot,
}
