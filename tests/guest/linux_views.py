"""What a Linux guest tells of its own memory: the script that makes it tell, and its text read.

`SCRIPT` is sourced by the guest's shell; what it prints goes to `parse`. Formats: Linux's
Documentation/filesystems/proc.rst, admin-guide/mm/pagemap.rst, mm/vmalloc.c (vmalloc_info_show).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE = 4096
AT = "views"
"""Where the script lies in the initramfs."""

# The areas of vmalloc come last, after a while, and by the shell alone, whose `read` waits without
# a process: none has a kernel stack then that is gone when the machine is stopped.
SCRIPT = r"""
dmesg -n 1
echo 1 > /proc/sys/kernel/kptr_restrict
echo always > /sys/kernel/mm/transparent_hugepage/enabled
insmod /lib/modules/$(uname -r)/brd.ko rd_nr=1
probe &
P=$!
sleep 1
echo "=== iomem"
cat /proc/iomem
echo "=== maps"
cat /proc/$P/maps
echo "=== pagemap"
while read -r range rest; do
    first=$((0x${range%-*} / 4096))
    echo "from $first"
    dd if=/proc/$P/pagemap bs=8 skip=$first count=$((0x${range#*-} / 4096 - first)) 2>/dev/null |
        od -v -An -tx8
done < /proc/$P/maps
echo "=== modules"
cat /proc/modules
echo "=== kallsyms"
grep -E ' (SYMBOLS)$' /proc/kallsyms
grep -F '[brd]' /proc/kallsyms | grep -vF .L
read -t 2 nothing
echo "=== vmallocinfo"
while IFS= read -r line; do echo "$line"; done < /proc/vmallocinfo
echo "=== end"
"""
SYMBOLS = (
    "_start", "_text", "_etext", "__init_begin", "__init_end", "__start_rodata", "__end_rodata",
    "_data", "_edata", "__bss_start", "__bss_stop", "_end", "swapper_pg_dir",
)  # fmt: skip
SCRIPT = SCRIPT.replace("SYMBOLS", "|".join(SYMBOLS))

UNPURGED = "unpurged vm_area"
"""What stands for a caller where an area was freed and its addresses wait for a purge."""
PRESENT = 1 << 63
SWAPPED = 1 << 62
PFN_MASK = (1 << 55) - 1


@dataclass(frozen=True)
class Area:
    """A line of /proc/vmallocinfo: ``[begin, end)`` (VA), with the guard page.

    ``pages``: their number; ``phys``: where an ioremap area begins (PA); None: not told.
    """

    begin: int
    end: int
    caller: str
    pages: int | None
    phys: int | None
    flags: frozenset[str]


@dataclass(frozen=True)
class Resource:
    """A line of /proc/iomem: ``[begin, end)`` (PA). ``depth`` 0 lies in nothing."""

    begin: int
    end: int
    name: str
    depth: int


@dataclass(frozen=True)
class Vma:
    """A line of /proc/PID/maps: ``[begin, end)`` (VA), its rights such as ``r-xp``."""

    begin: int
    end: int
    rights: str
    name: str


@dataclass(frozen=True)
class Views:
    """All of it. ``pagemap``: VPN -> its entry; ``symbols``: name -> VA.

    ``module_symbols``: (VA, type, name) of the module; ``modules``: name -> VA.
    """

    areas: tuple[Area, ...]
    iomem: tuple[Resource, ...]
    vmas: tuple[Vma, ...]
    pagemap: dict[int, int]
    symbols: dict[str, int]
    module_symbols: tuple[tuple[int, str, str], ...]
    modules: dict[str, int]

    def resource(self, name: str) -> Resource:
        """The only one of that name."""
        (found,) = (r for r in self.iomem if r.name == name)
        return found


def parse(text: str) -> Views:
    """The views in what `SCRIPT` printed. Raises ValueError for a line that is none."""
    parts = re.split(r"^=== (\w+)\n", text, flags=re.MULTILINE)
    of = dict(zip(parts[1::2], (part.splitlines() for part in parts[2::2]), strict=True))
    if "end" not in of:
        raise ValueError(f"the views do not end: {text[-200:]!r}")
    symbols = [_match(r"([0-9a-f]{16}) (\w) (\S+)(?:\s+\[(\w+)\])?", x) for x in of["kallsyms"]]
    modules = [_match(r"(\w+) .* 0x([0-9a-f]{16})", line) for line in of["modules"]]
    return Views(
        tuple(_area(line) for line in of["vmallocinfo"]),
        tuple(_resource(line) for line in of["iomem"]),
        tuple(_vma(line) for line in of["maps"]),
        _pagemap(of["pagemap"]),
        {name: int(va, 16) for va, _, name, module in symbols if not module},
        tuple((int(va, 16), kind, name) for va, kind, name, module in symbols if module),
        {name: int(va, 16) for name, va in modules},
    )


def _match(pattern: str, line: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    if found is None:
        raise ValueError(f"not a line like {pattern!r}: {line!r}")
    return found.groups()


def _area(line: str) -> Area:
    begin, end, size, rest = _match(r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +(\d+) *(.*)", line)
    if int(end, 16) - int(begin, 16) != int(size):
        raise ValueError(f"its size is another: {line!r}")
    pages, phys, flags = None, None, []
    if rest == UNPURGED:
        return Area(int(begin, 16), int(end, 16), rest, None, None, frozenset())
    caller, *words = rest.split() or [""]
    for word in words:
        name, _, value = word.partition("=")
        if name == "pages":
            pages = int(value)
        elif name == "phys":
            phys = int(value, 16)
        elif not value:
            flags.append(name)
    return Area(int(begin, 16), int(end, 16), caller, pages, phys, frozenset(flags))


def _resource(line: str) -> Resource:
    indent, begin, last, name = _match(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.+)", line)
    return Resource(int(begin, 16), int(last, 16) + 1, name, len(indent) // 2)


def _vma(line: str) -> Vma:
    begin, end, rights, name = _match(
        r"([0-9a-f]+)-([0-9a-f]+) ([rwxps-]{4}) [0-9a-f]+ [0-9a-f:]+ \d+ *(.*)", line
    )
    return Vma(int(begin, 16), int(end, 16), rights, name)


def _pagemap(lines: list[str]) -> dict[int, int]:
    found: dict[int, int] = {}
    vpn = 0
    for line in lines:
        if line.startswith("from "):
            vpn = int(line.removeprefix("from "))
            continue
        for word in line.split():
            found[vpn] = int(word, 16)
            vpn += 1
    return found
