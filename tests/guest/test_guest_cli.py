"""The command line, as careful and as careless users type it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from elf_kit import EXIT_7, LOOP, Load, R, X, make
from guest_kit import compiled
from progress import wait_until_it_has_run, wait_until_it_waits

from guest import build
from guest.image.shipped import shipped

Cli = Callable[..., Result]
MODES = ["sv39", "sv48", "sv57"]
GUESTS = {
    "fault": "programs",
    "hello": "programs",
    "insmod": "programs",
    "touch": "programs",
    "buddy": "modules",
    "fast_path": "modules",
    "fault_module": "modules",
    "gfp_flags": "modules",
    "hello_module": "modules",
    "highmem": "modules",
    "kmalloc_sizes": "modules",
    "lists": "modules",
    "overflow": "modules",
    "page_struct": "modules",
    "page_walk": "modules",
    "slab_cache": "modules",
    "slub_freelist": "modules",
    "tlb": "modules",
    "use_after_free": "modules",
    "vmalloc_area": "modules",
    "vmas": "modules",
    "zones": "modules",
    "uart_hello": "bare",
    "sbi_hello": "supervisor",
    "small": "supervisor",
    "tiny": "supervisor",
}


def bare(text: str) -> Path:
    """A bare guest in assembly; its code starts at 0x80000000."""
    return compiled(build.BARE, f'.section .text.start, "ax"\n.globl _start\n_start:\n{text}', ".S")


def refused(result: Result) -> str:
    """The one line that was said about bad input."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    return line


# run


@pytest.mark.parametrize("paging", MODES)
def test_run_shipped_guests(pagewalk: Cli, paging: str) -> None:
    for name in ("hello", "touch", "hello_module", "page_struct"):
        result = pagewalk("run", "--paging", paging, name)
        assert (result.exit_code, result.stderr) == (0, ""), name
        assert result.stdout


def test_run_gives_arguments_to_the_program(pagewalk: Cli) -> None:
    result = pagewalk("run", "hello", "a b", "--", "--json", "-x")
    assert result.stdout.splitlines()[1:] == ["argv[1] = a b", "argv[2] = --json", "argv[3] = -x"]


def test_run_gives_arguments_to_the_module(pagewalk: Cli) -> None:
    result = pagewalk("run", "fault_module", "no", "such", "way")
    assert result.exit_code == 22  # EINVAL
    assert "fault_module: usage: user|null|" in result.stdout


def test_run_with_an_argument_that_is_no_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guest.cli", "run", "hello", b"\xff\xfe"], capture_output=True
    )
    assert done.returncode == 0
    assert b"argv[1] = \xff\xfe\n" in done.stdout


@pytest.mark.parametrize("paging", MODES)
def test_the_demo(pagewalk: Cli, paging: str) -> None:
    result = pagewalk("run", "--paging", paging)
    assert result.exit_code == 0
    text = result.stdout
    assert f"{paging}: " in text or f"switched {paging} on" in text
    for part in (
        "64 MiB of RAM", "page_struct: as Python wrote it", "Hello from U-mode",
        "hello: exit status 0", "level 0: PTE", "r-xu-ad", "mm.check: clean",
    ):  # fmt: skip
        assert part in text, part
    assert "refused" not in text
    again = pagewalk("run", "--paging", paging, "--json")
    story = json.loads(again.stdout)
    assert (story["program"], story["machine"], story["reason"]) == (None, "kernel", "exit")
    assert (story["program"], story["machine"], story["exit"]) == (None, "kernel", 0)
    assert story["console"].startswith("Hello from U-mode")
    assert any(line.startswith("mm.check: clean") for line in story["log"])


