"""`--load` of files that claim what they like: one line, status 2, and no memory or time for it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from emu.ram import host_memory

Cli = Callable[..., Result]
LOOP = bytes.fromhex("6f000000")  # j .
MIB = 1 << 20
LOOKS = (("tables",), ("walk", "0"), ("what", "80000000"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot of a machine of 16 MiB that did nothing."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "loop").write_bytes(LOOP)
    command = [sys.executable, "-m", "guest.cli", "boot", folder / "loop", "--ram", "16M"]
    more = ["--timeout", "0.1", "--save", folder / "snap"]
    done = subprocess.run([*command, *more], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 124, done.stderr
    return (folder / "snap").read_bytes()


def changed(
    data: bytes, change: Callable[[dict[str, Any]], None], more: bytes = b"", version: int = 3
) -> bytes:
    """The file with another header, its checksum right, and ``more`` in front of the blocks."""
    size = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[20 : 20 + size])
    change(header)
    text = json.dumps(header).encode()
    start = struct.pack("<8sIII", b"pagewalk", version, len(text), zlib.crc32(text))
    return start + text + more + data[20 + size :]


def block(content: bytes) -> bytes:
    stored = zlib.compress(content, 9)
    crc = zlib.crc32(stored, zlib.crc32(len(content).to_bytes(4, "little")))
    return struct.pack("<III", len(content), len(stored), crc) + stored


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert 10 < len(line) < 500
    return line


def test_fields_that_are_wrong(pagewalk: Cli, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad"

    def when(header: dict[str, Any]) -> None:
        header["parts"]["sbi"]["timer"]["when"] = ""

    def odd_pc(header: dict[str, Any]) -> None:
        header["harts"][0]["pc"] |= 1

    def locked_and_more(header: dict[str, Any]) -> None:
        """Taken, a locked PMP entry could not be taken back."""
        header["harts"][0]["pmpcfg"][0] |= 0x80
        header["devices"][-1]["state"]["device_id"] = 1 << 31

    for change, said in (
        (when, "saved when: '' is no number of 64 bits"),
        (odd_pc, "saved pc: no instruction begins at the odd address"),
        (locked_and_more, "saved state of virtio device 2147483648"),
    ):
        path.write_bytes(changed(saved, change))
        line = refused(pagewalk("boot", "--load", path, "--timeout", "60"))
        assert said in line and str(path) in line


def test_a_bomb(saved: bytes, tmp_path: Path) -> None:
    """800 MiB of state in less than a MiB: refused at what the machine can hold.

    In a process that may not have as much memory, and counted in what it had.
    """

    def claim(header: dict[str, Any]) -> None:
        header["data"] = 800 * MIB
        header["rom"] = {"$bytes": [0, 800 * MIB]}

    def more_than_claimed(header: dict[str, Any]) -> None:
        header["data"] = 0

    for change, said in ((claim, "and the machine has"), (more_than_claimed, "corrupt")):
        path = tmp_path / "bomb"
        path.write_bytes(changed(saved, change, 800 * block(bytes(MIB))))
        assert path.stat().st_size < 2 * MIB
        command = [sys.executable, "-c", _WITH_ITS_PEAK, "boot", "--load", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
        assert int(done.stdout) << 10 <= 250 * MIB


# The command line, and on its standard output the most memory that it had, in KiB. What the system
# says of a child (ru_maxrss) is no less than what its parent had.
_WITH_ITS_PEAK = """
import re, sys
from guest.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(re.search("VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1])
"""


def test_ram_that_the_host_has_not(pagewalk: Cli, saved: bytes, tmp_path: Path) -> None:
    """Two pages of a machine of many TiB: only who says that it is meant gets it."""
    size = -(-4 * host_memory() >> 20) << 20
    path = tmp_path / "large"
    path.write_bytes(changed(saved, lambda header: header["ram"].update(size=size)))
    line = refused(pagewalk("boot", "--load", path, "--timeout", "60"))
    assert f"say --ram {size >> 20}M" in line
    meant = pagewalk("boot", "--load", path, "--ram", f"{size >> 20}M", "--timeout", "0.1")
    assert meant.exit_code == 124, meant.output
    other = pagewalk("boot", "--load", path, "--ram", "64M", "--timeout", "60")
    assert "--load goes on from a snapshot" in refused(other)
    for look in LOOKS:  # nothing runs, and nothing is as large as it says
        assert "translation is off" in refused(pagewalk(*look, "--load", path))


def of_one_hart(header: dict[str, Any]) -> None:
    """Version 2: one hart, whose registers alone the CLINT had."""
    [header["hart"]] = header.pop("harts")
    for device in header["devices"]:
        if device["name"] == "clint":
            device["state"] = {name: value for name, [value] in device["state"].items()}


def test_a_snapshot_of_before(pagewalk: Cli, saved: bytes, tmp_path: Path) -> None:
    """Versions 1 and 2 of the format: what was kept then, in a file as it was written then."""

    def as_it_was(header: dict[str, Any]) -> None:
        of_one_hart(header)
        hart = header["hart"]
        for name in ("wires", "written", "menvcfg", "senvcfg", "stimecmp"):
            del hart[name]
        hart |= {"pending": 0, "mscounteren": 0}
        header["devices"] = [d for d in header["devices"] if not d["name"].startswith("pci")]
        for device in header["devices"]:
            state = device["state"]
            if device["name"] == "plic":
                state |= {"lines": 0, "shown": [0, 0]}
            elif device["name"] in ("uart", "rtc"):
                state["line"] = False
            elif device["name"].startswith("virtio"):
                del state["version"], state["legacy_page_shift"]
                for queue in state["queues"]:
                    del queue["legacy"], queue["ring"]
                    queue |= {"ready": False, "seen": 0, "done": 0}
            if "generator" in state:
                state["generator"].append(None)

    path = tmp_path / "old"
    path.write_bytes(changed(saved, as_it_was, version=1))
    result = pagewalk("boot", "--load", path, "--timeout", "0.1")
    assert result.exit_code == 124, result.output
    path.write_bytes(changed(saved, of_one_hart, version=2))
    result = pagewalk("boot", "--load", path, "--timeout", "0.1")
    assert result.exit_code == 124, result.output
    for version in (1, 2):
        path.write_bytes(changed(saved, lambda header: None, version=version))
        assert "not a snapshot's" in refused(pagewalk("boot", "--load", path, "--timeout", "60"))
    path.write_bytes(changed(saved, of_one_hart, version=1))
    assert "not a snapshot's" in refused(pagewalk("boot", "--load", path, "--timeout", "60"))
    path.write_bytes(changed(saved, as_it_was, version=2))
    assert "does not fit" in refused(pagewalk("boot", "--load", path, "--timeout", "60"))
