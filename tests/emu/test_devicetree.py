"""The device tree: its contents against QEMU's, a user's tree extended, and damaged ones.

The blobs are read by a reader of the test's own, from the Devicetree Specification's chapter 5.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.board import memory_map as board
from emu.board.devicetree import SIZE_MAX, DeviceTreeError, build, extend

fdt = pytest.importorskip("fdt")

Tree = dict[str, dict[str, bytes]]
RAM, SIZE = 0x8000_0000, 0x400_0000
BEGIN, END_NODE, PROP, NOP, END = (struct.pack(">I", t) for t in (1, 2, 3, 4, 9))


def read(blob: bytes) -> Tree:
    """Path -> property -> value of a blob that is right."""
    magic, size, at, strings, _, version, compatible = struct.unpack_from(">7I", blob)
    assert (magic, version, compatible) == (0xD00DFEED, 17, 16) and size <= len(blob)
    tree: Tree = {}
    path: list[str] = []
    while True:
        (token,) = struct.unpack_from(">I", blob, at)
        at += 4
        if token == 1:
            end = blob.index(b"\0", at)
            path.append(blob[at:end].decode())
            tree["/".join(path) or "/"] = {}
            at = end + 4 & ~3
        elif token == 2:
            path.pop()
        elif token == 3:
            length, name = struct.unpack_from(">II", blob, at)
            start = strings + name
            key = blob[start : blob.index(b"\0", start)].decode()
            tree["/".join(path) or "/"][key] = blob[at + 8 : at + 8 + length]
            at += 8 + length + 3 & ~3
        elif token == 9:
            assert path == []
            return tree


def cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def text(*values: str) -> bytes:
    return b"".join(v.encode() + b"\0" for v in values)


def blob(*tokens: bytes, strings: bytes = b"", reserved: bytes = b"", version: int = 17) -> bytes:
    """A tree by hand: the header, reserved ranges, structure and strings."""
    reserved += bytes(16)
    structure = b"".join(tokens)
    at = 40 + len(reserved)
    header = struct.pack(
        ">10I", 0xD00DFEED, at + len(structure) + len(strings), at, at + len(structure), 40,
        version, 16, 0, len(strings), len(structure),
    )  # fmt: skip
    return header + reserved + structure + strings


def prop(name: int, value: bytes) -> bytes:
    return PROP + cells(len(value), name) + value + bytes(-len(value) % 4)


ROOT = BEGIN + bytes(4)
MINIMAL = blob(ROOT, END_NODE, END)


# what the board says


def test_the_whole_tree() -> None:
    """Written down from QEMU 7.2's `virt`, less what this board has not."""
    tree = read(build(RAM, SIZE, "console=ttyS0", (0x8220_0000, 0x8234_5678), b"\1\2\3\4\5"))
    del tree["/soc/pci@30000000"]  # see test_an_empty_pcie_host
    virtio = {
        f"/soc/virtio_mmio@1000{i}000": {
            "compatible": text("virtio,mmio"),
            "reg": cells(0, 0x1000_0000 + 0x1000 * i, 0, 0x1000),
            "interrupts": cells(i),
            "interrupt-parent": cells(3),
        }
        for i in range(1, 9)
    }
    assert tree == virtio | {
        "/": {
            "#address-cells": cells(2),
            "#size-cells": cells(2),
            "compatible": text("riscv-virtio"),
            "model": text("riscv-virtio,pagewalk"),
        },
        "/chosen": {
            "bootargs": text("console=ttyS0"),
            "linux,initrd-start": cells(0, 0x8220_0000),
            "linux,initrd-end": cells(0, 0x8234_5678),
            "rng-seed": b"\1\2\3\4\5",
            "stdout-path": text("/soc/serial@10000000"),
        },
        "/memory@80000000": {
            "device_type": text("memory"),
            "reg": cells(0, 0x8000_0000, 0, 0x400_0000),
        },
        "/cpus": {
            "#address-cells": cells(1),
            "#size-cells": cells(0),
            "timebase-frequency": cells(10_000_000),
        },
        "/cpus/cpu@0": {
            "device_type": text("cpu"),
            "reg": cells(0),
            "status": text("okay"),
            "compatible": text("riscv"),
            "riscv,isa": text("rv64imafdc_zicntr_zicsr_zifencei_sstc"),
            "riscv,isa-base": text("rv64i"),
            "riscv,isa-extensions": text(
                "i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc"
            ),
            "mmu-type": text("riscv,sv57"),
            "phandle": cells(1),
        },
        "/cpus/cpu@0/interrupt-controller": {
            "#interrupt-cells": cells(1),
            "interrupt-controller": b"",
            "compatible": text("riscv,cpu-intc"),
            "phandle": cells(2),
        },
        "/cpus/cpu-map": {},
        "/cpus/cpu-map/cluster0": {},
        "/cpus/cpu-map/cluster0/core0": {"cpu": cells(1)},
        "/poweroff": {
            "compatible": text("syscon-poweroff"),
            "regmap": cells(4),
            "offset": cells(0),
            "value": cells(0x5555),
        },
        "/reboot": {
            "compatible": text("syscon-reboot"),
            "regmap": cells(4),
            "offset": cells(0),
            "value": cells(0x7777),
        },
        "/soc": {
            "#address-cells": cells(2),
            "#size-cells": cells(2),
            "compatible": text("simple-bus"),
            "ranges": b"",
        },
        "/soc/test@100000": {
            "compatible": text("sifive,test1", "sifive,test0", "syscon"),
            "reg": cells(0, 0x10_0000, 0, 0x1000),
            "phandle": cells(4),
        },
        "/soc/rtc@101000": {
            "compatible": text("google,goldfish-rtc"),
            "reg": cells(0, 0x10_1000, 0, 0x1000),
            "interrupts": cells(11),
            "interrupt-parent": cells(3),
        },
        "/soc/clint@2000000": {
            "compatible": text("sifive,clint0", "riscv,clint0"),
            "reg": cells(0, 0x200_0000, 0, 0x1_0000),
            "interrupts-extended": cells(2, 3, 2, 7),
        },
        "/soc/plic@c000000": {
            "compatible": text("sifive,plic-1.0.0", "riscv,plic0"),
            "reg": cells(0, 0xC00_0000, 0, 0x60_0000),
            "interrupts-extended": cells(2, 11, 2, 9),
            "interrupt-controller": b"",
            "#interrupt-cells": cells(1),
            "#address-cells": cells(0),
            "riscv,ndev": cells(95),
            "phandle": cells(3),
        },
        "/soc/serial@10000000": {
            "compatible": text("ns16550a"),
            "reg": cells(0, 0x1000_0000, 0, 0x100),
            "interrupts": cells(10),
            "interrupt-parent": cells(3),
            "clock-frequency": cells(3_686_400),
        },
    }