def test_run_json(pagewalk: Cli) -> None:
    story = json.loads(pagewalk("run", "hello", "x", "--json").stdout)
    assert story["program"] == "hello"
    assert (story["machine"], story["exit"], story["reason"]) == ("kernel", 0, "exit")
    assert story["console"].splitlines()[1] == "argv[1] = x"
    assert story["fault"] is None and story["notes"] == []
    result = pagewalk("run", "--json", "fault", "null")
    story = json.loads(result.stdout)
    assert result.exit_code == story["exit"] == 139
    assert result.stderr == ""
    fault = story["fault"]
    assert set(fault) == {"cause", "text", "epc", "tval", "from", "to", "explanation"}
    assert (fault["cause"], fault["tval"], fault["from"], fault["to"]) == (13, "0x0", "U", "S")
    assert any(line.endswith("the PTE is not valid (V=0)") for line in fault["explanation"])
    story = json.loads(pagewalk("run", "hello_module", "--json").stdout)
    assert story["log"][-1] == "hello_module: goodbye"


def test_verbose_shows_the_boot_log(pagewalk: Cli) -> None:
    quiet, loud = pagewalk("run", "hello"), pagewalk("run", "-v", "hello")
    assert "Zone ranges" not in quiet.stdout
    assert "Zone ranges" in loud.stdout and "Hello" in loud.stdout


@pytest.mark.parametrize("access", ["inside", "public"])
def test_run_on_both_ways_to_the_hart(pagewalk: Cli, access: str) -> None:
    for name in ("hello", "uart_hello", "sbi_hello", "page_struct"):
        result = pagewalk("run", "--hart", access, name)
        assert result.exit_code == 0, name
        assert ("public interface" in result.stderr) == (access == "public")


# exit statuses

FINISHER = "li t0, 0x100000\nli t1, {}\nsw t1, 0(t0)\n1: j 1b\n"
TOHOST = """
    la t0, tohost
    li t1, {}
    sd t1, 0(t0)
1:  j 1b
    .section .tohost, "aw"
    .balign 64
    .globl tohost
tohost: .dword 0
    .globl fromhost
fromhost: .dword 0
"""


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (FINISHER.format("0x5555"), 0),
        (FINISHER.format("0x2a3333"), 42),
        (FINISHER.format("0x3333"), 1),
        (FINISHER.format("0x7777"), 0),
        (TOHOST.format(1), 0),
        (TOHOST.format(7 << 1 | 1), 7),
        ("wfi\n", 124),
        ("csrw mie, x0\n1: wfi\nj 1b\n", 124),
        (".word 0xffffffff\n", 132),
        ("ebreak\n", 133),
        ("lw a0, 0(zero)\n", 139),
        ("li t0, 0x40000000\njr t0\n", 139),
    ],
)
def test_exit_status_of_bare_guests(pagewalk: Cli, text: str, status: int) -> None:
    result = pagewalk("run", bare(text))
    assert result.exit_code == status, result.output
    if status == 124:
        assert "the hart waits (wfi) for an interrupt that nothing can raise" in result.stderr
    elif status > 127:
        assert re.search("in M-mode at 0x[84]000000", result.stderr)
        assert "no trap handler" in result.stderr
        assert re.search("=> 0x[84]000000", result.stderr)


@pytest.mark.parametrize(
    ("way", "status"),
    [("null", 139), ("write", 139), ("guard", 139), ("illegal", 132), ("breakpoint", 133)],
)
def test_exit_status_of_faults(pagewalk: Cli, way: str, status: int) -> None:
    result = pagewalk("run", "fault", way)
    assert (result.exit_code, result.stdout) == (status, "")
    first, *lines = result.stderr.splitlines()
    if way == "guard":
        assert first.startswith("pagewalk: stack overflow: ")
        first = lines.pop(0)
    last = lines[-1]
    assert re.match(r"pagewalk: [\w/ ]+ in U-mode at 0x1\w+ <\w+", first)
    if status == 139:
        assert "vm_area_struct" in last
    assert last.strip()


