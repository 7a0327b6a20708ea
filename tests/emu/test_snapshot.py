"""Snapshots: the same future bit by bit, sparse RAM, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asm import Batch
from harness import CODE, DATA, RAM, Tables, let_all_memory_be_used
from work import lines_run

import mm
from emu.board.devices.disk_image import DiskImage
from emu.board.machine import Machine
from emu.board.virt import VirtBoard
from emu.debug import touched
from emu.debug.snapshot import file as snapshot_file
from emu.debug.snapshot import snapshot
from emu.debug.snapshot.snapshot import SnapshotError
from emu.ram import Ram
from emu.spec import words
from emu.spec.paging import SV39
from emu.stop import StopReason
from guest.kernel.system import System
from mm.gfp import GFP_KERNEL

SIZE = 16 << 20
PAGE = 4096

batch = Batch()

# M: a timer interrupt every a0 ticks, of which each prints a letter; after s9 of them the end.
# S, under Sv39: a generator of random numbers that stores, adds atomically and divides.
HANDLER = batch(
    """
    csrrw sp, mscratch, sp
    addi s10, s10, 1
    andi t6, s10, 31
    addi t6, t6, 65
    li t5, 0x10000000
    sb t6, (t5)
    li t5, 0x2004000
    ld t6, (t5)
    add t6, t6, s8
    sd t6, (t5)
    bne s10, s9, 1f
    li t5, 0x100000
    li t6, 0x5555
    sw t6, (t5)
    1: csrrw sp, mscratch, sp
    mret
    """
)
START = batch(
    """
    csrw mtvec, a1
    li t0, 0x80
    csrw mie, t0
    li t0, 0x6800
    csrc mstatus, t0
    li t0, 0x2880
    csrs mstatus, t0
    csrw mepc, a2
    csrw satp, a3
    li t0, 7
    csrw mcounteren, t0
    li t5, 0x2004000
    sd s8, (t5)
    mret
    """
)
WORK = batch(
    """
    1: slli t0, s1, 13
    xor s1, s1, t0
    srli t0, s1, 7
    xor s1, s1, t0
    slli t0, s1, 17
    xor s1, s1, t0
    and t1, s1, s3
    add t1, t1, s2
    andi t1, t1, -8
    sd s1, (t1)
    amoadd.d t2, s1, (s2)
    fcvt.d.lu f1, s1
    fdiv.d f2, f1, f2
    fmv.x.d t3, f2
    xor s4, s4, t3
    rdtime t4
    add s4, s4, t4
    rdcycle t4
    xor s4, s4, t4
    andi t0, s1, 255
    bnez t0, 1b
    sfence.vma
    j 1b
    """
)
VA_WORK, VA_DATA = 0x1_0000, 0x4000_0000
DATA_SIZE = 1 << 20
INTERRUPTS = 40


class Guest:
    """The board with the guest above, at its start; or, ``empty``, as it comes."""

    def __init__(self, empty: bool = False, deterministic: bool = True, **options: Any) -> None:
        self.output = bytearray()
        self.machine = VirtBoard(SIZE, self.output.extend, deterministic=deterministic, **options)
        self.hart, self.ram = self.machine.hart, self.machine.ram
        if empty:
            return
        handler, work = RAM + 0x1000, RAM + 0x2000
        for pa, snippet in ((CODE, START), (handler, HANDLER), (work, WORK)):
            self.ram.write(pa, snippet.code)
        tables = Tables(self.ram, 3)
        tables.map(VA_WORK, work)
        for offset in range(0, DATA_SIZE, PAGE):
            tables.map(VA_DATA + offset, RAM + 0x80_0000 + offset)
        given = {
            "a1": handler, "a2": VA_WORK, "a3": tables.satp, "s1": 88172645463325252,
            "s2": VA_DATA, "s3": DATA_SIZE - 1, "s8": 30, "s9": INTERRUPTS,
        }  # fmt: skip
        self.hart.words[words.PC] = CODE
        let_all_memory_be_used(self.hart)
        for name, value in given.items():
            self.hart.words[words.ABI_NAMES.index(name)] = value

    def everything(self) -> tuple[object, ...]:
        """All that two machines can differ in, but what they have printed."""
        machine = self.machine
        state = snapshot._state(machine, {})
        return json.dumps(state, default=bytes.hex, sort_keys=True), digest(self.ram)


def digest(ram: Ram) -> str:
    return hashlib.sha256(ram.read(ram.base, ram.size)).hexdigest()


@pytest.fixture
def make() -> Iterator[Callable[..., Guest]]:
    made: list[Guest] = []

    def guest(*arguments: Any, **options: Any) -> Guest:
        made.append(Guest(*arguments, **options))
        return made[-1]

    yield guest
    for one in made:
        one.machine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.snapshot"


# The same future


@pytest.mark.parametrize("count", [1, 14, 15, 40, 333, 1000, 4321])
def test_both_go_on_alike(make: Callable[..., Guest], path: Path, count: int) -> None:
    first = make()
    assert first.machine.run(count).reason is StopReason.LIMIT
    printed = len(first.output)
    snapshot.save(first.machine, path)
    second = make(empty=True)
    snapshot.load(second.machine, path)
    assert second.everything() == first.everything()
    for guest in (first, second):
        assert guest.machine.run().reason is StopReason.EXIT
    assert second.everything() == first.everything()
    assert bytes(second.output) == bytes(first.output)[printed:]
    assert len(first.output) == INTERRUPTS
    # And saving it changed nothing.
    third = make()
    third.machine.run(count)
    third.machine.run()
    assert third.everything() == first.everything()


def test_snapshots_of_snapshots(make: Callable[..., Guest], path: Path) -> None:
    """Ten times into another machine; the last is where the one that was never saved is."""
    straight, guest = make(), make()
    output = bytearray()
    for i in range(10):
        for one in (straight, guest):
            assert one.machine.run(137).reason is StopReason.LIMIT
            assert one.machine.run(50 * i + 1).reason is StopReason.LIMIT
        snapshot.save(guest.machine, path)
        output += guest.output
        guest = make(empty=True)
        snapshot.load(guest.machine, path)
    assert guest.everything() == straight.everything()
    assert straight.machine.run() == guest.machine.run()
    assert guest.everything() == straight.everything()
    assert output + guest.output == straight.output and len(straight.output) == INTERRUPTS


class HostTime:
    """In place of the module `time`, for the clock: stands until it is let go."""

    def __init__(self) -> None:
        self._ns = time.monotonic_ns()
        self._stands = True

    def monotonic_ns(self) -> int:
        return self._ns if self._stands else self._ns + time.monotonic_ns()

    def passes(self, ns: int) -> None:
        self._ns += ns

    def goes(self) -> None:
        self._ns -= time.monotonic_ns()
        self._stands = False


def test_in_real_time_time_goes_on_from_where_it_was(
    make: Callable[..., Guest], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(deterministic=False)
    first.machine.run(500)
    host = HostTime()
    monkeypatch.setattr("emu.board.clock.time", host)
    first.machine.clock.set_now(1 << 40)
    host.passes(5_000)  # 50 ticks of 100 ns
    snapshot.save(first.machine, path)
    assert not snapshot.summary(path).deterministic
    host.passes(100_000_000)  # in which there is no machine
    second = make(empty=True, deterministic=False)
    host.passes(100_000_000)
    snapshot.load(second.machine, path)
    assert second.machine.clock.now() == (1 << 40) + 50
    host.passes(7_000)
    assert second.machine.clock.now() == (1 << 40) + 120
    host.goes()
    assert second.machine.run().reason is StopReason.EXIT
    assert len(first.output) + len(second.output) == INTERRUPTS


def test_a_used_machine_becomes_the_saved_one(make: Callable[..., Guest], path: Path) -> None:
    """What it had in RAM, in its devices, pending, and in its caches is gone."""
    first = make()
    first.machine.run(700)
    snapshot.save(first.machine, path)
    saved = first.everything()
    first.machine.run()
    first.ram.fill(RAM + 0x40_0000, 0x10_0000, 0xAA)
    first.hart.set_pending(1, True)
    first.machine.uart.receive(b"typed")
    assert first.everything() != saved
    snapshot.load(first.machine, path)
    assert first.everything() == saved
    assert first.machine.run().reason is StopReason.EXIT
    assert first.output.endswith(b"ABCDEFGHI")  # the 40th interrupt's letter


def test_a_stale_translation_does_not_tell_them_apart(
    make: Callable[..., Guest], path: Path
) -> None:
    """The saved machine has a PTE in its TLB that has changed in RAM without a fence."""
    first = make()
    first.machine.run(2000)
    pte = 0
    for pa in range(RAM + 0x10_0000, RAM + 0x11_0000, 8):
        if first.ram.read64(pa) >> 10 == (RAM + 0x80_0000) >> 12:
            pte = pa
    assert first.ram.read64(pte) & 0xC0 == 0xC0  # accessed and dirty
    first.ram.write64(pte, first.ram.read64(pte) & ~0xC0)
    snapshot.save(first.machine, path)
    second = make(empty=True)
    snapshot.load(second.machine, path)
    for guest in (first, second):
        guest.machine.run(200)
        assert guest.ram.read64(pte) & 0xC0 == 0xC0
    assert second.everything() == first.everything()


def test_the_rom_is_kept(path: Path) -> None:
    first, second = Machine(SIZE), Machine(SIZE)
    first.set_rom(ROM.code, RAM, 0x8200_0000)
    first.run(1)
    snapshot.save(first, path)
    snapshot.load(second, path)
    for machine in (first, second):
        machine.ram.write(RAM, WFI.code)
        assert machine.run().reason is StopReason.WFI
        assert machine.hart.words[words.A1] == 0x8200_0000
        machine.close()


ROM = batch(
    """
    la t1, snapshot_rom
    ld a1, 8(t1)
    ld t0, (t1)
    jr t0
    .balign 8
    snapshot_rom: .dword 0, 0
    """
)
WFI = batch("wfi")


@pytest.mark.parametrize("access", ["inside", "public"])
def test_both_ways_to_the_state(path: Path, access: str) -> None:
    first, second = Machine(SIZE, access=access), Machine(SIZE, access=access)
    first.ram.write(CODE, COUNT.code)
    first.run(10)
    snapshot.save(first, path)
    assert bool(snapshot.summary(path).missing) == (access == "public")
    snapshot.load(second, path)
    for machine in (first, second):
        machine.run(1000)
        assert machine.hart.words[9] == 505
        machine.close()


COUNT = batch("1: addi s1, s1, 1; j 1b")


def test_a_disk_that_was_written(make: Callable[..., Guest], tmp_path: Path, path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    first = make(disks=[DiskImage(image, "cow")])
    written = random.Random(1).randbytes(300_000)
    first.machine.disks[0].write(memoryview(written), 4096)
    snapshot.save(first.machine, path)
    second = make(empty=True, disks=[DiskImage(image, "cow")])
    snapshot.load(second.machine, path)
    found = bytearray(len(written))
    second.machine.disks[0].read([memoryview(found)], 4096)
    assert found == written
    # A board without that disk, or with a disk of another size.
    with pytest.raises(SnapshotError, match=r"no device virtio-blk at 0x10008000"):
        snapshot.load(make(empty=True).machine, path)
    image.write_bytes(bytes(1 << 19))
    with pytest.raises(SnapshotError, match="disk"):
        snapshot.load(make(empty=True, disks=[DiskImage(image, "cow")]).machine, path)


# The kernel machine


def test_a_kernel_is_attached_to_a_loaded_snapshot(path: Path) -> None:
    first, second = System(SIZE, SV39), System(SIZE, SV39)
    for system in (first, second):
        system.boot()
    pages = [first.kernel.buddy.alloc_pages(GFP_KERNEL, order) for order in (0, 3, 5)]
    addresses = [first.kernel.kmalloc(size) for size in (8, 100, 5000)]
    first.machine.ram.write(first.kernel.pa(addresses[1]), b"kept")
    assert None not in (*pages, *addresses)
    before = mm.check(first.kernel)
    snapshot.save(first.machine, path)
    snapshot.load(second.machine, path)
    kernel = mm.attach(second.machine.ram)
    assert mm.check(kernel) == before
    assert kernel.ram.read(kernel.pa(addresses[1]), 4) == b"kept"
    kernel.kfree(addresses[1])
    assert mm.check(kernel) != before
    assert second.hart.satp == first.hart.satp
    # Python held M and S of it: a machine where guest code does cannot go on with it.
    bare = Machine(SIZE)
    with pytest.raises(SnapshotError, match=r"levels \[1, 3\] of that machine, \[\] of this"):
        snapshot.load(bare, path)
    for machine in (first.machine, second.machine, bare):
        machine.close()


# RAM


def test_only_touched_pages_cost_anything(path: Path) -> None:
    """64 GiB, of which 2,000 pages hold something."""
    rng = random.Random(3)
    first, second = Machine(64 << 30), Machine(64 << 30)
    pas = [RAM + PAGE * n for n in rng.sample(range((64 << 30) // PAGE), 2000)]
    for pa in pas:
        first.ram.write64(pa + 8 * rng.randrange(512), rng.getrandbits(64) | 1)
    first.ram.write64(RAM + (64 << 30) - 8, 5)
    first.ram.write64(RAM, 0)  # touched, and zero
    saved = lines_run(lambda: snapshot.save(first, path))
    loaded = lines_run(lambda: snapshot.load(second, path))
    if touched._host_tells():
        assert max(saved, loaded) < 2000 * 100
        assert len(touched.touched(second.ram)) < 2100
    assert path.stat().st_size < 2001 * 100
    assert snapshot.ram_size_of(path) == 64 << 30
    for pa in pas:
        assert second.ram.read(pa, PAGE) == first.ram.read(pa, PAGE)
    assert second.ram.read64(RAM + (64 << 30) - 8) == 5
    for machine in (first, second):
        machine.close()


def test_what_cannot_be_compressed(path: Path) -> None:
    """600 pages of noise, then 600 that are almost the same: more than two blocks each."""
    first, second = Machine(SIZE), Machine(SIZE)
    noise = random.Random(4).randbytes(600 * PAGE)
    first.ram.write(RAM, noise)
    first.ram.array(RAM + len(noise), 600 * 512)[:] = np.arange(600 * 512) // 512 + 1
    snapshot.save(first, path)
    assert len(noise) < path.stat().st_size < 1.02 * len(noise)
    snapshot.load(second, path)
    assert digest(second.ram) == digest(first.ram)
    for machine in (first, second):
        machine.close()


def test_a_host_that_does_not_tell(
    make: Callable[..., Guest], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    first.machine.run(3000)
    monkeypatch.setattr(touched, "_host_tells", lambda: False)
    assert len(touched.touched(first.ram)) == SIZE // PAGE
    snapshot.save(first.machine, path)
    second = make(empty=True)
    snapshot.load(second.machine, path)
    assert second.everything() == first.everything()


def test_touched_pages() -> None:
    ram = Ram(1 << 30)
    assert touched.nonzero(ram).tolist() == []
    wanted = [0, 1, 77, 100_000, (1 << 30) // PAGE - 1]
    for n in wanted:
        ram.write8(ram.base + PAGE * n + n % PAGE, 1)
    ram.write8(ram.base + PAGE * 500, 0)
    assert touched.nonzero(ram).tolist() == wanted
    assert ram.read64(ram.base + PAGE * 9) == 0  # looked at, which may back it
    assert touched.nonzero(ram).tolist() == wanted
    if touched._host_tells():
        assert set(wanted) <= set(touched.touched(ram).tolist()) <= {*wanted, 500, 9}


def test_progress_is_told_in_order(
    make: Callable[..., Guest], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make(), make(empty=True)
    first.ram.array(RAM, SIZE // 8)[:] = np.arange(SIZE // 8)
    seen: list[float] = []
    monkeypatch.setattr(snapshot, "_PROGRESS_AFTER", 1e9)
    snapshot.save(first.machine, path, seen.append)
    snapshot.load(second.machine, path, seen.append)
    assert seen == []  # neither took so long
    monkeypatch.setattr(snapshot, "_PROGRESS_AFTER", 0)
    monkeypatch.setattr(snapshot, "_PROGRESS_EVERY", 0)
    for act in (snapshot.save, snapshot.load):
        seen.clear()
        act(first.machine, path, seen.append)
        assert len(seen) >= 16 and seen == sorted(seen)
        assert 0 <= seen[0] < 0.2 and 0.9 < seen[-1] <= 1


# Files that are not what they should be


@pytest.fixture
def small(path: Path) -> Iterator[tuple[Machine, Path]]:
    """A machine, and the snapshot of another one with a few pages."""
    first, machine = Machine(1 << 20), Machine(1 << 20)
    for i in range(5):
        first.ram.write(RAM + PAGE * 3 * i, random.Random(i).randbytes(300))
    first.hart.words[words.PC] = RAM + 0x400
    snapshot.save(first, path)
    machine.ram.write(DATA, b"as it was")
    machine.uart.receive(b"abc")
    yield machine, path
    first.close()
    machine.close()


def refused(machine: Machine, path: Path, data: bytes) -> str:
    """Loading ``data`` raises SnapshotError and changes nothing; its text."""
    path.write_bytes(data)
    before = image(machine)
    with pytest.raises(SnapshotError) as caught:
        snapshot.load(machine, path)
    assert image(machine) == before
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def image(machine: Machine) -> tuple[object, ...]:
    state = snapshot._state(machine, {})
    del state["clock"], state["harts"][0]["mcycle"], state["harts"][0]["minstret"]
    return repr(state), digest(machine.ram)


def test_truncated_anywhere(small: tuple[Machine, Path]) -> None:
    machine, path = small
    data = path.read_bytes()
    for size in [*range(0, 64), *range(64, len(data) - 1, 97), len(data) - 1]:
        assert "truncated" in refused(machine, path, data[:size]) or size == 0
    assert "something follows" in refused(machine, path, data + b"\0")


def test_any_changed_byte_is_found(small: tuple[Machine, Path]) -> None:
    machine, path = small
    data = path.read_bytes()
    rng = random.Random(5)
    for at in [*range(80), *(rng.randrange(len(data)) for _ in range(300)), len(data) - 1]:
        bad = bytearray(data)
        bad[at] ^= 1 << rng.randrange(8)
        refused(machine, path, bytes(bad))
    path.write_bytes(data)
    snapshot.load(machine, path)
    assert machine.hart.pc == RAM + 0x400 and machine.ram.read8(DATA) == 0


def test_what_is_no_snapshot(small: tuple[Machine, Path], tmp_path: Path) -> None:
    machine, path = small
    data = path.read_bytes()
    assert "not a snapshot" in refused(machine, path, b"\x7fELF" + bytes(100))
    assert "not a snapshot" in refused(machine, path, b"")
    newer = data[:8] + struct.pack("<I", 4) + data[12:]
    assert "version 4, not 3" in refused(machine, path, newer)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for bad in (tmp_path / "none", tmp_path, fifo, Path("/dev/null")):
        for use in (snapshot.load, lambda m, p: snapshot.ram_size_of(p)):
            with pytest.raises(SnapshotError, match=str(bad)):
                use(machine, bad)


def test_a_machine_that_is_another(small: tuple[Machine, Path]) -> None:
    _, path = small
    data = path.read_bytes()
    larger, board = Machine(2 << 20), VirtBoard(1 << 20, lambda data: None)
    assert "1048576 bytes of RAM at 0x80000000" in refused(larger, path, data)
    assert "knows nothing of the device clint at 0x2000000" in refused(board, path, data)
    snapshot.save(board, path)
    assert "no device clint at 0x2000000" in refused(small[0], path, path.read_bytes())
    with pytest.raises(SnapshotError, match=r"parts \[\], not \['sbi'\]"):
        snapshot.load(board, path, parts={"sbi": Extra()})
    larger.close()
    board.close()


def rewritten(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The snapshot with its header changed, and the checksum made right."""
    size = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[20 : 20 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<8sIII", b"pagewalk", 2, len(text), zlib.crc32(text)) + data[20 + size :]


@pytest.mark.parametrize(
    "keys",
    [
        ("ram",), ("ram", "size"), ("levels",), ("rom",), ("clock",), ("clock", "now"),
        ("harts",), ("harts", 0, "satp"), ("harts", 0, "x"), ("devices",), ("devices", 0),
        ("devices", 0, "name"), ("devices", 0, "base"), ("devices", 0, "state"),
        ("devices", 0, "state", "ier"), ("devices", 0, "state", "fifo"), ("parts",), ("data",),
    ],
)  # fmt: skip
def test_headers_with_right_checksums_and_wrong_contents(
    small: tuple[Machine, Path], keys: tuple[Any, ...]
) -> None:
    """A device that refuses its part of a state comes after others that took theirs."""
    machine, path = small
    data = path.read_bytes()
    wrong = [None, -1, 1 << 70, "x", [], {}, [[]], {"$bytes": [0, 1 << 40]}, {"$bytes": 3}]
    # Where one of them is right: a machine without ROM, without parts, with guest code only.
    right: dict[tuple[Any, ...], Any] = {("rom",): None, ("parts",): {}, ("levels",): []}

    for value in wrong:
        if keys in right and value == right[keys]:
            continue

        def change(header: dict[str, Any], value: Any = value) -> None:
            place: Any = header
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = value

        refused(machine, path, rewritten(data, change))

    def delete(header: dict[str, Any]) -> None:
        place: Any = header
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    refused(machine, path, rewritten(data, delete))


def test_blocks_with_right_checksums_and_wrong_contents(small: tuple[Machine, Path]) -> None:
    machine, path = small
    data = path.read_bytes()
    start = 20 + struct.unpack_from("<I", data, 12)[0]
    header = data[:start]

    def block(content: bytes, size: int | None = None) -> bytes:
        size = len(content) if size is None else size
        stored = zlib.compress(content)
        crc = zlib.crc32(size.to_bytes(4, "little") + stored)
        return struct.pack("<III", size, len(stored), crc) + stored

    end = struct.pack("<III", 0, 0, zlib.crc32(bytes(4)))
    page = bytes([7]) * PAGE
    for wrong in (
        block((1 << 20 >> 12).to_bytes(8, "little") + page),  # behind RAM
        block((1 << 63).to_bytes(8, "little") + page),
        block(struct.pack("<QQ", 5, 5) + page * 2),
        block(struct.pack("<QQ", 5, 4) + page * 2),
        block(bytes(8) + page[:-1]),
        block(bytes(8) + page, 8 + PAGE - 1),
        block(bytes(8) + page, 8 + PAGE + 1),
        block(bytes(100 << 20), 8 + PAGE),  # grows to 100 MiB: not taken
        block(bytes(8) + page, 1 << 31),
        block(b"x"),
    ):
        path.write_bytes(header + wrong + end)
        with pytest.raises(SnapshotError, match="corrupt"):
            snapshot.load(machine, path)
    path.write_bytes(header + block(bytes(8) + page) + end)
    snapshot.load(machine, path)
    assert machine.ram.read(RAM, PAGE + 1) == page + b"\0"


# Saving


class Extra:
    """A part with all kinds of values; ``bad`` refuses to be restored."""

    bytes_max = 4 << 20

    def __init__(self, value: Any = None, bad: Exception | None = None) -> None:
        self.value, self.bad = value, bad

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        if self.bad is not None:
            raise self.bad
        return lambda: setattr(self, "value", state["value"])


def test_parts_of_all_kinds(small: tuple[Machine, Path]) -> None:
    machine, path = small
    value = [None, True, -5, 1 << 80, 1.5, "é\n", b"", b"\0\xff" * (1 << 20), {"a": [b"x"]}]
    snapshot.save(machine, path, parts={"one": Extra(value), "two": Extra(b"2")})
    one, two = Extra(), Extra()
    snapshot.load(machine, path, parts={"one": one, "two": two})
    assert (one.value, two.value) == (value, b"2")
    for wrong in ({1: 2}, {"$bytes": 1}, object(), {1, 2}):
        with pytest.raises(TypeError, match="cannot hold"):
            snapshot.save(machine, path, parts={"one": Extra(wrong)})


def test_a_part_that_refuses_leaves_the_machine_alone(
    small: tuple[Machine, Path],
) -> None:
    machine, path = small
    other = Machine(1 << 20)
    other.hart.words[words.GPR + 9] = 3
    snapshot.save(other, path, parts={"one": Extra(1), "two": Extra(2)})
    one, two = Extra("old"), Extra("old", ValueError("not\nmine"))
    before = image(machine)
    with pytest.raises(SnapshotError, match="not mine"):
        snapshot.load(machine, path, parts={"one": one, "two": two})
    assert (one.value, two.value) == ("old", "old")
    assert image(machine) == before
    other.close()


def test_a_file_is_replaced_when_the_new_one_is_complete(
    small: tuple[Machine, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine, path = small
    good = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot_file, "_write_block", fails)
    with pytest.raises(SnapshotError, match="No space left"):
        snapshot.save(machine, path)
    monkeypatch.undo()
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    link = tmp_path / "link"
    link.symlink_to(path)
    snapshot.save(machine, link)
    assert link.is_symlink() and path.read_bytes() != good
    for bad in (tmp_path / "none" / "x", tmp_path, Path("/dev/null")):
        with pytest.raises(SnapshotError, match=str(bad)):
            snapshot.save(machine, bad)


def test_a_running_machine_is_refused(small: tuple[Machine, Path]) -> None:
    machine, path = small
    machine.hart.running = True
    for use in (snapshot.save, snapshot.load):
        with pytest.raises(SnapshotError, match="running"):
            use(machine, path)
    machine.hart.running = False