@pytest.mark.skipif(not shutil.which("qemu-system-riscv64"), reason="needs qemu-system-riscv64")
def test_devices_are_where_qemu_has_them(tmp_path: Path) -> None:
    path = tmp_path / "qemu.dtb"
    command = ["qemu-system-riscv64", "-nographic", "-m", "64M", "-machine"]
    subprocess.run([*command, f"virt,dumpdtb={path}"], check=True, capture_output=True)
    theirs, ours = read(path.read_bytes()), read(build(RAM, SIZE))
    nodes = [p for p in ours if p.startswith(("/soc/", "/memory", "/poweroff", "/reboot"))]
    assert len(nodes) == 17
    for node in nodes:
        for name in ("compatible", "reg", "interrupts", "clock-frequency", "value", "offset"):
            assert ours[node].get(name) == theirs[node].get(name), (node, name)
    assert ours["/soc/pci@30000000"] == theirs["/soc/pci@30000000"]
    assert theirs["/soc/plic@c000000"]["phandle"] == ours["/soc/plic@c000000"]["phandle"]


def test_an_empty_pcie_host() -> None:
    """The map by hand: source 32 + (device + pin) % 4, pins from 1; a window lies behind RAM."""
    node = read(build(RAM, SIZE))["/soc/pci@30000000"]
    assert node["reg"] == cells(0, 0x3000_0000, 0, 0x1000_0000)
    assert node["bus-range"] == cells(0, 255)
    assert node["ranges"] == cells(
        0x100_0000, 0, 0, 0, 0x300_0000, 0, 0x1_0000,
        0x200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x4000_0000,
        0x300_0000, 4, 0, 4, 0, 4, 0,
    )  # fmt: skip
    assert node["interrupt-map-mask"] == cells(0x1800, 0, 0, 7)
    assert node["interrupt-map"][: 5 * 24] == cells(
        0, 0, 0, 1, 3, 32, 0, 0, 0, 2, 3, 33, 0, 0, 0, 3, 3, 34, 0, 0, 0, 4, 3, 35,
        0x800, 0, 0, 1, 3, 33,
    )  # fmt: skip
    assert len(node["interrupt-map"]) == 16 * 24
    for size, first in ((14 << 30, 4), ((14 << 30) + 4096, 8), (64 << 30, 20)):
        node = read(build(RAM, size))["/soc/pci@30000000"]
        assert node["ranges"][56:] == cells(0x300_0000, first, 0, first, 0, 4, 0)
    alone = read(build(RAM, SIZE, devices=[board.PCIE]))["/soc/pci@30000000"]
    assert "interrupt-map" not in alone and "ranges" in alone