def test_exit_status_of_a_program_is_a_byte(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "seven"
    path.write_bytes(make([Load(0x10000, EXIT_7, R | X)], 0x10000))
    assert pagewalk("run", path).exit_code == 7
    assert pagewalk("run", "fault").exit_code == 2


def test_a_module_that_faults(pagewalk: Cli) -> None:
    result = pagewalk("run", "fault_module", "null")
    assert result.exit_code == 139
    lines = result.stderr.splitlines()
    assert re.match(
        r"pagewalk: load page fault in S-mode at 0xffffffff0000\w+ <fault_init", lines[0]
    )
    assert lines[-2].startswith("Unable to handle kernel NULL pointer dereference")
    # Modules run in the address space of insmod, as on Linux.
    assert re.fullmatch(r"no vm_area_struct holds 0x0; the next .* insmod", lines[-1])


# traces


def test_trace_trap(pagewalk: Cli) -> None:
    result = pagewalk("run", "--trace", "trap", "hello")
    assert result.exit_code == 0
    assert result.stdout.startswith("Hello")
    lines = result.stderr.splitlines()
    assert all(line.startswith("trap ") for line in lines)
    assert sum("trap S->M environment call from S-mode" in line for line in lines) == 2
    assert "trap S->S instruction page fault" in "\n".join(lines)  # translation goes on
    assert lines[-1].startswith("trap U->S environment call from U-mode epc=0x1")
    assert "<exit" in lines[-1] or "<user_main" in lines[-1] or "<system_call" in lines[-1]


def test_trace_insn(pagewalk: Cli) -> None:
    result = pagewalk("run", "--trace", "insn", "uart_hello")
    assert (result.exit_code, result.stdout) == (0, "Hello from M-mode\n")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("M 0x1000: f1402573")  # csrr a0, mhartid
    assert any(line.startswith("M 0x80000000: ") and "_start" in line for line in lines)


@pytest.mark.parametrize("paging", MODES)
def test_trace_mmu(pagewalk: Cli, paging: str) -> None:
    result = pagewalk("run", "--trace", "mmu", "--paging", paging, "hello")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert all(line.startswith("mmu ") for line in lines)
    levels = int(paging[2:]) // 9 - 1
    [fetch] = [x for x in lines if re.match(r"mmu U execute 0x10000: ", x)]
    assert fetch.count("L") == levels and fetch.endswith("r-xu-ad")
    assert sum(line.startswith("mmu satp=") for line in lines) >= 2


# RAM


@pytest.mark.parametrize("size", ["8M", "0x800000", "64M", "1G", "1GiB", "64g", "8192K"])
def test_ram_sizes(pagewalk: Cli, size: str) -> None:
    result = pagewalk("run", "--ram", size, "hello")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("garbage", "'garbage' is no size"),
        ("", "'' is no size"),
        ("1.5G", "'1.5G' is no size"),
        ("-1", "'-1' is no size"),
        ("-4K", "'-4K' is no size"),
        ("1P", "'1P' is no size: give bytes, or a number with K, M, G or T"),
        ("0", "give at least one page, 4K"),
        ("0K", "give at least one page, 4K"),
        ("5000", "'5000' is not a whole number of 4 KiB pages"),
        ("999999T", "'999999T' is more than 1 PiB"),
        ("4K", "the kernel needs at least 8 MiB"),
        ("4M", "the kernel needs at least 8 MiB"),
        ("256G", "256 GiB of RAM do not fit the 128 GiB direct map of sv39: use sv48"),
        ("1024T", "the host cannot map"),
    ],
)
def test_ram_sizes_that_cannot_be(pagewalk: Cli, size: str, said: str) -> None:
    for command in ("run", "tables", "check"):
        assert said in refused(pagewalk(command, "--ram", size, "hello"))


def test_much_ram_in_sv48(pagewalk: Cli) -> None:
    assert pagewalk("run", "--ram", "256G", "--paging", "sv48", "hello").exit_code == 0


