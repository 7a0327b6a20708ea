"""Scripts by hand-made output, the checks of the sessions, and the sessions on QEMU."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from distro import RAM_SIZE, boot_disk_or_skip, guests_or_skip, pattern_disk, qemu_or_skip
from hypothesis import given
from hypothesis import strategies as st

from guest.boot.expect import Script, Step, contains, drive, equals
from guest.distro.initramfs import PROMPT, make_initramfs
from guest.distro.sessions import (
    boot_steps,
    buddyinfo_wrong,
    iomem_wrong,
    session,
    uboot_session,
    vmallocinfo_wrong,
)

LOGIN = [(b"login: ", b"root\n"), (b"word: ", b"secret\n"), (b"# ", b"")]


def test_sends_what_the_output_asks_for() -> None:
    script = Script(LOGIN)
    assert script.feed(b"Welcome\r\nlog") == b""
    assert script.feed(b"in: ") == b"root\n"
    assert (script.at, script.done) == (1, False)
    assert script.feed(b"root\r\nPassword: \r\n# ") == b"secret\n"
    assert script.done and script.passed and script.missing() == ""
    assert script.feed(b"more# ") == b""
    assert script.transcript == b"Welcome\r\nlogin: root\r\nPassword: \r\n# more# "
    assert script.received == len(script.transcript)


def test_text_is_used_once() -> None:
    script = Script([(b"aa", b"1"), (b"aa", b"2"), (b"aa", b"3")])
    assert script.feed(b"aaaaa") == b"12"
    assert script.feed(b"a") == b"3"


def test_says_what_it_waits_for() -> None:
    script = Script(LOGIN)
    assert "(no output)" in script.missing()
    script.feed(b"\x1b[1mlogin: \x1b[0mroot\r\n\r\nno such user\r\n")
    assert script.missing().splitlines() == [
        "step 2 of 3 after 'root': waits for 'word: '",
        "  | login: root",
        "  | no such user",
    ]
    for n in range(100):
        script.feed(b"line %d\n" % n)
    assert "line 99" in script.missing() and "line 80" not in script.missing()


def test_checks_see_the_reply_only() -> None:
    seen: list[str] = []

    def look(reply: str) -> str:
        seen.append(reply)
        return "bad" if "3" in reply else ""

    script = Script([Step(b"$ ", b"echo $((1+1))\n", look), Step(b"$ ", b"x", look), Step(b"$ ")])
    script.feed(b"boot\r\n$ \x1b[6necho $((1+1))\r\n2\r\n$ xno line's end, 3$ ")
    assert seen == ["2\n", "xno line's end, 3"]
    assert script.failures == ["'x': bad"]
    assert script.done and not script.passed
    assert script.missing() == "check failed: 'x': bad"


def test_checks_that_come_ready() -> None:
    assert equals("7")("  7\n") == ""
    assert equals("7")("77") == "'77' is not '7'"
    assert contains("^b$", "c")("a\nb\nc") == ""
    assert contains("^b$")("ab\n") == "nothing like '^b$' in 'ab'"
    assert len(equals("x")("y" * 10_000)) < 300


@pytest.mark.parametrize(
    ("steps", "keep"),
    [
        ([], 10),
        ([(b"", b"x")], 10),
        ([(b"longer than", b"")], 10),
        ([Step(b"a", b"", equals(""))], 9),
    ],
)
def test_refuses_steps_that_cannot_work(steps: list[Step], keep: int) -> None:
    with pytest.raises(ValueError):
        Script(steps, keep)


def test_memory_is_bounded() -> None:
    script = Script([Step(b"$ ", b"cat big\n", equals("")), Step(b"$ ")], keep=1000)
    script.feed(b"$ ")
    for _ in range(1000):
        script.feed(b"y" * 999)
        assert len(script._reply) <= 1002
    assert len(script.transcript) == 1000
    assert script.received == 999_002
    script.feed(b"$ ")
    assert script.failures == ["'cat big': more than 1000 bytes"]


@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"\r\n", b"ccccc", b"aab"]), max_size=40),
    st.lists(st.integers(0, 200), max_size=20),
    st.integers(3, 12),
)
def test_pieces_do_not_matter(words: list[bytes], cuts: list[int], keep: int) -> None:
    output = b"".join(words)
    edges = sorted({0, len(output), *(cut for cut in cuts if cut < len(output))})

    def run(pieces: list[bytes]) -> tuple[bytes, int, list[str], bytes]:
        steps = [Step(b"aab", b"1\n", equals("x")), Step(b"ab", b"2", equals("y")), Step(b"b")]
        script = Script(steps, keep)
        sent = b"".join(map(script.feed, pieces))
        return sent, script.at, script.failures, script.transcript

    pieces = [output[a:b] for a, b in pairwise(edges)]
    assert run(pieces) == run([output]) == run([bytes([byte]) for byte in output])


def test_drive_a_process() -> None:
    code = "n = input('a? '); print(int(n) + 1); input('b? '); raise SystemExit(3)"
    script = Script([Step(b"a? ", b"41\n", equals("")), Step(b"42\n"), Step(b"b? ", b"\n")])
    steps: list[int] = []
    status = drive(script, [sys.executable, "-c", code], lambda at, when: steps.append(at))
    assert (status, script.at, steps) == (3, 3, [1, 2, 3])


PRINTS = """
import contextlib
while True:
    with contextlib.suppress(OSError):
        print("yes", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rest", ["import threading; threading.Event().wait()", PRINTS])
def test_drive_gives_up_what_hangs(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    """Also behind its output's end, and what prints without end."""
    monkeypatch.setattr("guest.boot.progress.STILL_LOOKS", 3)
    for before in ("print('up', flush=True)", "import os; os.close(1); os.close(2)"):
        script = Script([(b"never", b"")])
        command = [sys.executable, "-c", f"{before}\n{rest}"]
        assert drive(script, command, cpu_max=1) is None
        assert "waits for 'never'" in script.missing()


BUDDY = "Node 0, zone    DMA32 {} \n"
IOMEM = """\
00101000-00101fff : 101000.rtc rtc@101000
10000000-100000ff : serial
80000000-8007ffff : Reserved
80080000-8fffffff : System RAM
  80202000-8209ffff : Kernel image
    80202000-8131efff : Kernel code
    81800000-81ffffff : Kernel data
"""
VMALLOC = """\
0xffffffc600000000-0xffffffc600005000   20480 start_kernel+0x5fc/0x97e pages=4 vmalloc N0=4
0xffffffc600005000-0xffffffc600007000    8192 ioremap_prot+0x58/0xb0 phys=0x10001000 ioremap
0xffffffc600008000-0xffffffc60000d000   20480 dup_task_struct+0x48/0x1aa pages=4 vmalloc N0=4
0xffffffc600010000-0xffffffc600015000   20480 dup_task_struct+0x48/0x1aa pages=4 vmalloc N0=4
0xffffffc600020000-0xffffffc600025000   20480 dup_task_struct+0x48/0x1aa pages=4 vmalloc N0=4
"""


def test_buddyinfo_check() -> None:
    # 50 blocks of order 10 are 51200 pages, of 65536
    assert buddyinfo_wrong(BUDDY.format("0 " * 10 + "50"), RAM_SIZE) == ""
    assert "not 11" in buddyinfo_wrong(BUDDY.format("0 " * 9 + "50"), RAM_SIZE)
    assert "free pages" in buddyinfo_wrong(BUDDY.format("0 " * 10 + "64"), RAM_SIZE)
    assert "free pages" in buddyinfo_wrong("", RAM_SIZE)
    assert "no line" in buddyinfo_wrong("cat: no such file", RAM_SIZE)


def test_vmallocinfo_check() -> None:
    assert vmallocinfo_wrong(VMALLOC) == ""
    assert "size" in vmallocinfo_wrong(VMALLOC.replace(" 8192", " 4096"))
    moved = VMALLOC.replace(
        "0xffffffc600005000-0xffffffc600007000", "0xffffffc600004000-0xffffffc600006000"
    )
    assert "overlap" in vmallocinfo_wrong(moved)
    assert "only 4" in vmallocinfo_wrong(VMALLOC[: VMALLOC.index("0xffffffc600020000")])
    assert "ioremap" in vmallocinfo_wrong(VMALLOC.replace("ioremap", "vmap"))
    assert "no line" in vmallocinfo_wrong(VMALLOC + "oops\n")


def test_iomem_check() -> None:
    assert iomem_wrong(IOMEM, RAM_SIZE) == ""
    assert "bytes of RAM" in iomem_wrong(IOMEM, RAM_SIZE // 2)
    assert "bytes of RAM" in iomem_wrong(IOMEM, RAM_SIZE * 2)
    assert "not inside" in iomem_wrong(IOMEM.replace("81ffffff", "82ffffff"), RAM_SIZE)
    assert "lies in nothing" in iomem_wrong("  " + IOMEM, RAM_SIZE)
    assert "Kernel data" in iomem_wrong(IOMEM[: IOMEM.index("    818")], RAM_SIZE)
    assert "no line" in iomem_wrong("cat: no such file", RAM_SIZE)


def test_sessions_are_possible_scripts() -> None:
    steps = session("6.1", RAM_SIZE, b"disk" * 1024, write=True)
    Script(uboot_session(RAM_SIZE, b"initramfs", steps))
    # A shell's reply can be checked only if no other text ends it: the prompt is the last.
    assert all(step.wait_for.endswith(PROMPT) for step in steps if step.check)
    with pytest.raises(ValueError, match="256 MiB"):
        uboot_session(128 << 20, b"", [])


@pytest.mark.slow
def test_linux_session_on_qemu(tmp_path: Path) -> None:
    guests = guests_or_skip()
    disk = pattern_disk(tmp_path / "disk")
    script = Script(session(guests.version, RAM_SIZE, disk, write=True))
    command = qemu_or_skip(guests.kernel, initrd=guests.initramfs, disk=tmp_path / "disk")
    assert drive(script, command) == 0, script.missing()
    assert script.passed, script.missing()


@pytest.mark.slow
def test_uboot_session_on_qemu(tmp_path: Path) -> None:
    guests = guests_or_skip()
    disk = boot_disk_or_skip(tmp_path / "disk")
    linux = session(guests.version, RAM_SIZE, disk.read_bytes())
    script = Script(uboot_session(RAM_SIZE, make_initramfs(guests), linux))
    command = qemu_or_skip(guests.uboot, disk=disk)
    assert drive(script, command) == 0, script.missing()
    assert script.passed, script.missing()


@pytest.mark.slow
def test_uboot_boots_by_itself_on_qemu(tmp_path: Path) -> None:
    guests = guests_or_skip()
    disk = boot_disk_or_skip(tmp_path / "disk")
    script = Script([*boot_steps(), (PROMPT, b"exit\n"), (b"reboot: Power down", b"")])
    command = qemu_or_skip(guests.uboot, disk=disk)
    assert drive(script, command) == 0, script.missing()
    assert script.passed, script.missing()
