"""The flattened device tree of the board, written from the address map (`emu.board.memory_map`).

It says what QEMU's `virt` says of the same devices (hw/riscv/virt.c, create_fdt), in the
words of the Devicetree Specification v0.4 and of Linux's Documentation/devicetree/bindings:

    /           chosen, memory@, cpus, poweroff, reboot, soc
    /cpus       a cpu@ for each hart, and its interrupt controller
    /soc        a node for each device, named after its address

The package `fdt` packs and parses the blob. What it believes without looking is checked here
first: a user's file (``--dtb``) may hold anything.
"""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Collection, Iterable
from typing import Any

from emu.board import memory_map as board
from emu.board.memory_map import Place

ISA_BASE = "rv64i"
# Unicorn's SIFIVE_U54 with `time` made readable and Sstc added, in the order of the ISA
# manual's names.
ISA_EXTENSIONS = ("i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc")
MMU_TYPE = "riscv,sv57"  # the most levels that the hart walks: it walks those of fewer too

SIZE_MAX = 1 << 20  # bytes; FDT_MAX_SIZE of QEMU (include/hw/boards.h)

# phandles; those of further harts come behind
_PLIC, _FINISHER, _MORE_CPUS = 3, 4, 5
# Interrupt numbers of the privileged spec (mcause), and what OpenSBI writes in the place of
# one that is not for S-mode (lib/utils/fdt/fdt_fixup.c, fdt_plic_fixup).
_M_SOFTWARE, _M_TIMER, _S_EXTERNAL, _M_EXTERNAL = 3, 7, 9, 11
_NO_CONTEXT = 0xFFFF_FFFF
_REGISTER_MAP_OFFSET, _POWER_OFF, _RESET = 0, 0x5555, 0x7777  # `emu.board.devices.finisher`

# Of an address on a PCI bus (IEEE 1275 PCI binding): the kind of space, and where the device is.
_PCI_PORTS, _PCI_MEMORY, _PCI_MEMORY_64 = 0x100_0000, 0x200_0000, 0x300_0000
_PCI_DEVICE_SHIFT, _PCI_PINS = 11, 4
_ECAM_BUS_SHIFT = 20  # a MiB of configuration space for each bus

_MAGIC = 0xD00D_FEED
_VERSION, _VERSION_MIN = 17, 16
# Free bytes inside each tree. U-Boot adds to the tree that it was given where it lies, 12 KiB
# beyond its end if it must, and its heap may begin there; OpenSBI leaves room as well.
ROOM = 16 << 10
_HEADER_SIZE = 40
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_DEPTH_MAX = 64  # FDT_MAX_DEPTH of Linux (drivers/of/fdt.c)
_NAME_SIZE_MAX = 255  # bytes; the spec says 31, and not everybody keeps to it


class DeviceTreeError(ValueError):
    """The tree cannot be made or read; the text says why, in one line."""