def test_little_ram_for_bare_guests(pagewalk: Cli) -> None:
    # uart_hello has code, data and a 64 KiB stack.
    assert pagewalk("run", "--ram", "128K", "uart_hello").exit_code == 0
    path = bare(
        "la t0, far\nlw t0, 0(t0)\n" + FINISHER.format("0x5555") + ".bss\n.zero 1<<20\nfar: .word 0"
    )
    assert "outside of the RAM it may use" in refused(pagewalk("run", "--ram", "128K", path))


# machines


@pytest.mark.parametrize(
    ("machine", "name", "said"),
    [
        ("bare", "hello", "is outside of the RAM it may use"),
        ("bare", "hello_module", "is a kernel module, and a bare machine has no kernel"),
        ("firmware", "hello", "is outside of the RAM it may use"),
        ("firmware", "hello_module", "is a kernel module, and a firmware machine has no kernel"),
        ("firmware", "uart_hello", "begins at 0x80000000, where firmware is"),
    ],
)
def test_guests_on_the_wrong_machine(pagewalk: Cli, machine: str, name: str, said: str) -> None:
    line = refused(pagewalk("run", "--machine", machine, name))
    assert said in line


def test_a_bare_guest_as_a_program(pagewalk: Cli) -> None:
    """User space has room for it; what it may not do in U-mode is said as a fault."""
    result = pagewalk("run", "--machine", "kernel", "uart_hello")
    assert result.exit_code == 132
    assert result.stderr.startswith("pagewalk: illegal instruction in U-mode at 0x800000")
    assert "csrrs zero, mstatus, t0" in result.stderr or "csrs mstatus, t0" in result.stderr


def test_what_only_one_machine_has(pagewalk: Cli) -> None:
    line = refused(pagewalk("run", "--machine", "bare"))
    assert line == "pagewalk: the demo runs on the kernel machine, not on bare"
    line = refused(pagewalk("run", "uart_hello", "a", "b"))
    assert line == "pagewalk: a bare guest takes no arguments: a b"
    line = refused(pagewalk("tables", "--machine", "firmware"))
    assert line == "pagewalk: a firmware machine has no tables before it runs a program"
    line = refused(pagewalk("check", "uart_hello"))
    assert line == "pagewalk: uart_hello: not a guest of the kernel machine; nothing to check"
    line = refused(pagewalk("tables", "uart_hello"))
    assert "uart_hello: translation is off (satp=0) where it ended: 0x8000" in line


# source files

C_PROGRAM = '#include <pagewalk/user.h>\nint main(void) { puts("compiled"); return 3; }\n'
C_MODULE = """#include <pagewalk/module.h>
static int start(void) { printk("module compiled\\n"); return 0; }
static void end(void) { printk("unloaded\\n"); }
module_init(start);
module_exit(end);
"""
C_BARE = "int main(void) { *(volatile char *)0x10000000 = '!'; return 4; }\n"
C_FIRMWARE = '#include <pagewalk/sbi.h>\nint main(void) { printf("over SBI\\n"); return 0; }\n'
ASM = ".globl _start\n_start: li a7, 93\nli a0, 5\necall\n"


@pytest.mark.parametrize(
    ("name", "text", "options", "status", "printed"),
    [
        ("program.c", C_PROGRAM, (), 3, "compiled\n"),
        ("module.c", C_MODULE, (), 0, "unloaded\n"),
        ("bare.c", C_BARE, ("--machine", "bare"), 4, "!"),
        ("firm ware.c", C_FIRMWARE, ("--machine", "firmware"), 0, "over SBI\n"),
        ("asm.S", ASM, (), 5, ""),
    ],
)
def test_run_a_source_file(
    pagewalk: Cli, tmp_path: Path, name: str, text: str, options: tuple[str, ...], status: int,
    printed: str,
) -> None:  # fmt: skip
    path = tmp_path / name
    path.write_text(text)
    result = pagewalk("run", *options, path)
    assert result.exit_code == status, result.output
    assert result.stdout.endswith(printed)
    assert result.stderr == ""


