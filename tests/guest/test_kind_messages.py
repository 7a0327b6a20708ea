"""What is typed wrong is told in one line that helps: misspelt, on the wrong command, idle."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from elf_kit import EXIT_7, Load, R, X, make
from guest_kit import compiled

from guest import build
from guest.build import HERE
from guest.image import names

Cli = Callable[..., Result]

MODULE = "#include <linux/module.h>\nstatic int f(void) { return 0; }\nmodule_init(f);\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(result: Result) -> str:
    """The one line of a refusal."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    [line] = result.stderr.splitlines()
    return line


def image() -> bytes:
    """The start of a RISC-V Image: its boot header."""
    header = struct.pack("<IIQQQIIQQII", 0x6F, 0, 0x200000, 0, 0, 2, 0, 0, 0x5643534952, 0, 0)
    return header[:0x38] + b"RSC\x05" + header[0x3C:] + bytes(100)


# misspelt


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("rnu hello", "No such command 'rnu'. Did you mean 'run'?"),
        ("boto tiny", "Did you mean 'boot'?"),
        ("hello", "Did you mean 'run hello'?"),
        ("linux", "Did you mean 'boot linux'?"),
        ("help", "Did you mean '--help'?"),
        ("prog.c", "Did you mean 'run prog.c'?"),
        ("qqqqqq", "No such command 'qqqqqq'. (see "),
        ("run helo", "did you mean hello?"),
        ("run guest:helo", "guest:helo: no guest of that name; did you mean hello?"),
        ("run linux", "for the whole board: pagewalk boot linux"),
        ("check toch", "did you mean touch?"),
        ("boot tinny", "did you mean tiny?"),
        ("boot lnux", "did you mean linux?"),
        ("boot qqqq", "qqqq: no such file; by name there are"),
        ("compare fifoo", "did you mean fifo?"),
        ("compare buddy", "buddy: a guest, not a trace: --record FILE"),
        ("run hello --slabb slob", "Did you mean '--slab'?"),
        ("run hello -c x", "What is for the program goes behind --."),
        ("boot tiny --bois none", "--bios"),
        ("proc", "Missing argument 'NAME'. Choose from: buddyinfo, "),
        ("run hello --then", "run: Option '--then' requires an argument"),
        ("run hello.elf", "hello.elf: no such file; did you mean hello?"),
        ("run hello_module.c", "did you mean hello_module?"),
        ("run prg.c", "prg.c: no such file; did you mean prog.c?"),
        ("run ./prg.c", "did you mean prog.c?"),
        ("run HELLO", "did you mean hello?"),
        ("boot TINY", "did you mean tiny?"),
        ("boot prg.c", "did you mean prog.c?"),
        (
            "boot tiny --bios opensb",
            "--bios opensb: No such file or directory; did you mean opensbi?",
        ),
        ("run hello --ram 64", "'64' is not a whole number of 4 KiB pages: did you mean 64M?"),
        ("run .", "is a directory; one of sources is a kernel: pagewalk boot"),
        ("walk hello", "'hello' is no hexadecimal address"),
    ],
)
def test_what_is_misspelt(pagewalk: Cli, folder: Path, arguments: str, said: str) -> None:
    (folder / "prog.c").write_text("int main(void) { return 0; }\n")
    assert said in refused(pagewalk(*arguments.split()))


# files that are something else


def test_a_file_that_hides_a_guest(pagewalk: Cli, folder: Path) -> None:
    (folder / "hello").write_text("my notes\n")
    (folder / "tiny").write_text("my notes\n")
    for command in (("run",), ("check",), ("tables",), ("walk", "10000")):
        line = refused(pagewalk(*command, "hello"))
        assert "hello: is text, not an ELF file" in line
        assert "the guest of that name that comes with pagewalk: pagewalk run guest:hello" in line
    line = refused(pagewalk("boot", "tiny"))
    assert "is text, not a kernel" in line and "pagewalk boot guest:tiny" in line
    assert pagewalk("run", "guest:hello").exit_code == 0
    assert pagewalk("boot", "guest:tiny").exit_code == 0
    (folder / "touch").write_bytes(b"\x7fELF")
    assert "pagewalk run guest:touch" in refused(pagewalk("run", "touch"))
    (folder / "buddy").write_bytes(make([Load(0x10000, EXIT_7, R | X)], 0x10000))
    assert pagewalk("run", "buddy").exit_code == 7  # a guest of one's own


