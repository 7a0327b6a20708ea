"""The distribution's gdb on what `pagewalk boot` boots: our tiny kernel, and Linux."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from distro import guests_or_skip
from test_boot_distro import linux, machine

from emu.debug.gdb.server import GdbServer
from emu.stop import Stop, StopReason
from guest import build
from guest.boot.expect import Script, Step
from guest.distro.initramfs import PROMPT
from guest.distro.sessions import boot_steps

GDB = shutil.which("gdb-multiarch")
pytestmark = pytest.mark.skipif(GDB is None, reason="needs gdb-multiarch")


def gdb(script: Path, text: str, *arguments: str) -> str:
    script.write_text("set pagination off\nset confirm off\n" + text)
    command = [str(GDB), "-q", "-nx", "-batch", *arguments, "-x", str(script)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_tiny_kernel_at_source_level(tmp_path: Path) -> None:
    """`pagewalk boot tiny --gdb 0` as its user types it."""
    elf = build.BUILT / "supervisor" / "tiny.elf"
    sources = Path(build.__file__).parent / "supervisor" / "tiny"
    command = [sys.executable, "-m", "guest.cli", "boot", "tiny", "--gdb", "0"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as pagewalk:
        assert pagewalk.stderr is not None and pagewalk.stdout is not None
        told = pagewalk.stderr.readline()
        found = re.search(r"waiting for gdb on 127\.0\.0\.1:(\d+)", told)
        assert found, told
        text = gdb(
            tmp_path / "script",
            f"target remote :{found[1]}\n"
            "hbreak user_start\ncontinue\nprint number\ndelete\n"
            "break vm_destroy\ncontinue\nbacktrace\nfinish\nprint current->number\n"
            "list schedule\ndelete\nstepi\nmonitor walk 1000000000\nmonitor tables\ndetach\n",
            *("-d", str(sources), str(elf)),
        )
        console, rest = pagewalk.communicate()
    assert "user_start (number=0) at ./user.c" in text, text
    assert re.search(r"#1 .* in task_end \(state=2\) at ./task.c:\d+", text), text
    assert re.search(r"#4 .* in trap_entry \(\) at ./entry.S:\d+", text), text
    assert "struct frame *schedule(void)" in text, text  # the source was found
    assert re.search(r"VA 0x1000000000 in sv39: vpn\[2\]=0x40 ", text), text
    assert "0000000080200000" in text, text
    # It was let go, and ran to its end.
    assert pagewalk.returncode == 0, rest
    assert "tiny: task 0 exits with 0" in console and "tiny: 61 pages free" in console


@pytest.mark.slow
def test_linux_by_the_addresses_of_its_symbols(tmp_path: Path) -> None:
    """/proc/kallsyms is the running kernel's System.map: break there, walk, go on."""
    guests = guests_or_skip()
    wanted = "__riscv_sys_getpid"
    # The second half of the script runs under gdb.
    script = Script(
        [
            *boot_steps(),
            Step(PROMPT, b"echo 0 > /proc/sys/kernel/kptr_restrict\n"),
            Step(PROMPT, f"grep ' {wanted}$' /proc/kallsyms\n".encode()),
            Step(PROMPT),
            Step(b"there was a call", b"echo over\n"),
            Step(PROMPT),
        ]
    )
    with machine(script, linux(guests)) as run:
        board = run.booted.board

        ends = [5, len(script.steps)]  # at the shell's prompt, and when all is over

        def type_to(data: bytes) -> None:
            run.console.extend(data)
            board.uart.receive(script.feed(data))
            if script.at in ends:
                ends.remove(script.at)
                board.hart.end(Stop(StopReason.LIMIT))

        run.output[0] = type_to
        board.run()
        found = re.search(rb"([0-9a-f]{16}) . " + wanted.encode(), bytes(run.console))
        assert found, run.console[-500:]
        address = found[1].decode()

        server = GdbServer(board)
        # A shell is asked for its number by a child that is born now.
        board.uart.receive(b"sh -c 'echo there was a call'\n")
        told: list[str] = []
        thread = threading.Thread(
            target=lambda: told.append(
                gdb(
                    tmp_path / "script",
                    f"target remote :{server.port}\n"
                    f"hbreak *0x{address}\ncontinue\nprint/x $pc\nprint/x $satp\nprint $priv\n"
                    f"x/2i $pc\nmonitor walk {address}\nprint/x *(int *)$pc\n"
                    "stepi\nprint/x $pc\ndelete\ndetach\n",
                )
            )
        )
        thread.start()
        stop = server.serve()
        thread.join()
    text = told[0]
    assert f"$1 = 0x{address}" in text, text
    assert re.search(r"\$2 = 0xa[0-9a-f]{15}", text), text  # Sv57
    assert f"VA 0x{address} in sv57" in text, text
    assert "r-x" in text and "$5 = " in text, text
    assert stop.reason is StopReason.LIMIT, stop
    assert script.done, script.missing()