def test_a_compilers_errors_are_shown(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "wrong.c"
    path.write_text("int main(void) { return undeclared; }\n")
    result = pagewalk("run", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"pagewalk: {path}:1:25: error: ")
    assert "use of undeclared identifier 'undeclared'" in result.stderr
    path.write_text("void helper(void) {}\n")
    result = pagewalk("run", path)
    assert result.exit_code == 2
    assert "undefined symbol: main" in result.stderr


def test_without_a_compiler(pagewalk: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "have_compiler", lambda: False)
    path = tmp_path / "program.c"
    path.write_text(C_PROGRAM)
    line = refused(pagewalk("run", path))
    assert line.endswith(
        "compiling needs ziglang, which is not installed: pip install 'pagewalk[compile]'"
    )
    assert pagewalk("run", "hello").exit_code == 0


def test_names_that_are_not_there(pagewalk: Cli, tmp_path: Path) -> None:
    assert refused(pagewalk("run", "helo")) == (
        "pagewalk: helo: no such file, and no guest of that name; did you mean hello? "
        "(pagewalk list)"
    )
    assert refused(pagewalk("run", "xyzzy")) == (
        "pagewalk: xyzzy: no such file, and no guest of that name (pagewalk list)"
    )
    assert refused(pagewalk("run", tmp_path / "nope.c")).endswith("nope.c: no such file")
    (tmp_path / "folder.c").mkdir()
    assert "folder.c: is a directory" in refused(pagewalk("run", tmp_path / "folder.c"))


def test_a_folder_does_not_hide_a_guest(
    pagewalk: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello").mkdir()
    assert pagewalk("run", "hello").exit_code == 0
    (tmp_path / "touch").write_bytes(make([Load(0x10000, EXIT_7, R | X)], 0x10000))
    assert pagewalk("run", "touch").exit_code == 7  # but a file of that name is meant


def test_guests_that_were_not_built(
    pagewalk: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    monkeypatch.setattr("guest.kernel.system.BUILT", tmp_path / "built")
    monkeypatch.setattr("firmware.images._BUILT", tmp_path / "built")
    for command in (("run", "hello"), ("run", "hello", "--json"), ("list",), ("check",)):
        assert "python -m guest.build" in refused(pagewalk(*command))


# walk


@pytest.mark.parametrize("paging", MODES)
def test_walk(pagewalk: Cli, paging: str) -> None:
    result = pagewalk("walk", "--paging", paging, "0x1_0000", "hello", "--for", "execute")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "execute in U-mode"
    assert lines[-1].startswith("PA 0x8") and lines[-1].endswith("a 4 KiB page, r-xu-ad")
    levels = int(paging[2:]) // 9 - 1
    assert [line.split(":")[0] for line in lines[3:-1]] == [
        f"  level {n}" for n in reversed(range(levels))
    ]
    result = pagewalk("walk", "--paging", paging, "10000", "hello", "--for", "write")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == (
        "refused at level 0: the PTE does not allow writing (W=0)"
    )


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("10000", "hello", "--supervisor"), "USER_PAGE_NO_SUM"),
        (("10000", "hello", "--supervisor", "--sum", "--for", "execute"), "USER_PAGE_EXECUTE"),
        (("ffffffff80000000", "hello", "--user"), "USER_PAGE_NOT_USER"),
        (("ffffffff80000000", "--for", "write"), "NOT_WRITABLE"),
        (("ffffffff80000000", "--for", "execute"), "NOT_EXECUTABLE"),
        (("8000000000000000",), "NON_CANONICAL"),
        (("0",), "NOT_VALID"),
    ],
)
def test_walk_names_the_rule(pagewalk: Cli, arguments: tuple[str, ...], rule: str) -> None:
    result = pagewalk("walk", "--json", *arguments)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert set(found) == {
        "va", "mode", "access", "privilege", "steps", "refused", "level", "cause"
    }  # fmt: skip
    assert found["refused"] == rule


