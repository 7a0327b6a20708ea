"""What is typed to the guests, and what they must answer: sessions for `guest.boot.expect`.

Expected values are computed here by other means (hashlib, zlib, Python's own sorting), or
follow from what the kernel documents of its /proc files (Documentation/filesystems/proc.rst).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from itertools import pairwise

from guest.boot.expect import Check, Step, contains, equals
from guest.distro.initramfs import BANNER, PROMPT

UBOOT_PROMPT = b"\n=> "  # with the line's end before it: crc32 writes `==> `
POWER_DOWN = b"reboot: Power down"

_COLUMNS = 80  # what BusyBox's shell takes a console for: it breaks longer lines in their echo
_SECTOR = 512  # bytes


def _command(text: str, check: Check | None = None) -> Step:
    if len(PROMPT) + len(text) >= _COLUMNS:
        raise ValueError(f"the shell breaks a line that long: {text}")
    return Step(PROMPT, text.encode() + b"\n", check)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def boot_steps() -> list[Step]:
    """From power-on to the shell's prompt, which an empty line calls up once more."""
    return [Step(BANNER), Step(PROMPT, b"\n")]


def session(
    version: str, ram_size: int, disk: bytes | None = None, write: bool = False
) -> list[Step]:
    """Linux with our initramfs, from power-on to power-off.

    ``version``: the kernel's release; ``ram_size``: bytes. ``disk``: what the virtio disk
    holds, None for a machine without one; ``write``: the disk may be written to, and is.
    """
    steps = boot_steps()
    # Only what is fatal may come between a reply's lines.
    steps.append(_command("dmesg -n 1"))
    steps.append(_command("uname -srm", equals(f"Linux {version} riscv64")))
    steps += _files() + _pipes() + _processes() + _modules()
    if disk is not None:
        steps += _disk(disk, write)
    steps += _memory_views(ram_size)
    return [*steps, Step(PROMPT, b"poweroff -f\n"), Step(POWER_DOWN)]


def _files() -> list[Step]:
    numbers = "".join(f"{n}\n" for n in range(1, 1001)).encode()
    zeros = bytes(4 << 20)
    return [
        _command("seq 1 1000 > /tmp/n; wc < /tmp/n", contains(rf"^ *1000 +1000 +{len(numbers)}$")),
        _command("md5sum /tmp/n", equals(f"{_md5(numbers)}  /tmp/n")),
        _command("cp /tmp/n /tmp/m; cmp /tmp/n /tmp/m && echo same", equals("same")),
        _command("echo x >> /tmp/m; cmp -s /tmp/n /tmp/m || echo differ", equals("differ")),
        _command("mkdir -p /tmp/a/b; mv /tmp/m /tmp/a/b/; ls /tmp/a/b", equals("m")),
        _command("ln -s b/m /tmp/a/l; readlink /tmp/a/l; tail -n 1 /tmp/a/l", equals("b/m\nx")),
        _command("rm -r /tmp/a; ls -d /tmp/a || echo gone", contains("No such file", "^gone$")),
        _command(
            "dd if=/dev/zero of=/tmp/z bs=4k count=1024",
            contains(r"^1024\+0 records in$", r"^1024\+0 records out$"),
        ),
        _command("md5sum < /tmp/z", equals(f"{_md5(zeros)}  -")),
        _command(
            "dd if=/tmp/n bs=100 skip=3 count=2 2>/dev/null | md5sum",
            equals(f"{_md5(numbers[300:500])}  -"),
        ),
        _command("rm /tmp/z; df /tmp | tail -n 1", contains(r"^tmpfs +\d+ +\d+ +\d+ +\d+% /tmp$")),
    ]


def _pipes() -> list[Step]:
    numbers = range(1, 2001)
    text = sorted(map(str, numbers))  # of digits only: the same in every locale
    sevens = sum("7" in number for number in text)
    in_order = "".join(f"{number}\n" for number in text).encode()
    return [
        _command("seq 1 2000 | sort -rn | head -n 3", equals("2000\n1999\n1998")),
        _command("seq 1 2000 | sort | md5sum", equals(f"{_md5(in_order)}  -")),
        _command("seq 1 2000 | grep -c 7", equals(str(sevens))),
        _command("yes | head -n 2000 | wc -c", equals("4000")),
        _command("gzip < /tmp/n | gunzip | cmp - /tmp/n && echo same", equals("same")),
        _command("seq 1 100 | awk '{ s += $1 } END { print s }'", equals(str(sum(range(1, 101))))),
        _command(
            "seq 1 99 | while read i; do echo $((i * i)); done | tail -n 1", equals(str(99 * 99))
        ),
    ]


def _processes() -> list[Step]:
    """Exit statuses, job control, and Ctrl-C from the terminal."""
    return [
        _command("sh -c 'exit 7'; echo $?", equals("7")),
        # SIGKILL: the shell ignores SIGTERM, and so does its child for a moment.
        _command("sleep 1000 & kill -9 $!; wait $!; echo $?", contains(r"^137$")),  # 128 + 9
        # A shell that is not interactive does not handle SIGINT. What is typed has no line's
        # end behind the word: this waits for what echo writes.
        _command("sh -c 'echo now; exec sleep 1000'"),
        Step(b"now\r\n", b"\x03"),
        _command("echo $?", equals("130")),  # 128 + SIGINT
    ]


