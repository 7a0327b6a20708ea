"""Firmware, boot loaders, kernels and bare guests on the board.

What the user named is loaded and checked, placed in RAM with its device tree, and the hart
put where it begins: in S-mode under the SBI that Python answers, or in the reset code that
goes to real firmware, or to a kernel that wants M-mode for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.board import devicetree
from emu.board.devices.disk_image import DiskImage
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_mmio import Virtio
from emu.board.memory_map import RAM_SIZE_DEFAULT
from emu.board.virt import VirtBoard, slot_at
from emu.debug.symbols import Symbols
from emu.hart import HartOptions
from emu.ram import host_memory
from emu.spec.csr import Priv
from firmware.enter import enter_supervisor
from firmware.fw_dynamic import fw_dynamic_info
from firmware.images import reset_code
from firmware.sbi import Sbi
from guest.boot.find import Found
from guest.boot.machines import BARE, FIRMWARE
from guest.boot.outcome import UsageError
from guest.boot.system_map import read_system_map
from guest.image import kernel_image, user_file
from guest.image.elf import Elf
from guest.image.kernel_image import KernelImage
from guest.image.placement import DTB_SIZE_MAX, KERNEL_OFFSET, Initrd, Placement, place

if TYPE_CHECKING:  # imported by those who load or save a snapshot
    from emu.debug.snapshot import snapshot

BIOS_PYTHON, BIOS_NONE = "python", "none"
_RNG_SEED_SIZE = 32  # bytes, as QEMU gives them


class Disk(NamedTuple):
    """A raw image; ``mode``: "ro" or "cow"; ``slot``: where it is wanted, see `emu.board.virt`."""

    path: Path
    mode: str = "cow"
    slot: int | None = None


@dataclass(frozen=True)
class BootOptions:
    """What to boot. ``ram_size`` in bytes.

    ``bios``: "python" for the SBI in Python, "none" for a kernel that begins in M-mode, or
    an image. ``append``: the kernel's command line; None leaves a ``dtb``'s own.
    ``initrd_data`` is an initrd that is not a file, ``kernel_data`` the ELF that ``kernel`` was
    compiled to. ``virtio_legacy``: virtio devices of version 1.
    """

    kernel: Path | None = None
    bios: str | Path = BIOS_PYTHON
    initrd: Path | None = None
    initrd_data: bytes | None = None
    kernel_data: bytes | None = None
    disks: Sequence[Disk] = ()
    virtio_legacy: bool = False
    append: str | None = None
    dtb: Path | None = None
    ram_size: int = RAM_SIZE_DEFAULT
    deterministic: bool = False
    seed: int = 0
    hart: HartOptions = field(default_factory=HartOptions)
    output: Callable[[bytes], None] = lambda data: None
    symbols: Path | None = None


def options_of(
    found: Found,
    elf: Elf,
    machine: str,
    ram_size: int,
    hart: HartOptions,
    output: Callable[[bytes], None] = lambda data: None,
) -> BootOptions:
    """How ``elf``, the file that was ``found``, is booted on a BARE or FIRMWARE machine.

    Raises UsageError for a kernel module, which has its own machine.
    """
    if elf.is_module:
        raise UsageError(f"{found.name}: is a kernel module, and a {machine} machine has no kernel")
    return BootOptions(
        kernel=found.path,
        kernel_data=found.compiled,
        bios=BIOS_PYTHON if machine == FIRMWARE else BIOS_NONE,
        ram_size=ram_size,
        hart=hart,
        output=output,
    )


@dataclass
class Booted:
    """A board at its reset, with everything in place."""

    board: VirtBoard
    placement: Placement | None  # None: from a snapshot
    symbols: Symbols
    sbi: Sbi | None = None
    dtb: bytes = field(default=b"", repr=False)
    options: BootOptions = field(default_factory=BootOptions, repr=False)

    @property
    def machine(self) -> str:
        """Who holds which level, see `guest.boot.machines`."""
        return BARE if self.sbi is None else FIRMWARE

    def reset(self) -> None:
        """As the reset button does: `VirtBoard.reset`, and the images in RAM anew.

        They are read from their files again. What else RAM held stays, as on QEMU's board.
        Raises UsageError when a file is not there any more or no longer fits, and for a
        machine from a snapshot, which does not hold the images.
        """
        if self.placement is None:
            raise UsageError("a machine from a snapshot cannot begin anew: it has no images")
        images = _read(self.options)
        self.board.reset()
        if self.sbi is not None:
            self.sbi.reset()
        self.placement, self.dtb = _begin(self.board, self.options, images)
        self.board.hart.access.flush_code()

    def virtio_note(self) -> str | None:
        """What may keep a guest from its disk: the other version of virtio, or another slot."""
        legacy = self.options.virtio_legacy
        version, other, way = (1, 2, "without") if legacy else (2, 1, "with")
        devices = [device for device in self.board.devices if isinstance(device, Virtio)]
        disks = [device for device in devices if isinstance(device, VirtioBlk)]
        if any(device.driven_as_other for device in devices):
            return f"the guest drives virtio as version {other}: try it {way} --virtio-legacy"
        looked = [device for device in devices if device.version_was_read]
        if not disks or not looked or any(disk.was_driven for disk in disks):
            return None
        if not any(disk in looked for disk in disks):
            slot = min(slot_at(device.base) for device in looked)
            return (
                f"the guest has looked for a disk in virtio's slot {slot} and not where it is, in "
                f"{slot_at(disks[0].base)}: try --disk FILE,bus={slot}"
            )
        return (
            f"the guest has looked at virtio's version, {version}, and driven no disk: if it "
            f"wants version {other}, try it {way} --virtio-legacy"
        )

    def parts(self) -> dict[str, snapshot.Part]:
        """What a snapshot keeps beside the board."""
        return {} if self.sbi is None else {"sbi": self.sbi}


@dataclass(frozen=True)
class _Images:
    """What is put into RAM."""

    kernel: KernelImage | None
    firmware: KernelImage | None
    initrd: bytes | None
    blob: bytes | None  # the user's device tree


def _read(options: BootOptions) -> _Images:
    """Raises ValueError (one line for the user), UsageError."""
    size = options.ram_size
    kernel = None
    if options.kernel_data is not None:
        kernel = kernel_image.parse(options.kernel_data, str(options.kernel), size)
    elif options.kernel is not None:
        kernel = kernel_image.load(options.kernel, size)
    firmware = None
    if isinstance(options.bios, Path):
        firmware = kernel_image.load(options.bios, size)
    elif kernel is None:
        raise UsageError("nothing to boot: give a KERNEL, or firmware with --bios FILE")
    initrd = options.initrd_data
    if options.initrd is not None:
        initrd = user_file.read(options.initrd, size)
    blob = None if options.dtb is None else user_file.read(options.dtb, min(size, DTB_SIZE_MAX))
    return _Images(kernel, firmware, initrd, blob)


def prepare(options: BootOptions) -> Booted:
    """Make the board. Raises ValueError (one line for the user), UsageError, NotBuilt."""
    images = _read(options)
    board = _board(options, options.ram_size, options.deterministic)
    try:
        sbi = _hold_m(board, options) if options.bios == BIOS_PYTHON else None
        placed, dtb = _begin(board, options, images)
        symbols = _symbols(options)
        for image, entry in ((images.kernel, placed.kernel_entry), (images.firmware, placed.entry)):
            if image is not None and image.elf is not None and entry is not None:
                symbols.add_source(_names_of(image), _bias(image, entry))
        if options.bios == BIOS_NONE and images.kernel is not None:
            _connect_htif(board, images.kernel, placed.entry)
        return Booted(board, placed, symbols, sbi, dtb, options)
    except BaseException:
        board.close()
        raise


def _bias(image: KernelImage, entry: int) -> int:
    """How far from where it says an image with its entry at ``entry`` (PA) stands."""
    return entry - image.entry - (image.start or 0) if image.is_movable else 0


def _connect_htif(board: VirtBoard, kernel: KernelImage, entry: int) -> None:
    """HTIF's words are symbols of a bare test program that ends by them."""
    if kernel.elf is None:
        return
    bias = _bias(kernel, entry)
    places = {}
    for va, _, name in kernel.elf.names:
        if name in ("tohost", "fromhost"):
            pa = kernel.elf.physical(va)
            places[name] = None if pa is None else pa + bias
    tohost = places.get("tohost")
    if tohost is not None:
        board.set_htif(tohost, places.get("fromhost"))