def build(
    ram_base: int,
    ram_size: int,
    bootargs: str = "",
    initrd: tuple[int, int] | None = None,
    rng_seed: bytes | None = None,
    devices: Collection[Place] = board.DEVICES,
    m_mode: bool = True,
    hart_count: int = 1,
    extensions: Collection[str] = (),
) -> bytes:
    """The tree of a board with ``ram_size`` bytes at PA ``ram_base``, as a blob.

    ``initrd``: its first PA and the PA behind it. ``rng_seed``: random bytes for the kernel's
    generator. ``devices``: the places that are occupied; one without ``compatible`` is not
    told. ``m_mode``: guest code runs in M-mode; else M's parts are left out as OpenSBI hides
    them from a kernel: the CLINT, whose interrupts are M's alone, and the PLIC's M contexts.
    ``hart_count``: their hartids are 0 and up. ``extensions``: what they have beyond
    ISA_EXTENSIONS. Raises DeviceTreeError.
    """
    fdt = _library()
    tree = fdt.FDT(entries=[])  # its default is one list for all trees
    root = tree.root
    _cells(root, 2, 2)
    _strings(root, "compatible", "riscv-virtio")
    _strings(root, "model", "riscv-virtio,pagewalk")
    chosen = _node(root, "chosen")
    _choose(chosen, bootargs, initrd)
    if rng_seed:
        chosen.set_property("rng-seed", rng_seed)
    if board.UART in devices:
        _strings(chosen, "stdout-path", f"/soc/{_name(board.UART)}")
    _memory(root, ram_base, ram_size, 2, 2)
    _cpus(root, hart_count, (*ISA_EXTENSIONS, *extensions))
    soc = _node(root, "soc")
    _cells(soc, 2, 2)
    _strings(soc, "compatible", "simple-bus")
    soc.set_property("ranges", None)
    has_plic = board.PLIC in devices
    for place in devices:
        if place.compatible and (place != board.CLINT or m_mode):
            _describe(_node(soc, _name(place)), place, has_plic, m_mode, hart_count)
    if board.PCIE in devices:
        _pci_host(_node(soc, _name(board.PCIE)), ram_base + ram_size, has_plic)
    if board.FINISHER in devices:
        _finisher(root, "poweroff", _POWER_OFF)
        _finisher(root, "reboot", _RESET)
    return _pack(tree)


def extend(
    dtb: bytes,
    bootargs: str | None = None,
    initrd: tuple[int, int] | None = None,
    memory: tuple[int, int] | None = None,
) -> bytes:
    """A user's tree with what the command line adds; None leaves what it says.

    ``bootargs`` replaces its command line, as QEMU's -append does, ``initrd`` (first PA, PA
    behind) its initrd, ``memory`` (PA, bytes) all that it says of RAM. Raises
    DeviceTreeError for a blob that is damaged.
    """
    tree = _parse(dtb)
    root = tree.root
    if bootargs is not None or initrd is not None:
        _choose(_node(root, "chosen"), bootargs, initrd)
    if memory is not None:
        for node in [n for n in root.nodes if _is_memory(n)]:
            root.remove_subnode(node.name)
        cells = (_word(root, "#address-cells", 2), _word(root, "#size-cells", 1))
        _memory(root, *memory, *cells)
    return _pack(tree)


def _choose(chosen: Any, bootargs: str | None, initrd: tuple[int, int] | None) -> None:
    if bootargs is not None:
        if "\0" in bootargs:
            raise DeviceTreeError("a command line ends at its first NUL byte: it has one inside")
        chosen.remove_property("bootargs")
        if bootargs:
            # As bytes: the library's strings are ASCII and not empty.
            chosen.set_property("bootargs", bootargs.encode("utf-8", "surrogateescape") + b"\0")
    if initrd is not None:
        for name, pa in zip(("linux,initrd-start", "linux,initrd-end"), initrd, strict=True):
            chosen.set_property(name, _number(pa, 2, name))


def _memory(root: Any, base: int, size: int, address_cells: int, size_cells: int) -> None:
    node = _node(root, f"memory@{base:x}")
    _strings(node, "device_type", "memory")
    where = f"RAM of {size:#x} bytes at {base:#x}"
    cells = _number(base, address_cells, where) + _number(size, size_cells, where)
    node.set_property("reg", cells)


def _is_memory(node: Any) -> bool:
    kind = node.get_property("device_type")
    return kind is not None and list(getattr(kind, "data", ())) == ["memory"]


def _cpu_phandle(hartid: int) -> int:
    """Of a hart's node; that of its interrupt controller is the next."""
    return 2 * hartid - 2 + _MORE_CPUS if hartid else 1