def _modules() -> list[Step]:
    numbers = "".join(f"{n}\n" for n in range(1, 1001)).encode()
    return [
        _command("M=/lib/modules/$(uname -r)"),
        _command("insmod $M/brd.ko rd_nr=1 && echo $?", equals("0")),
        _command("lsmod", contains(r"^brd +\d+ +0\b")),
        _command("dmesg | grep -c 'brd: module loaded'", equals("1")),
        _command("dd if=/tmp/n of=/dev/ram0 2>&1 | head -n 1", equals("7+1 records in")),
        _command(f"head -c {len(numbers)} /dev/ram0 | md5sum", equals(f"{_md5(numbers)}  -")),
        _command("rmmod brd; lsmod | grep -c '^brd '; ls /dev/ram0", contains("^0$", "No such")),
    ]


def _disk(disk: bytes, write: bool) -> list[Step]:
    sectors = len(disk) // _SECTOR
    middle = disk[sectors // 2 * _SECTOR :][:_SECTOR]
    steps = [
        _command("insmod $M/virtio_mmio.ko && echo $?", equals("0")),
        _command("insmod $M/virtio_blk.ko && echo $?", equals("0")),
        _command("cat /sys/block/vda/size", equals(str(sectors))),
        _command("md5sum /dev/vda", equals(f"{_md5(disk)}  /dev/vda")),
        _command("echo 3 > /proc/sys/vm/drop_caches"),
        _command(
            f"dd if=/dev/vda bs=512 skip={sectors // 2} count=1 2>/dev/null | md5sum",
            equals(f"{_md5(middle)}  -"),
        ),
    ]
    if write:
        zeros = bytes(64 << 10)
        after = disk[: 128 << 10] + zeros + disk[(128 << 10) + len(zeros) :]
        steps += [
            _command(
                "dd if=/dev/zero of=/dev/vda bs=64k seek=2 count=1",
                contains(r"^1\+0 records out$"),
            ),
            _command("sync; echo 3 > /proc/sys/vm/drop_caches; echo $?", equals("0")),
            _command("md5sum /dev/vda", equals(f"{_md5(after)}  /dev/vda")),
        ]
    return steps


def _memory_views(ram_size: int) -> list[Step]:
    return [
        _command("cat /proc/buddyinfo", lambda reply: buddyinfo_wrong(reply, ram_size)),
        # 1: addresses as they are, to who has CAP_SYSLOG; 0 shows hashes of them to everyone
        # (Documentation/admin-guide/sysctl/kernel.rst).
        _command("echo 1 > /proc/sys/kernel/kptr_restrict"),
        _command("cat /proc/vmallocinfo", vmallocinfo_wrong),
        _command("cat /proc/iomem", lambda reply: iomem_wrong(reply, ram_size)),
    ]


def buddyinfo_wrong(text: str, ram_size: int) -> str:
    """What is wrong with /proc/buddyinfo of a machine with ``ram_size`` bytes: '' for nothing.

    A line a zone: the number of free blocks of each order from 0.
    """
    free_pages = 0
    for line in text.splitlines():
        match = re.fullmatch(r"Node \d+, zone +(\w+)((?: +\d+)+) *", line)
        if match is None:
            return f"no line of a zone: {line!r}"
        counts = [int(word) for word in match[2].split()]
        if len(counts) != 11:  # MAX_PAGE_ORDER is 10
            return f"{match[1]} has {len(counts)} orders, not 11"
        free_pages += sum(count << order for order, count in enumerate(counts))
    if not ram_size // 4 < free_pages * 4096 < ram_size:
        return f"{free_pages} free pages of {ram_size // 4096}"
    return ""


def vmallocinfo_wrong(text: str) -> str:
    """What is wrong with /proc/vmallocinfo: '' for nothing.

    A line an area: its addresses, which no other area has, its size with the guard page
    (bytes), and who asked for it.
    """
    areas = []
    for line in text.splitlines():
        match = re.match(r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +(\d+) ", line)
        if match is None:
            return f"no line of an area: {line!r}"
        begin, end, size = int(match[1], 16), int(match[2], 16), int(match[3])
        if end - begin != size:
            return f"{line!r}: its size is not {end - begin}"
        areas.append((begin, end))
    areas.sort()
    if len(areas) < 5:
        return f"only {len(areas)} areas"
    for (_, end), (begin, _) in pairwise(areas):
        if begin < end:
            return f"areas overlap at {begin:#x}"
    for word in ("ioremap", "vmalloc", "pages="):
        if word not in text:
            return f"no area with {word!r}"
    return ""


def iomem_wrong(text: str, ram_size: int) -> str:
    """What is wrong with /proc/iomem of a machine with ``ram_size`` bytes: '' for nothing.

    A line a range of physical addresses, indented by two for each level that it lies in.
    """
    above: list[tuple[int, int]] = []
    ram = 0
    for line in text.splitlines():
        match = re.fullmatch(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.+)", line)
        if match is None:
            return f"no line of a range: {line!r}"
        depth, begin, last = len(match[1]) // 2, int(match[2], 16), int(match[3], 16)
        if depth > len(above):
            return f"{line!r} lies in nothing"
        del above[depth:]
        if above and not above[-1][0] <= begin <= last <= above[-1][1]:
            return f"{line!r} is not inside the range above"
        above.append((begin, last))
        if depth == 0 and match[4] in ("System RAM", "Reserved", "reserved"):
            ram += last + 1 - begin
    if not ram_size * 9 // 10 <= ram <= ram_size:
        return f"{ram} bytes of RAM, of {ram_size}"
    for name in ("Kernel code", "Kernel data", "serial"):
        if name not in text:
            return f"no range for {name!r}"
    return ""


def _uboot(text: str, check: Check | None = None) -> Step:
    return Step(UBOOT_PROMPT, text.encode() + b"\n", check)


def uboot_session(ram_size: int, initramfs: bytes, then: list[Step]) -> list[Step]:
    """U-Boot with `guest.distro.boot_disk`'s disk: looks at memory, boots Linux; ``then`` goes on.

    ``initramfs``: the one on the disk. RAM is 256 MiB at least, for U-Boot loads files at
    fixed addresses (its include/configs/qemu-riscv.h).
    """
    if ram_size < 256 << 20:
        raise ValueError("U-Boot's load addresses need 256 MiB of RAM")
    words = 1 << 18
    pattern = bytes.fromhex("efbeadde") * words  # little-endian
    crc = zlib.crc32(pattern)
    return [
        Step(b"Hit any key to stop autoboot", b" "),
        _uboot(
            "bdinfo",
            contains(
                r"DRAM bank += 0x0+$", r"start += 0x0+80000000$", rf"size += 0x0+{ram_size:x}$"
            ),
        ),
        _uboot(f"mw.l 84000000 deadbeef {words:x}"),
        _uboot("md.l 84000000 4", contains("^84000000: deadbeef deadbeef deadbeef deadbeef ")),
        _uboot(f"crc32 84000000 {words * 4:x}", contains(f"==> {crc:08x}$")),
        # Not `cp`: where a board has no CFI flash, this U-Boot takes every address for flash.
        _uboot(f"mw.l 86000000 deadbeef {words:x}"),
        _uboot(
            f"cmp.l 84000000 86000000 {words:x}",
            contains(rf"^Total of {words} word\(s\) were the same$"),
        ),
        _uboot("mw.b 86012345 0"),
        _uboot(
            f"cmp.b 84000000 86000000 {words * 4:x}",
            contains(r"0x0*86012345 \(0x0*0\)", rf"^Total of {0x12345} byte\(s\) were the same$"),
        ),
        *_walking_ones(0x8400_0000),
        _uboot("virtio scan"),
        _uboot("virtio info", contains("Device 0", "VirtIO Block Device")),
        _uboot(
            "ext4ls virtio 0:1 /boot", contains(r"^ *\d+ +linux$", rf"^ *{len(initramfs)} +init")
        ),
        _uboot("ext4load virtio 0:1 ${kernel_addr_r} /boot/linux", contains(r"^\d+ bytes read")),
        _uboot(
            "ext4load virtio 0:1 ${ramdisk_addr_r} /boot/initramfs.cpio",
            contains(rf"^{len(initramfs)} bytes read"),
        ),
        _uboot(
            "crc32 ${ramdisk_addr_r} ${filesize}", contains(f"==> {zlib.crc32(initramfs):08x}$")
        ),
        _uboot("setenv bootargs console=ttyS0"),
        _uboot("booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdtcontroladdr}"),
        Step(b"Starting kernel ..."),
        *then,
    ]


def _walking_ones(address: int) -> list[Step]:
    """Each data line alone, then each address line from 2^3 to 2^24 with a value of its own."""
    writes = [f"mw.q {address + 8 * bit:x} {1 << bit:x}" for bit in range(64)]
    shown = [f"^{address + 8 * bit:x}: {1 << bit:016x} {2 << bit:016x} " for bit in range(0, 64, 2)]
    steps = [_uboot("; ".join(writes[i : i + 8])) for i in range(0, 64, 8)]
    steps.append(_uboot(f"md.q {address:x} 40", contains(*shown)))
    lines = range(3, 25)
    writes = [f"mw.l {address + (1 << line):x} {line:x}" for line in lines]
    steps += [_uboot("; ".join(writes[i : i + 8])) for i in range(0, len(writes), 8)]
    for line in lines:
        at = address + (1 << line)
        steps.append(_uboot(f"md.l {at:x} 1", contains(f"^{at:x}: {line:08x} ")))
    return steps