def _begin(board: VirtBoard, options: BootOptions, images: _Images) -> tuple[Placement, bytes]:
    """Put the images into RAM and the hart where it begins; the device tree that it is given."""
    ram, hart = board.ram, board.hart
    seed = board.random.randbytes(_RNG_SEED_SIZE)
    in_m_mode = options.bios != BIOS_PYTHON

    @cache  # the placement asks for the same tree again
    def tree(where: Initrd | None) -> bytes:
        if images.blob is not None:
            try:
                return devicetree.extend(images.blob, options.append, where, (ram.base, ram.size))
            except devicetree.DeviceTreeError as e:
                raise UsageError(f"{options.dtb}: {e}") from None
        bootargs = options.append or ""
        return devicetree.build(
            *(ram.base, ram.size, bootargs, where, seed),
            m_mode=in_m_mode,
            hart_count=len(board.harts),
            extensions=hart.options.extensions.names,
        )

    offset = 0 if options.bios == BIOS_NONE else KERNEL_OFFSET
    placed = place(ram, images.kernel, images.firmware, images.initrd, tree, offset)
    if not in_m_mode and placed.entry == ram.base and images.kernel and images.kernel.is_fixed:
        # Under real firmware it could not even be loaded.
        raise UsageError(
            f"{images.kernel.path}: begins at {ram.base:#x}, where firmware is: a kernel that "
            "begins in M-mode wants --bios none"
        )
    if in_m_mode:
        info = fw_dynamic_info(placed.kernel_entry or 0)
        board.set_rom(reset_code(), placed.entry, placed.dtb_pa, info)
    else:
        enter_supervisor(hart, placed.entry, hart.hartid, placed.dtb_pa)
    return placed, tree(placed.initrd)