def test_walk_json(pagewalk: Cli) -> None:
    found = json.loads(pagewalk("walk", "--json", "ffffffff80001000").stdout)
    assert set(found) == {
        "va", "mode", "access", "privilege", "steps", "pa", "level", "page"
    }  # fmt: skip
    assert (found["va"], found["pa"], found["page"]) == (
        "0xffffffff80001000", "0x80201000", 4096
    )  # fmt: skip
    assert [set(step) for step in found["steps"]] == [{"level", "index", "pte_pa", "pte"}] * 3
    assert [step["level"] for step in found["steps"]] == [2, 1, 0]


def test_the_addresses_of_the_help_can_be_walked(pagewalk: Cli) -> None:
    [address] = re.findall(r"pagewalk walk (\w+)", pagewalk("--help").stdout)
    assert pagewalk("walk", address).exit_code == 0


@pytest.mark.parametrize("va", ["zz", "", "0x", "1" * 17, "-1", "10000 "])
def test_walk_of_no_address(pagewalk: Cli, va: str) -> None:
    result = pagewalk("walk", "--", va)
    if va == "10000 ":
        assert result.exit_code == 1
    else:
        assert "Invalid value for 'VA'" in refused(result)


# tables


def test_tables_have_the_columns_of_qemu(pagewalk: Cli) -> None:
    lines = pagewalk("tables", "hello").stdout.splitlines()
    # QEMU target/riscv/monitor.c, print_pte_header
    assert lines[:2] == [
        "vaddr            paddr            size             attr",
        "---------------- ---------------- ---------------- -------",
    ]
    row = re.compile(r"[0-9a-f]{16} [0-9a-f]{16} [0-9a-f]{16} [r-][w-][x-][u-][g-][a-][d-]")
    assert all(row.fullmatch(line) for line in lines[2:])
    assert lines[2].startswith("0000000000010000 ") and lines[2].endswith(" r-xu-ad")
    assert lines[-1] == "ffffffff80001000 0000000080201000 0000000000001000 r-x-gad"
    starts = [int(line[:16], 16) for line in lines[2:]]
    assert starts == sorted(starts)


@pytest.mark.parametrize("paging", MODES)
def test_tables_json_and_tree(pagewalk: Cli, paging: str) -> None:
    ranges = json.loads(pagewalk("tables", "--json", "--paging", paging).stdout)
    assert all(set(r) == {"va", "pa", "size", "attr"} for r in ranges)
    assert ranges[-1] == {
        "va": "0xffffffff80001000", "pa": "0x80201000", "size": 4096, "attr": "r-x-gad"
    }  # fmt: skip
    entries = json.loads(pagewalk("tables", "--json", "--tree", "--paging", paging).stdout)
    assert all(set(e) == {"level", "index", "va", "pte"} for e in entries)
    assert max(e["level"] for e in entries) == int(paging[2:]) // 9 - 2
    tree = pagewalk("tables", "--tree", "--paging", paging).stdout.splitlines()
    assert tree[0].startswith(f"{paging} root table at PA 0x80")
    assert tree[-1].endswith("0xffffffff80001000 4 KiB at PA 0x80201000 r-x-gad")


def test_tables_of_a_module(pagewalk: Cli) -> None:
    attributes = [
        r["attr"]
        for r in json.loads(pagewalk("tables", "--json", "hello_module").stdout)
        if r["va"].startswith("0xffffffff0000")
    ]
    assert attributes == ["r-x-gad", "r---gad", "rw--gad"]