def test_for_a_kernel_without_firmware() -> None:
    """As OpenSBI leaves it: no CLINT, and the PLIC's context 1 is still that of S-mode."""
    tree = read(build(RAM, SIZE, m_mode=False))
    assert "/soc/clint@2000000" not in tree
    assert tree["/soc/plic@c000000"]["interrupts-extended"] == cells(2, 0xFFFF_FFFF, 2, 9)
    assert tree.keys() | {"/soc/clint@2000000"} == read(build(RAM, SIZE)).keys()


def test_only_the_devices_that_are_there() -> None:
    tree = read(build(RAM, SIZE, devices=[board.UART, board.ROM]))
    assert [p for p in tree if p.startswith("/soc/")] == ["/soc/serial@10000000"]
    assert "interrupts" not in tree["/soc/serial@10000000"]  # nobody to take them
    assert "/poweroff" not in tree and "/reboot" not in tree
    assert tree["/chosen"] == {"stdout-path": text("/soc/serial@10000000")}
    assert read(build(RAM, SIZE, devices=[]))["/chosen"] == {}


def test_large_numbers_and_odd_strings() -> None:
    tree = read(build(0x12_0000_0000, 3 << 40, 'a="b c" ü \x7f', (1 << 40, (1 << 40) + 1)))
    assert tree["/memory@1200000000"]["reg"] == cells(0x12, 0, 0x300, 0)
    assert tree["/chosen"]["bootargs"] == b'a="b c" \xc3\xbc \x7f\0'
    assert tree["/chosen"]["linux,initrd-end"] == cells(0x100, 1)


def test_what_cannot_be_said() -> None:
    with pytest.raises(DeviceTreeError, match="NUL byte"):
        build(RAM, SIZE, "a\0b")
    with pytest.raises(DeviceTreeError, match="does not fit in 2 cells"):
        build(RAM, 1 << 64)
    with pytest.raises(DeviceTreeError, match="linux,initrd-start: -0x1"):
        build(RAM, SIZE, initrd=(-1, 5))
    with pytest.raises(DeviceTreeError, match="at most 1048576"):
        build(RAM, SIZE, "x" * SIZE_MAX)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fdt", None)
    with pytest.raises(DeviceTreeError, match="pip install fdt"):
        build(RAM, SIZE)
    with pytest.raises(DeviceTreeError, match="pip install fdt"):
        extend(MINIMAL)