def resume(options: BootOptions, path: Path) -> Booted:
    """The board that the snapshot at ``path`` was taken of, with ``options``'s disks.

    RAM size, clock and who holds M are the snapshot's. RAM that is larger than the host's memory
    must be ``options``'s, too: it may be meant, and it may be a stranger's file. Raises ValueError
    (one line), UsageError.
    """
    from emu.debug.snapshot import snapshot

    found = snapshot.summary(path)
    if found.ram_size > host_memory() and found.ram_size != options.ram_size:
        raise UsageError(
            f"{path}: of a machine with {found.ram_size >> 20}M of RAM, and the host has "
            f"{host_memory() >> 20}M: say --ram {found.ram_size >> 20}M if that is meant"
        )
    board = _board(options, found.ram_size, found.deterministic)
    try:
        sbi = _hold_m(board, options) if Priv.M.value in found.levels else None
        booted = Booted(board, None, _symbols(options), sbi, options=options)
        snapshot.load(board, path, parts=booted.parts())
        return booted
    except BaseException:
        board.close()
        raise


def _board(options: BootOptions, ram_size: int, deterministic: bool) -> VirtBoard:
    disks = [DiskImage(disk.path, disk.mode) for disk in options.disks]
    slots = [disk.slot for disk in options.disks]
    return VirtBoard(
        ram_size, options.output, disks, deterministic, options.seed, options.hart, slots,
        options.virtio_legacy,
    )  # fmt: skip


def _hold_m(board: VirtBoard, options: BootOptions) -> Sbi:
    hart, typed = board.hart, _typed(board)
    sbi = Sbi(hart, board.ram, options.output, typed, board.clock, board.code_changed, board.harts)
    hart.handlers[Priv.M.value] = sbi.handle
    return sbi


def _symbols(options: BootOptions) -> Symbols:
    symbols = Symbols()
    if options.symbols is not None:
        symbols.add(read_system_map(options.symbols))
    return symbols


def _names_of(image: KernelImage) -> Callable[[], Iterable[tuple[int, int, str]]]:
    elf = image.elf
    assert elf is not None
    return lambda: elf.names


def _typed(board: VirtBoard) -> Callable[[], int | None]:
    """The firmware's way to the console's input: it polls the UART as a driver would."""
    uart = board.uart

    def read_byte() -> int | None:
        with board.lock:
            return uart.read(0, 1) if uart.read(5, 1) & 1 else None

    return read_byte