def _cpus(root: Any, hart_count: int, extensions: Collection[str]) -> None:
    cpus = _node(root, "cpus")
    _cells(cpus, 1, 0)
    cpus.set_property("timebase-frequency", board.TIMEBASE_HZ)
    for hartid in range(hart_count):
        _cpu(_node(cpus, f"cpu@{hartid:x}"), hartid, extensions)
    cluster = _node(_node(cpus, "cpu-map"), "cluster0")
    for hartid in range(hart_count):
        core = _node(cluster, f"core{hartid}")
        core.set_property("cpu", _cpu_phandle(hartid))


def _cpu(cpu: Any, hartid: int, extensions: Collection[str]) -> None:
    _strings(cpu, "device_type", "cpu")
    cpu.set_property("reg", hartid)
    _strings(cpu, "status", "okay")
    _strings(cpu, "compatible", "riscv")
    letters = "".join(e for e in extensions if len(e) == 1).removeprefix("i")
    words = [e for e in extensions if len(e) > 1]
    _strings(cpu, "riscv,isa", "_".join([ISA_BASE + letters, *words]))
    _strings(cpu, "riscv,isa-base", ISA_BASE)
    _strings(cpu, "riscv,isa-extensions", *extensions)
    _strings(cpu, "mmu-type", MMU_TYPE)
    cpu.set_property("phandle", _cpu_phandle(hartid))
    interrupts = _node(cpu, "interrupt-controller")
    interrupts.set_property("#interrupt-cells", 1)
    interrupts.set_property("interrupt-controller", None)
    _strings(interrupts, "compatible", "riscv,cpu-intc")
    interrupts.set_property("phandle", _cpu_phandle(hartid) + 1)


def _describe(node: Any, place: Place, has_plic: bool, m_mode: bool, hart_count: int) -> None:
    """What every device says of itself, and what only some do."""
    _strings(node, "compatible", *place.compatible)
    where = f"{place.node} of {place.size:#x} bytes at {place.base:#x}"
    node.set_property("reg", _number(place.base, 2, where) + _number(place.size, 2, where))
    if place.irq and has_plic:
        node.set_property("interrupts", place.irq)
        node.set_property("interrupt-parent", _PLIC)
    if place == board.UART:
        node.set_property("clock-frequency", board.UART_CLOCK_HZ)
    elif place == board.FINISHER:
        node.set_property("phandle", _FINISHER)
    elif place == board.CLINT:
        _to_cpus(node, hart_count, _M_SOFTWARE, _M_TIMER)
    elif place == board.PLIC:
        # A context for each, in this order: the driver numbers them by it.
        m_external = _M_EXTERNAL if m_mode else _NO_CONTEXT
        _to_cpus(node, hart_count, m_external, _S_EXTERNAL)
        node.set_property("interrupt-controller", None)
        node.set_property("#interrupt-cells", 1)
        node.set_property("#address-cells", 0)
        node.set_property("riscv,ndev", board.PLIC_SOURCES - 1)
        node.set_property("phandle", _PLIC)