# A bare guest with Sv39 tables of its own: the first 4 GiB as gigapages, and one 4 KiB page.
OWN_TABLES = (
    """
    la t0, root
    li t1, 0x20000000 | 0xcf        # RAM: PA 0x80000000, V R W X A D
    sd t1, 16(t0)
    la t2, middle
    srli t1, t2, 2
    ori t1, t1, 1
    sd t1, 0(t0)                    # [0]: a table ...
    la t3, last
    srli t1, t3, 2
    ori t1, t1, 1
    sd t1, 0(t2)
    li t1, 0x20000000 | 0xdb        # ... with PA 0x80000000, U, read and execute, at 0x5000
    sd t1, 40(t3)
    srli t1, t0, 12
    li t2, 8
    slli t2, t2, 60
    or t1, t1, t2
    csrw satp, t1
    sfence.vma
"""
    + FINISHER.format("0x5555")
    + """
    .bss
    .balign 4096
root: .zero 4096
middle: .zero 4096
last: .zero 4096
"""
)


def test_tables_of_a_bare_guest_that_built_its_own(pagewalk: Cli) -> None:
    path = bare(OWN_TABLES)
    lines = pagewalk("tables", path).stdout.splitlines()[2:]
    assert lines == [
        "0000000000005000 0000000080000000 0000000000001000 r-xu-ad",
        "0000000080000000 0000000080000000 0000000040000000 rwx--ad",
    ]
    result = pagewalk("walk", "5008", path)
    assert result.exit_code == 0
    assert "PA 0x80000008, a 4 KiB page, r-xu-ad" in result.stdout
    result = pagewalk("walk", "5008", path, "--for", "write")
    assert result.exit_code == 1
    assert "refused at level 0: the PTE does not allow writing (W=0)" in result.stdout
    result = pagewalk("walk", "80001234", path, "--supervisor")
    assert "PA 0x80001234, a 1 GiB page, rwx--ad" in result.stdout
    tree = pagewalk("tables", "--tree", path).stdout.splitlines()
    assert tree[1].startswith("  [0x0] 0x0000000000000000 table at PA 0x8")
    assert tree[3] == "      [0x5] 0x0000000000005000 4 KiB at PA 0x80000000 r-xu-ad"


# check and list


@pytest.mark.parametrize("paging", MODES)
def test_check(pagewalk: Cli, paging: str) -> None:
    result = pagewalk("check", "--paging", paging)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("mm.check: clean: 16384 frames, ")
    for name in ("touch", "page_struct"):
        result = pagewalk("check", "--paging", paging, name)
        assert result.exit_code == 0
        assert "mm.check: clean" in result.stdout
    result = pagewalk("check", "fault", "null")
    assert result.exit_code == 0 and "load page fault" in result.stderr
    report = json.loads(pagewalk("check", "--json", "--paging", paging, "hello").stdout)
    assert report["clean"] is True
    assert (report["frames"], report["mms"]) == (16384, 1)