# a user's tree


STRINGS = text("compatible", "bootargs", "odd", "device_type", "reg", "linux,initrd-end")
ODD = b"\0\x38\x40\0"  # neither text nor not


def users_tree(*more: bytes) -> bytes:
    """A NOP before each token; one reserved range; RAM in two nodes; a property of bytes."""
    at = {n: STRINGS.index(n.encode() + b"\0") for n in STRINGS.decode().split("\0") if n}
    ram = prop(at["device_type"], text("memory"))
    tokens = [
        ROOT,
        prop(at["compatible"], text("mine", "yours")),
        prop(at["odd"], ODD),
        BEGIN + text("chosen") + b"\0",
        prop(at["bootargs"], text("old")),
        prop(at["odd"], b"\1\2\3\0\0"),
        END_NODE,
        BEGIN + text("memory@1") + bytes(3), ram, prop(at["reg"], cells(1, 2)), END_NODE,
        BEGIN + text("memory@2") + bytes(3), ram, prop(at["reg"], cells(2, 2)), END_NODE,
        *more,
        END_NODE,
        END,
    ]  # fmt: skip
    reserved = struct.pack(">QQ", 0x8000_0000, 0x2_0000)
    return blob(*[NOP + t for t in tokens], strings=STRINGS, reserved=reserved)


def test_nothing_to_extend() -> None:
    data = users_tree()
    after = extend(data)
    assert read(after) == {
        "/": {"compatible": text("mine", "yours"), "odd": ODD},
        "/chosen": {"bootargs": text("old"), "odd": b"\1\2\3\0\0"},
        "/memory@1": {"device_type": text("memory"), "reg": cells(1, 2)},
        "/memory@2": {"device_type": text("memory"), "reg": cells(2, 2)},
    }
    assert after[40:72] == struct.pack(">QQQQ", 0x8000_0000, 0x2_0000, 0, 0)
    assert extend(after) == after


def test_extended() -> None:
    tree = read(extend(users_tree(), "new", (0x10, 0x20), (RAM, SIZE)))
    assert tree["/chosen"] == {
        "bootargs": text("new"),
        "odd": b"\1\2\3\0\0",
        "linux,initrd-start": cells(0, 0x10),
        "linux,initrd-end": cells(0, 0x20),
    }
    # No #address-cells, no #size-cells: 2 and 1 (section 2.3.5).
    assert [p for p in tree if "memory" in p] == ["/memory@80000000"]
    assert tree["/memory@80000000"]["reg"] == cells(0, RAM, SIZE)
    assert tree["/"]["odd"] == ODD
    assert "bootargs" not in read(extend(users_tree(), ""))["/chosen"]


def test_extended_where_there_is_nothing_yet() -> None:
    assert read(extend(MINIMAL)) == {"/": {}}
    assert read(extend(MINIMAL + b"behind", "a b")) == {"/": {}, "/chosen": {"bootargs": b"a b\0"}}
    one = text("#address-cells", "#size-cells")
    data = blob(ROOT, prop(0, cells(1)), prop(15, cells(1)), END_NODE, END, strings=one)
    assert read(extend(data, memory=(RAM, SIZE)))["/memory@80000000"]["reg"] == cells(RAM, SIZE)
    with pytest.raises(DeviceTreeError, match=r"RAM of .* does not fit in 1 cells"):
        extend(data, memory=(1 << 32, SIZE))


def test_one_tree_leaves_nothing_in_the_next() -> None:
    """The library keeps reserved ranges of all trees in one list."""
    with pytest.raises(DeviceTreeError):
        extend(users_tree(BEGIN + text("chosen") + b"\0" + END_NODE))  # twice: too late
    assert extend(MINIMAL)[40:56] == bytes(16)
    extend(users_tree())
    assert build(RAM, SIZE)[40:56] == bytes(16)