def test_what_pagewalk_itself_runs_is_never_a_file_of_the_folder(
    pagewalk: Cli, folder: Path
) -> None:
    for name in ("hello", "page_struct", "insmod"):
        (folder / name).write_text("my notes\n")
    assert pagewalk("run").exit_code == 0
    assert pagewalk("run", "hello_module").exit_code == 0


def test_a_folder_that_is_named_like_a_guest(pagewalk: Cli, folder: Path) -> None:
    (folder / "hello").mkdir()
    done = pagewalk("run", "hello")
    assert (done.exit_code, done.stderr) == (0, "")
    (folder / "tiny").mkdir()
    for source in (HERE / "supervisor" / "tiny").iterdir():
        (folder / "tiny" / source.name).write_bytes(source.read_bytes())
    done = pagewalk("boot", "tiny")
    assert done.exit_code == 0
    assert "tiny: the one that comes with pagewalk; for the folder give ./tiny" in done.stderr
    done = pagewalk("boot", "./tiny")
    assert done.exit_code == 0 and "comes with pagewalk" not in done.stderr


def test_files_that_are_not_for_run(pagewalk: Cli, folder: Path) -> None:
    for name, data, said in (
        ("notes", b"some text\n", "is text, not an ELF file; C and assembly files end in .c"),
        ("notes.md", "ümlaut\n".encode() * 100, "is text"),
        ("Image", image(), "a kernel (RISC-V Image): pagewalk boot Image"),
        ("Image.gz", gzip.compress(image()), "compressed, not an ELF file; a kernel may be"),
        ("junk", bytes(range(256)), "not an ELF file"),
    ):
        (folder / name).write_bytes(data)
        assert said in refused(pagewalk("run", name)), name


def test_files_that_are_not_for_boot(pagewalk: Cli, folder: Path) -> None:
    (folder / "notes").write_text("some text\n")
    assert "notes: is text, not a kernel" in refused(pagewalk("boot", "notes"))
    (folder / "mod.ko").write_bytes(compiled(build.MODULE, MODULE).read_bytes())
    assert "mod.ko: is a kernel module: pagewalk run mod.ko" in refused(pagewalk("boot", "mod.ko"))
    line = refused(pagewalk("boot", "hello_module"))
    assert "hello_module: is a kernel module: pagewalk run hello_module" in line
    assert "hello: is a U-mode program: pagewalk run hello" in refused(pagewalk("boot", "hello"))
    assert "begins in M-mode: give --bios none" in refused(pagewalk("boot", "uart_hello"))
    assert pagewalk("boot", "uart_hello", "--bios", "none").exit_code == 0
    (folder / "empty").mkdir()
    line = refused(pagewalk("boot", "./empty"))
    assert line == "pagewalk: ./empty: no C or assembly file in it"


def test_a_module_of_linux_itself(pagewalk: Cli, folder: Path) -> None:
    """An object file with .modinfo, as a kernel's build makes it."""
    source, made = folder / "mod.c", folder / "mod.ko"
    source.write_text(
        'static const char about[] __attribute__((section(".modinfo"), used)) = "license=GPL";\n'
    )
    build.compile_object(source, made)
    assert "a module built for Linux itself" in refused(pagewalk("run", "mod.ko"))
    assert "is a kernel module, not a kernel" in refused(pagewalk("boot", "mod.ko"))