def test_check_says_what_is_broken(pagewalk: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from guest.boot import kernel_machine

    real = kernel_machine.boot

    def broken(*arguments: object) -> object:
        system = real(*arguments)  # type: ignore[arg-type]
        system.kernel.zones[0].managed_pages += 1
        return system

    monkeypatch.setattr(kernel_machine, "boot", broken)
    result = pagewalk("check")
    assert result.exit_code == 1
    assert result.stderr.startswith("mm.check: zone at 0x8")
    result = pagewalk("check", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert set(found) == {"clean", "structure", "address", "rule"}
    assert found["clean"] is False


def test_list(pagewalk: Cli) -> None:
    lines = pagewalk("list").stdout.splitlines()
    assert {line.split()[0]: line.split()[1] for line in lines} == GUESTS
    assert all(len(line.split()) > 4 for line in lines)
    rows = json.loads(pagewalk("list", "--json").stdout)
    assert all(set(row) == {"name", "kind", "description"} for row in rows)
    assert {row["name"]: row["kind"] for row in rows} == GUESTS
    assert set(shipped()) == set(GUESTS)


# help and options


def test_help(pagewalk: Cli) -> None:
    alone = pagewalk()
    assert "Usage:" in alone.output and "pagewalk run hello" in alone.output
    for command in ("run", "walk", "tables", "check", "list"):
        result = pagewalk(command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: main " + command)
        assert pagewalk(command, "-h").stdout == result.stdout
        assert command in alone.output
    assert "exit status" in pagewalk("run", "--help").stdout
    assert re.search(r"\d+\.\d+", pagewalk("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nope",), "No such option"),
        (("nope",), "No such command 'nope'"),
        (("run", "--nope"), "No such option"),
        (("run", "--paging", "sv32", "hello"), "'sv32' is not one of"),
        (("run", "--machine", "x", "hello"), "'x' is not one of"),
        (("run", "--trace", "x", "hello"), "'x' is not one of"),
        (("run", "--ram"), "requires an argument"),
        (("walk",), "Missing argument 'VA'"),
        (("walk", "1", "hello", "more"), "unexpected extra argument"),
        (("list", "more"), "unexpected extra argument"),
    ],
)
def test_wrong_arguments(pagewalk: Cli, arguments: tuple[str, ...], said: str) -> None:
    line = refused(pagewalk(*arguments))
    assert said in line and line.endswith("--help)")


# the process


def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "guest.cli", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("access", ["inside", "public"])
def test_ctrl_c_stops_the_hart_and_says_where(tmp_path: Path, access: str) -> None:
    text = bytearray()
    # write(1, 0x10000, 1), so that the test knows that it runs; then j .
    for word in (0x04000893, 0x00100513, 0x000105B7, 0x00100613, 0x00000073):
        text += word.to_bytes(4, "little")
    path = tmp_path / "loop"
    path.write_bytes(make([Load(0x10000, bytes(text) + LOOP, R | X)], 0x10000))
    process = start("run", "--hart", access, path)
    assert process.stdout is not None
    process.stdout.read(1)
    wait_until_it_has_run(process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.decode().splitlines()[0] == "pagewalk: interrupted at 0x10014 in U-mode"


READER = """#include <pagewalk/abi.h>
#include <pagewalk/user.h>
int main(void)
{
    char data[16];
    printf("reading\\n");
    register long a0 __asm__("a0") = 0;
    register long a1 __asm__("a1") = (long)data;
    register long a2 __asm__("a2") = sizeof data;
    register long a7 __asm__("a7") = SYS_read;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    printf("read %ld\\n", a0);
    return 0;
}
"""


def test_ctrl_c_while_a_program_waits_for_input() -> None:
    process = start("run", compiled(build.PROGRAM, READER), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"reading\n"
    wait_until_it_waits(process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 130, (out, error)
    assert error.startswith(b"pagewalk: interrupted at 0x1")


def test_input() -> None:
    path = compiled(build.PROGRAM, READER)
    process = start("run", path, stdin=subprocess.PIPE)
    assert process.communicate(b"hello")[0].splitlines()[-1] == b"read 5"
    process = start("run", path, stdin=subprocess.DEVNULL)
    assert process.communicate()[0].splitlines()[-1] == b"read 0"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(closed: str) -> None:
    path = compiled(build.PROGRAM, READER)
    command = f'exec "{sys.executable}" -m guest.cli run "{path}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, b"")
    if ">&-" not in closed.replace("2>&-", ""):
        assert done.stdout == b"reading\nread 0\n"


def test_a_reader_that_goes_away() -> None:
    for command in (("run", "touch"), ("tables", "--tree", "hello"), ("run",)):
        read, write = os.pipe()
        os.close(read)
        process = start(*command, stdout=write)
        os.close(write)
        _, error = process.communicate()
        assert process.returncode == 141
        assert error == b""


def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        for command in (("run", "hello"), ("tables",)):
            process = start(*command, stdout=full)
            _, error = process.communicate()
            assert (process.returncode, error) == (2, b"pagewalk: No space left on device\n")