NODE = BEGIN + text("n") + bytes(2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes are less than its header"),
        (MINIMAL[:39], "39 bytes are less than its header"),
        (b"\x7fELF" + MINIMAL[4:], "not a device tree: it starts with 0x7f454c46"),
        (MINIMAL[:-1], "its header says 72 bytes, the file has 71"),
        (MINIMAL[:4] + cells(0) + MINIMAL[8:], "its header says 0 bytes"),
        (MINIMAL[:4] + cells(1 << 31) + MINIMAL[8:], "2147483648 bytes; at most"),
        (MINIMAL[:8] + cells(72) + MINIMAL[12:], "points outside"),
        (MINIMAL[:8] + cells(58) + MINIMAL[12:], "points outside"),
        (MINIMAL[:16] + cells(64) + MINIMAL[20:], "damaged"),  # reserved ranges without an end
        (blob(ROOT, END_NODE, END, version=15), "version 15"),
        (MINIMAL[:24] + cells(18) + MINIMAL[28:], "compatible with 18"),
        (blob(END), "it has no root"),
        (blob(ROOT, END), "ends inside of a node"),
        (blob(ROOT, END_NODE), "cut off"),
        (blob(ROOT, END_NODE, ROOT, END_NODE, END), "more than one root"),
        (blob(ROOT, END_NODE, END_NODE, END), "none has begun"),
        (blob(NODE, END_NODE, END), "only the root has none"),
        (blob(ROOT, ROOT, END_NODE, END_NODE, END), "only the root has none"),
        (blob(ROOT, NODE * 64, END_NODE * 65, END), "too deep"),
        (blob(ROOT, cells(5), END_NODE, END), "unknown token 0x5 at 0x40"),
        (blob(prop(0, b""), ROOT, END_NODE, END, strings=b"a\0"), "outside of every node"),
        (blob(ROOT, PROP + cells(99, 0), END_NODE, END, strings=b"a\0"), "99 bytes at 0x40"),
        (blob(ROOT, prop(0, b""), END_NODE, END), "a name at 0x54 does not end"),
        (blob(ROOT, prop(7, b""), END_NODE, END, strings=b"a\0"), "does not end"),
        (blob(ROOT, BEGIN + b"x" * 260 + bytes(4), END_NODE, END_NODE, END), "does not end"),
        (blob(ROOT, NODE, END_NODE, NODE, END_NODE, END_NODE, END), "already exists"),
        (blob(ROOT, BEGIN + b"\xff\xff\xff\0", END_NODE, END_NODE, END), "UnicodeDecodeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged(data: bytes, why: str) -> None:
    with pytest.raises(DeviceTreeError) as error:
        extend(data, "x")
    assert why in str(error.value) and "\n" not in str(error.value)


SAMPLES = (MINIMAL, users_tree(), build(RAM, SIZE, "a", (1, 2), b"seed"))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_random_damage(data: st.DataObject) -> None:
    tree = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(tree) - 1))
        tree[at] = data.draw(st.sampled_from((0, 1, 2, 3, 4, 9, 0x7F, 0x80, 0xFF)))
    del tree[data.draw(st.integers(0, len(tree))) :]
    try:
        after = extend(bytes(tree), "new", (3, 4), (RAM, SIZE))
    except DeviceTreeError as e:
        assert "\n" not in str(e)
    else:
        assert read(after)["/chosen"]["bootargs"] == b"new\0"


def test_there_is_room_for_a_loader_to_add_to_it() -> None:
    """The header's totalsize (offset 4, big-endian) holds 16 KiB behind the last block."""
    blob = build(0x8000_0000, 64 << 20)
    assert int.from_bytes(blob[4:8], "big") == len(blob)
    strings, size = (int.from_bytes(blob[at : at + 4], "big") for at in (12, 32))
    structure, extent = (int.from_bytes(blob[at : at + 4], "big") for at in (8, 36))
    assert len(blob) - max(strings + size, structure + extent) == 16 << 10
    assert int.from_bytes(extend(blob, bootargs="x")[4:8], "big") < len(blob) + (16 << 10) + 4096