def test_a_program_for_a_c_library(pagewalk: Cli, folder: Path) -> None:
    (folder / "prog.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    done = pagewalk("run", "prog.c")
    assert done.exit_code == 2
    assert "there is no C library here: include <pagewalk/user.h>" in done.stderr
    assert done.stderr.startswith("pagewalk: prog.c:1:10: fatal error")
    (folder / "empty.c").write_text("\n")
    done = pagewalk("run", "empty.c")
    assert done.exit_code == 2 and "a program has a main, a kernel module says" in done.stderr


def test_run_has_the_whole_board(pagewalk: Cli, folder: Path) -> None:
    """The PLIC's and the CLINT's registers are there (no hole), and so is the device tree."""
    (folder / "kernel.S").write_text(
        ".globl _start\n.section .text.start\n_start: li t0, 0x0c000000\nlw t1, 0(t0)\n"
        "li t0, 0x0200bff8\nld t1, 0(t0)\nlw a1, 0(a1)\n"  # 0xd00dfeed, big-endian
        "li t0, 0xffffffffedfe0dd0\nsub a1, a1, t0\nsnez a1, a1\naddi a1, a1, 6\nslli a1, a1, 16\n"
        "li t0, 0x3333\nor a1, a1, t0\nli t0, 0x100000\nsw a1, 0(t0)\n1: j 1b\n"
    )
    for machine in ("bare", "firmware"):
        done = pagewalk("run", "kernel.S", "--machine", machine)
        assert (done.exit_code, done.stderr) == (6, "")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"text\n", True),
        ("ä".encode() * 300, True),  # cut in the midst of a character
        (("x" + "ä" * 300).encode()[:512], True),
        (b"", False),
        (b"\x13\0\0\0", False),
        (b"text\x00", False),
        (b"\xff\xfe", False),
        (b"\x1b[0m", False),
    ],
)
def test_what_is_text(head: bytes, expected: bool) -> None:
    assert names.is_text(head) is expected


# options that would do nothing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run uart_hello --slab slob", "--slab: for the kernel machine; uart_hello runs on bare"),
        ("run uart_hello --paging sv48", "--paging: "),
        ("run uart_hello --then check", "--then: "),
        ("run sbi_hello --append slub_debug", "--append: "),
        ("run sbi_hello --verbose", "--verbose: "),
        ("run sbi_hello --env A=b", "--env: "),
        ("run hello --keep", "--keep: for kernel modules; hello is a program"),
        ("run hello_module --env A=b", "--env: for programs; hello_module is a kernel module"),
        ("run --keep", "--keep: give a PROGRAM"),
        ("run --timeout 3", "--timeout: give a PROGRAM"),
        ("run --env A=b", "--env: give a PROGRAM"),
        ("run hello --env nothing", "--env 'nothing': give NAME=VALUE"),
        ("run hello --json --verbose", "--verbose: --json has the boot log"),
        ("run hello --trace-file x", "--trace-file needs --trace"),
        ("run uart_hello one two", "takes no arguments"),
        ("proc meminfo --keep", "--keep: give a PROGRAM"),
        ("proc meminfo --quiet", "--quiet: give a PROGRAM"),
        ("proc meminfo hello --keep", "--keep: for kernel modules"),
        ("proc meminfo hello --quiet --json", "--quiet: --json"),
        ("what 80400000 --keep", "--keep: give a PROGRAM"),
        ("tables uart_hello --paging sv48", "--paging: for the kernel machine"),
        ("walk 0 uart_hello --slab slob", "--slab: for the kernel machine"),
        ("check uart_hello", "nothing to check"),
        ("compare fifo --write x --json", "--json: --write only writes the trace"),
        ("compare fifo --write x --slab slob", "--slab: --write only"),
        ("compare fifo --write x --ram 8M", "--ram: --write only"),
        ("run --slab slob --append slub_debug", "slub_debug: SLOB has nothing of the kind"),
        ("run --slab slob --append slab_nomerge", "slab_nomerge: SLOB has nothing"),
        ("run --slab slab --append slab_freelist_hardened", "SLAB has nothing of the kind"),
        ("boot tiny --seed 3", "--seed: without --deterministic"),
        ("boot tiny --dump-dtb x --timeout 3", "--timeout: --dump-dtb ends before"),
        ("boot tiny --dump-dtb x --gdb 0", "--gdb: --dump-dtb ends before"),
        ("boot tiny --dump-dtb x --trace trap", "--trace: --dump-dtb ends before"),
        ("boot --load x --ram 32M", "--ram: --load goes on from a snapshot"),
        ("boot --load x --bios none", "--bios: --load"),
        ("boot --load x --deterministic", "--deterministic: --load"),
        ("boot --load x --dump-dtb y", "--dump-dtb: --load"),
        ("boot --load x tiny", "KERNEL: --load"),
    ],
)
def test_options_that_do_nothing(pagewalk: Cli, folder: Path, arguments: str, said: str) -> None:
    assert said in refused(pagewalk(*arguments.split()))
    assert not list(folder.iterdir())


def test_an_empty_view_says_so(pagewalk: Cli) -> None:
    done = pagewalk("proc", "kmemleak")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "pagewalk: kmemleak: nothing to show\n"
