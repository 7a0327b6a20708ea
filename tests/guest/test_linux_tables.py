"""A running Linux against our reference walk, our dump, and the hart's own translation.

Debian's kernel comes without CONFIG_PTDUMP_DEBUGFS, so what it tells of its memory is put
together from /proc (`linux_views`), and compared in `linux_tables`. The machine is stopped in a
process whose mappings are known (`linux_probe`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import linux_probe
import linux_views
import pytest
from click.testing import Result
from distro import RAM_SIZE, guests_or_skip
from linux_tables import PAGE, Comparison, U, W, X
from linux_views import Views
from progress import stopped_when_stuck

from emu.debug.snapshot import snapshot
from emu.spec import words
from emu.spec.paging import MODES, PagingMode, mode_of_satp, satp_root
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal, Translation, WalkConfig, walk
from emu.stop import Stop, StopReason
from guest.boot.boot import Booted, BootOptions, prepare
from guest.boot.expect import Script, Step
from guest.distro.initramfs import PROMPT, cpio, file, tree
from guest.distro.sessions import boot_steps

pytestmark = pytest.mark.slow  # boots Linux

LIMITED_TO = {"sv39": "no4lvl", "sv48": "no5lvl", "sv57": ""}
_ECALL_FROM_U = 8
_A5 = words.GPR + 15
_SUM, _MXR = 1 << 18, 1 << 19  # of mstatus
V = 1


@dataclass
class Linux:
    """A board that was stopped in the probe, and what its Linux told before."""

    booted: Booted
    mode: PagingMode
    views: Views

    @property
    def root(self) -> int:
        return satp_root(self.booted.board.hart.satp)

    def compare(self) -> list[str]:
        """The differences, a line each."""
        it = Comparison(self.booted.board.ram, self.mode, self.root, self.views)
        return it.check_all(self.booted.placement.dtb_pa, linux_probe.mappings(self.mode))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("sv39", "python"), id="sv39-python"),
        pytest.param(("sv48", "opensbi"), id="sv48-opensbi", marks=pytest.mark.slow),
        pytest.param(("sv48", "python"), id="sv48-python", marks=pytest.mark.slow),
        pytest.param(("sv57", "python"), id="sv57-python", marks=pytest.mark.slow),
    ],
)
def linux(request: pytest.FixtureRequest) -> Iterator[Linux]:
    mode, bios = MODES[request.param[0]], request.param[1]
    guests = guests_or_skip()
    files = tree(guests) | {
        "bin/probe": file(linux_probe.elf(mode), 0o755),
        linux_views.AT: file(linux_views.SCRIPT.encode()),
    }
    told: list[str] = []
    script = Script(
        [
            *boot_steps(),
            Step(PROMPT, f". /{linux_views.AT}\n".encode(), lambda reply: told.append(reply) or ""),
            Step(PROMPT),
        ]
    )
    booted = prepare(
        BootOptions(
            guests.kernel,
            guests.opensbi_dynamic if bios == "opensbi" else bios,
            initrd_data=cpio(files),
            append=f"console=ttyS0 {LIMITED_TO[mode.name]}",
            ram_size=RAM_SIZE,
            deterministic=True,
            output=lambda data: send(data),
        )
    )
    board = booted.board
    with closing(board):

        def send(data: bytes) -> None:
            board.uart.receive(script.feed(data))

        def stop_in_probe(trap: Trap) -> None:
            a5 = board.hart.words[_A5]
            if script.done and trap.cause == _ECALL_FROM_U and a5 == linux_probe.MARK:
                board.hart.end(Stop(StopReason.LIMIT))

        board.hart.trap_listener = stop_in_probe
        with stopped_when_stuck(board.hart):
            stop = board.run()
        board.hart.trap_listener = None
        assert script.done, script.missing()
        assert stop.reason is StopReason.LIMIT, stop
        assert mode_of_satp(board.hart.satp) is mode
        yield Linux(booted, mode, linux_views.parse(told[0]))


def test_the_views_are_whole(linux: Linux) -> None:
    """What is compared is there at all, so that nothing passes for want of it."""
    views = linux.views
    assert set(views.symbols) == set(linux_views.SYMBOLS)
    assert set(views.modules) == {"brd"} and len(views.module_symbols) > 10
    devices = {area.phys for area in views.areas if area.phys is not None}
    assert {0x0C00_0000, 0x1000_0000} <= devices, "no PLIC or UART"  # QEMU's virt_memmap
    assert sum(area.pages or 0 for area in views.areas) > 100
    assert len(views.vmas) > 10 and len(views.pagemap) > 1000
    assert {"System RAM", "Kernel code", "Kernel rodata"} <= {it.name for it in views.iomem}


def test_walk_and_dump_agree_with_linux(linux: Linux) -> None:
    differences = linux.compare()
    assert not differences, "\n".join(differences[:50])


def test_the_hart_translates_as_the_reference_walk_does(linux: Linux) -> None:
    """For U-mode and for S-mode with and without SUM and MXR, mapped or not."""
    hart = linux.booted.board.hart
    if not hart.access.in_place:
        pytest.skip("the engine's own walk cannot be asked on the public interface")
    vas = _addresses(linux)
    before = hart.words[words.PRIV], hart.words[words.MSTATUS]
    compared = {True: 0, False: 0}
    try:
        for user, bits in ((True, 0), (False, 0), (False, _SUM), (False, _SUM | _MXR)):
            hart.words[words.PRIV] = 0 if user else 1
            hart.words[words.MSTATUS] = before[1] & ~(_SUM | _MXR) | bits
            hart.access.store()
            config = WalkConfig(user, bool(bits & _SUM), bool(bits & _MXR))
            for va in vas:
                found = walk(hart.ram, linux.mode, linux.root, va, Access.READ, config)
                pa = found.pa if isinstance(found, Translation) else None
                assert hart.access.physical(va) == pa, f"{va:#x} {config}: {found}"
                compared[pa is not None] += 1
    finally:
        hart.words[words.PRIV], hart.words[words.MSTATUS] = before
        hart.access.store()
    assert min(compared.values()) > 3000, compared


def _addresses(linux: Linux) -> list[int]:
    """In each mapped range and beside it; anywhere in each part; anywhere at all."""
    it = Comparison(linux.booted.board.ram, linux.mode, linux.root, linux.views)
    rng = random.Random(1)
    vas = [leaf.va + offset for leaf in it.leaves for offset in (0, rng.randrange(leaf.size), -1)]
    vas += [leaf.end for leaf in it.leaves]
    for begin, end in it.regions.values():
        vas += [rng.randrange(begin, end) for _ in range(200)]
    for area in linux.views.areas:
        vas += [rng.randrange(area.begin, area.end) for _ in range(20)]
    vas += [rng.getrandbits(64) >> rng.randrange(64) for _ in range(1000)]
    vas += [linux.mode.canonical(rng.getrandbits(64)) for _ in range(1000)]
    return sorted({va % (1 << 64) for va in vas})


def test_the_command_line_shows_it(
    linux: Linux, tmp_path: Path, pagewalk: Callable[..., Result]
) -> None:
    """A snapshot of this machine in `pagewalk tables`, `walk` and `what`."""
    path, names = tmp_path / "linux.snap", tmp_path / "kallsyms"
    sbi = linux.booted.sbi
    snapshot.save(linux.booted.board, path, parts={} if sbi is None else {"sbi": sbi})
    symbols = linux.views.symbols
    names.write_text("".join(f"{va:016x} T {name}\n" for name, va in symbols.items()))
    result = pagewalk("tables", "--load", path)
    assert re.findall(r"^---\[ (.*) \]---$", result.stdout, re.MULTILINE) == [
        "User space", "Fixmap", "PCI I/O", "vmemmap", "vmalloc() area", "Linear mapping",
        "Modules/BPF mapping", "Kernel mapping",
    ]  # fmt: skip
    shown = [line.split() for line in result.stdout.splitlines()[2:] if "[" not in line]
    it = Comparison(linux.booted.board.ram, linux.mode, linux.root, linux.views)
    assert sum(int(size, 16) for _, _, size, _ in shown) == sum(leaf.size for leaf in it.leaves)
    assert {int(va, 16) for va, _, _, _ in shown} <= {leaf.va for leaf in it.leaves}
    code = linux.views.resource("Kernel code").begin
    result = pagewalk(
        "walk", f"{symbols['_text'] + 6:x}", "--load", path, "--symbols", names, "--for", "execute"
    )
    assert "\nin _text+0x6, Kernel mapping\n" in result.stdout
    assert f"\nPA {code + 6:#x}, a 2 MiB page, r-x-gad\n" in result.stdout
    result = pagewalk("what", f"{code:x}", "--load", path)
    assert "(Linear mapping)" in result.stdout and "(Kernel mapping)" in result.stdout


# The comparison can fail: one PTE of the stopped machine is changed.


def _leaf(linux: Linux, va: int) -> tuple[int, int]:
    """Level and PA of the leaf PTE that maps ``va``, or of the PTE at level 0 that does not."""
    config = WalkConfig(sum=True, mxr=True)
    found = walk(linux.booted.board.ram, linux.mode, linux.root, va, Access.READ, config)
    if isinstance(found, Refusal):
        assert found.level == 0, found
    return found.steps[-1].level, found.steps[-1].pte_pa


def _stack(linux: Linux) -> int:
    """The last page of a kernel stack."""
    return next(
        area.end - 2 * PAGE
        for area in linux.views.areas
        if area.caller.startswith("kernel_clone") and area.pages == 4
    )


def _plic(linux: Linux) -> int:
    return next(area.begin for area in linux.views.areas if area.phys == 0x0C00_0000)


def _symbol(name: str) -> Callable[[Linux], int]:
    return lambda linux: linux.views.symbols[name]


def _direct(name: str) -> Callable[[Linux], int]:
    """Where the direct map shows the frame of a symbol."""

    def va(linux: Linux) -> int:
        first = linux.views.resource("Kernel code").begin - 0x8000_0000
        begin, _ = Comparison.regions_of(linux.mode)["direct"]
        return begin + first + linux.views.symbols[name] - linux.views.symbols["_text"]

    return va


def _flip(bits: int) -> Callable[[int], int]:
    return lambda pte: pte ^ bits


def _next_frame(pte: int) -> int:
    return pte + (1 << 10)


def _next_superframe(pte: int) -> int:
    return pte + (1 << 10 + 9)


def _at(va: int) -> Callable[[Linux], int]:
    return lambda linux: va


CHANGES: dict[str, tuple[Callable[[Linux], int], Callable[[int], int]]] = {
    "a page of a kernel stack is gone": (_stack, _flip(V)),
    "a page of a kernel stack is no RAM": (_stack, lambda pte: 0x10000 << 10 | 0xE7),
    "a guard page is mapped": (lambda it: _stack(it) + PAGE, lambda pte: 0x80400 << 10 | 0xE7),
    "the PLIC is elsewhere": (_plic, _next_superframe),
    "text can be written": (_symbol("_text"), _flip(W)),
    "text is another frame": (_symbol("_text"), _next_superframe),
    "rodata can be executed": (_symbol("__start_rodata"), _flip(X)),
    "data can be executed": (_symbol("_edata"), _flip(X)),
    "text can be written through the direct map": (_direct("_text"), _flip(W)),
    "a hole in the direct map": (_direct("_edata"), _flip(V)),
    "the direct map is not in order": (_direct("_edata"), _next_superframe),
    "a module's text can be written": (lambda it: it.views.modules["brd"], _flip(W)),
    "a module's text cannot be executed": (lambda it: it.views.modules["brd"], _flip(X)),
    "users may touch a page of the kernel": (_stack, _flip(U)),
    "a user's page is the kernel's": (_at(0x1000_0000), _flip(U)),
    "a user's page is another frame": (_at(0x1000_0000), _next_frame),
    "a user's page is gone": (_at(0x1000_0000), _flip(V)),
    "a user's page that was not touched": (_at(0x1000_1000), lambda pte: 0x80400 << 10 | 0xD7),
    "a page that was only read can be written": (_at(0x1000_4000), _flip(W)),
    "a VMA's r-- is rw-": (_at(0x1100_1000), _flip(W)),
    "a VMA's r-x is r--": (_at(0x1500_2000), _flip(X)),
    "PROT_NONE is mapped": (_at(0x1300_0000), lambda pte: 0x80400 << 10 | 0xD7),
    "I/O ports are elsewhere": (_at(0xFF1B_FFFF_FF00_3000), _next_frame),
    "I/O ports can be executed": (_at(0xFF1B_FFFF_FF00_F000), _flip(X)),
    "a reserved bit": (_stack, _flip(1 << 54)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "linux", [("sv57", "python")], ids=["sv57-python"], indirect=True, scope="module"
)
def test_a_changed_pte_is_found(linux: Linux) -> None:
    ram, mode = linux.booted.board.ram, linux.mode
    for name, (where, change) in CHANGES.items():
        va = where(linux)
        level, pte_pa = _leaf(linux, va)
        before = ram.read64(pte_pa)
        ram.write64(pte_pa, change(before))
        differences = linux.compare()
        ram.write64(pte_pa, before)
        named = [int(line.split(":")[0], 16) for line in differences]
        size = mode.span(level)
        assert any(at & -size == va & -size for at in named), f"{name}: {va:#x}, {differences[:5]}"
    assert not linux.compare()