def _pci_host(node: Any, ram_end: int, has_plic: bool) -> None:
    """What Linux's pci-host-ecam-generic reads (host-generic-pci.yaml), as QEMU gives it.

    An address on the bus is three cells, the first of which says what kind it is: I/O ports,
    memory, memory of 64 bits. The pins of device n are the four sources, rotated by n.
    """
    _strings(node, "device_type", "pci")
    _cells(node, 3, 2)
    node.set_property("linux,pci-domain", 0)
    node.set_property("bus-range", [0, (board.PCIE.size >> _ECAM_BUS_SHIFT) - 1])
    node.set_property("dma-coherent", None)
    size = board.PCIE_HIGH_MEMORY_SIZE
    high = -(-ram_end // size) * size
    ranges: list[int] = []
    for kind, bus, pa, extent in (
        (_PCI_PORTS, 0, board.PCIE_PORTS.base, board.PCIE_PORTS.size),
        (_PCI_MEMORY, board.PCIE_MEMORY.base, board.PCIE_MEMORY.base, board.PCIE_MEMORY.size),
        (_PCI_MEMORY_64, high, high, size),
    ):
        ranges.append(kind)
        for value in (bus, pa, extent):
            ranges += _number(value, 2, "PCIe window")
    node.set_property("ranges", ranges)
    node.set_property("#interrupt-cells", 1)
    if has_plic:
        pins = range(_PCI_PINS)
        entries = [
            (device << _PCI_DEVICE_SHIFT, 0, 0, pin + 1,
             _PLIC, board.PCIE_IRQ + (device + pin) % _PCI_PINS)
            for device in pins for pin in pins
        ]  # fmt: skip
        node.set_property("interrupt-map", [cell for entry in entries for cell in entry])
        last = (_PCI_PINS - 1) << _PCI_DEVICE_SHIFT
        node.set_property("interrupt-map-mask", [last, 0, 0, 7])


def _to_cpus(node: Any, hart_count: int, *interrupts: int) -> None:
    """The device's lines: hart by hart, to these of its interrupts."""
    cells = [
        cell
        for hartid in range(hart_count)
        for number in interrupts
        for cell in (_cpu_phandle(hartid) + 1, number)
    ]
    node.set_property("interrupts-extended", cells)


def _finisher(root: Any, what: str, value: int) -> None:
    """Linux's syscon-poweroff and syscon-reboot: the value to write, and where."""
    node = _node(root, what)
    _strings(node, "compatible", f"syscon-{what}")
    node.set_property("regmap", _FINISHER)
    node.set_property("offset", _REGISTER_MAP_OFFSET)
    node.set_property("value", value)


# the library


def _library() -> Any:
    loaded = sys.modules.get("fdt")
    if loaded is not None:
        return loaded
    try:
        with warnings.catch_warnings():
            # An escape in one of its patterns: compiling it warns, once an installation.
            warnings.simplefilter("ignore")
            import fdt
    except ImportError:
        raise DeviceTreeError("the package fdt is not installed: pip install fdt") from None
    return fdt


def _pack(tree: Any) -> bytes:
    try:
        blob = bytes(tree.to_dtb(version=_VERSION))
    except Exception as e:  # whatever its packers stumble over
        raise DeviceTreeError(f"cannot pack the tree ({type(e).__name__}: {e})") from e
    if len(blob) > SIZE_MAX:
        raise DeviceTreeError(f"a device tree of {len(blob)} bytes; at most {SIZE_MAX} are taken")
    total = len(blob) + ROOM
    return blob[:4] + total.to_bytes(4, "big") + blob[8:] + bytes(ROOM)


def _parse(dtb: bytes) -> Any:
    fdt = _library()
    plain = _without_nops(bytes(dtb))
    # It puts the reserved ranges of every tree that it parses into one and the same list.
    fdt.FDT().entries.clear()
    try:
        tree = fdt.parse_dtb(plain)
    except Exception as e:  # whatever its parsers stumble over
        raise _damaged(f"{type(e).__name__}: {e}") from e
    tree.entries = list(tree.entries)
    return tree


def _node(parent: Any, name: str) -> Any:
    """The child of that name, made where there is none."""
    child = parent.get_subnode(name)
    if child is None:
        child = _library().Node(name)
        parent.append(child)
    return child


def _name(place: Place) -> str:
    return f"{place.node}@{place.base:x}"


def _cells(node: Any, address: int, size: int) -> None:
    node.set_property("#address-cells", address)
    node.set_property("#size-cells", size)


def _strings(node: Any, name: str, *values: str) -> None:
    node.set_property(name, list(values))


def _number(value: int, cells: int, what: str) -> list[int]:
    """``value`` as big-endian 32-bit cells."""
    if not 0 <= value < 1 << 32 * cells:
        raise DeviceTreeError(f"{what}: {value:#x} does not fit in {cells} cells of 32 bits")
    return [value >> 32 * i & 0xFFFF_FFFF for i in reversed(range(cells))]


def _word(node: Any, name: str, default: int) -> int:
    """A cell count that the tree declares."""
    found = node.get_property(name)
    if found is None:
        return default
    value = getattr(found, "value", None)
    if not isinstance(value, int) or not 1 <= value <= 2:
        raise _damaged(f"{name} is {value}, not 1 or 2")
    return value


# the check of a blob (Devicetree Specification v0.4, chapter 5)


def _damaged(why: str) -> DeviceTreeError:
    return DeviceTreeError(f"damaged device tree: {why}")


def _without_nops(dtb: bytes) -> bytes:
    """The blob, checked, without FDT_NOP tokens, which the library does not know."""
    if len(dtb) < _HEADER_SIZE:
        raise _damaged(f"{len(dtb)} bytes are less than its header")
    magic, size, structure, strings, reserved, version, compatible = struct.unpack_from(">7I", dtb)
    if magic != _MAGIC:
        raise DeviceTreeError(f"not a device tree: it starts with {magic:#010x}, not {_MAGIC:#x}")
    if version < _VERSION_MIN or compatible > _VERSION:
        raise DeviceTreeError(
            f"a device tree of version {version} (compatible with {compatible}), "
            f"not {_VERSION_MIN} or {_VERSION}"
        )
    if size > SIZE_MAX:
        raise DeviceTreeError(f"a device tree of {size} bytes; at most {SIZE_MAX} are taken")
    if not _HEADER_SIZE <= size <= len(dtb):
        raise _damaged(f"its header says {size} bytes, the file has {len(dtb)}")
    if max(structure, reserved) >= size or strings > size or structure % 4:
        raise _damaged("its header points outside of it")
    data = dtb[:size]
    tokens = b"".join(_tokens(data, structure, strings))
    # Behind the rest: nothing else moves.
    packed = data + bytes(-len(data) % 4)
    header = struct.pack(">7I", magic, size, len(packed), strings, reserved, _VERSION, compatible)
    return header + packed[len(header) :] + tokens


def _tokens(data: bytes, at: int, strings: int) -> Iterable[bytes]:
    """The tokens of one whole tree, each with what belongs to it, checked."""
    depth = 0
    roots = 0
    while at + 4 <= len(data):
        (token,) = struct.unpack_from(">I", data, at)
        end = at + 4
        if token == _BEGIN_NODE:
            end = _name_end(data, end)
            depth += 1
            roots += depth == 1
            if depth > _DEPTH_MAX or roots > 1:
                raise _damaged("more than one root" if roots > 1 else "nodes too deep")
            # The library tells a root by having no name.
            if (end - at == 5) != (depth == 1):
                raise _damaged(f"a node's name at {at:#x}: only the root has none")
        elif token == _PROP:
            if depth == 0 or end + 8 > len(data):
                raise _damaged(f"a property at {at:#x}, outside of every node")
            size, name = struct.unpack_from(">II", data, end)
            end += 8 + size
            if end > len(data):
                raise _damaged(f"a property of {size} bytes at {at:#x}, behind its end")
            _name_end(data, strings + name)
        elif token == _END_NODE:
            depth -= 1
            if depth < 0:
                raise _damaged(f"a node ends at {at:#x}, and none has begun")
        elif token == _END:
            if depth or not roots:
                raise _damaged("it ends inside of a node" if depth else "it has no root")
            yield data[at:end]
            return
        elif token != _NOP:
            raise _damaged(f"an unknown token {token:#x} at {at:#x}")
        end += -end % 4
        if token != _NOP:
            yield data[at:end].ljust(end - at, b"\0")
        at = end
    raise _damaged("it is cut off")


def _name_end(data: bytes, at: int) -> int:
    """The offset behind a name and its NUL byte."""
    end = data.find(b"\0", at, at + _NAME_SIZE_MAX + 1)
    if end < 0:
        raise _damaged(f"a name at {at:#x} does not end")
    return end + 1
