"""`import pagewalk`: what it gives, what it refuses and how it says so."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pagewalk
from pagewalk import (
    Access,
    ConsoleError,
    Device,
    Kernel,
    Machine,
    MmError,
    Priv,
    Rule,
    StopReason,
    assemble,
    pte,
    satp,
)

RAM = 0x8000_0000
SPIN = 0x0000_006F  # j .
WFI = 0x1050_0073


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(ram="16M", deterministic=True) as it:
        yield it


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(ram=32 << 20) as it:
        yield it


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_it_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import pagewalk;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    heavy = {"unicorn", "numpy", "capstone", "elftools", "click", "emu", "mm", "guest", "firmware"}
    assert not heavy & set(python(code).split())


def test_a_machine_needs_neither_mm_nor_numpy() -> None:
    code = "import sys; from pagewalk import Machine; print({'numpy', 'mm'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_every_name_is_there_and_typed_and_documented() -> None:
    for name in pagewalk.__all__:
        found = getattr(pagewalk, name)
        assert inspect.getdoc(found), name
        assert name in dir(pagewalk)
    # What type checkers see is the same list.
    source = Path(str(pagewalk.__file__)).read_text()
    for name, where in pagewalk._WHERE.items():
        assert f"from {where} import {name} as {name}\n" in source
    with pytest.raises(AttributeError, match="'pagewalk' has no attribute 'Masheen'"):
        pagewalk.Masheen  # noqa: B018


def test_the_command_line_is_the_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pagewalk", "run", "uart_hello"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"Hello from M-mode\n")


REFUSED: list[tuple[str, type[Exception], Callable[[Machine], Any]]] = [
    ("ram: '64'", ValueError, lambda m: Machine(ram=64)),
    ("ram: 'much' is no size", ValueError, lambda m: Machine(ram="much")),
    ("ram: bytes or a text", TypeError, lambda m: Machine(ram=6.4)),  # type: ignore[arg-type]
    ("program: a path", TypeError, lambda m: Machine(7)),  # type: ignore[arg-type]
    ("disks: a list", TypeError, lambda m: Machine("tiny", disks="a.img")),
    ("initrd: for a program", ValueError, lambda m: Machine(initrd="x")),
    ("seed: an int", TypeError, lambda m: Machine(seed="x")),  # type: ignore[arg-type]
    ("nowhere.elf: no such file", pagewalk.UsageError, lambda m: Machine("./nowhere.elf")),
    ("pa: 0x80000004 is not a multiple of 8", ValueError, lambda m: m.write64(RAM + 4, 0)),
    ("pa: an int is wanted, not str '0x80000000'", TypeError, lambda m: m.read64("0x80000000")),  # type: ignore[arg-type]
    ("pa: -0x1 does not fit", ValueError, lambda m: m.read(-1, 4)),
    ("physical access of 4 bytes at 0x1000", pagewalk.RamError, lambda m: m.read(0x1000, 4)),
    ("data: bytes are wanted", TypeError, lambda m: m.write(RAM, "text")),  # type: ignore[arg-type]
    ("value: 0x10000000000000000 does not fit", ValueError, lambda m: m.write64(RAM, 1 << 64)),
    ("a0: an int is wanted", TypeError, lambda m: setattr(m.reg, "a0", 1.5)),
    ("a0: 0x1", ValueError, lambda m: setattr(m.reg, "a0", 1 << 64)),
    ("reg.b7: there is no register", AttributeError, lambda m: m.reg.b7),
    ("csr.mcauze: there is no CSR", AttributeError, lambda m: m.csr.mcauze),
    ("satp 0x3", ValueError, lambda m: setattr(m.csr, "satp", 3 << 60)),
    ("number: 0x1000 does not fit in 12", ValueError, lambda m: m.csr[0x1000]),
    ("pc: 0x80000001 is not a multiple of 2", ValueError, lambda m: setattr(m, "pc", RAM + 1)),
    ("priv: 'H' is none of", ValueError, lambda m: setattr(m, "priv", "H")),
    ("priv: one of", TypeError, lambda m: setattr(m, "priv", 3)),
    ("access: 'load' is none of", ValueError, lambda m: m.predict(RAM, "load")),
    ("count: at least 1", ValueError, lambda m: m.step(0)),
    ("until: 0x80000001 is not", ValueError, lambda m: m.run(RAM + 1)),
    ("there is no symbol 'main'", KeyError, lambda m: m.run("main")),
    ("timeout: -1 s cannot be waited", ValueError, lambda m: m.run(timeout=-1)),
    ("text: nothing is no text", ValueError, lambda m: m.expect("")),
    ("text: bytes are wanted", TypeError, lambda m: m.send(7)),  # type: ignore[arg-type]
    ("stop: .* has no trap", ValueError, lambda m: m.explain(m.run())),
    ("device: a Device is wanted", TypeError, lambda m: m.attach("uart")),  # type: ignore[arg-type]
    ("base: .* overlaps uart", ValueError, lambda m: m.attach(Device(0x1000_0000))),
    ("base: .* overlaps RAM", ValueError, lambda m: m.attach(Device(RAM - 4096, 8192))),
    ("base: 0x50000004 is not a multiple", ValueError, lambda m: Device(0x5000_0004)),
    ("size: 0x10 is not a multiple", ValueError, lambda m: Device(0x5000_0000, 16)),
    ("irq: 96 is no source", ValueError, lambda m: m.attach(Device(0x5000_0000), irq=96)),
    ("irq: the device has no", ValueError, lambda m: Device(0x5000_0000).irq(True)),
    ("pa: 0x80000800 is not a multiple of 4096", ValueError, lambda m: pte(RAM + 0x800)),
    ("flags: 'z' in 'rwz'", ValueError, lambda m: pte(RAM, "rwz")),
    ("flags: letters", TypeError, lambda m: pte(RAM, 7)),  # type: ignore[arg-type]
    ("mode: 'sv32' is none of", ValueError, lambda m: satp("sv32", RAM)),
    ("root: 0x80000800 is not", ValueError, lambda m: satp("sv39", RAM + 0x800)),
    ("asid: 0x10000 does not fit", ValueError, lambda m: satp("sv39", RAM, 1 << 16)),
    ("slab: 'slib' is none", ValueError, lambda m: Kernel(slab="slib")),
    ("paging: 'sv32'", ValueError, lambda m: Kernel(paging="sv32")),
    ("at: 0x80000001 is not", ValueError, lambda m: assemble("nop", at=RAM + 1)),
    ("text: a str", TypeError, lambda m: assemble(b"nop")),  # type: ignore[arg-type]
    ("path: a path", TypeError, lambda m: m.save(None)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("text", "kind", "call"), REFUSED, ids=[text for text, *_ in REFUSED])
def test_what_is_refused_and_how(
    machine: Machine, text: str, kind: type[Exception], call: Callable[[Machine], Any]
) -> None:
    machine.write64(RAM, WFI)
    machine.pc, machine.priv = RAM, "M"
    with pytest.raises(kind, match=text) as caught:
        call(machine)
    assert "\n" not in str(caught.value)


def test_registers_by_each_of_their_names(machine: Machine) -> None:
    machine.reg.a0 = -2
    assert machine.reg.a0 == machine.reg.x10 == 2**64 - 2
    machine.reg.zero = 7
    assert machine.reg.zero == 0
    machine.reg.s0 = 5
    assert machine.reg.fp == 5
    machine.reg.fa0 = 0x3FF0_0000_0000_0000
    assert machine.reg.f10 == 0x3FF0_0000_0000_0000
    assert "a0   0xfffffffffffffffe" in repr(machine.reg)
    machine.csr.mscratch = 0x1234
    assert machine.csr.mscratch == machine.csr[0x340] == 0x1234
    machine.csr[0x340] = 1
    assert machine.csr.mscratch == 1
    machine.csr.mtvec = RAM
    assert "of a hart in M-mode: mstatus=0x" in repr(machine.csr)
    assert {"a0", "fp", "ft11", "x31"} <= set(dir(machine.reg))
    assert {"mstatus", "pmpaddr15", "fcsr"} <= set(dir(machine.csr))


def test_code_that_is_written_is_what_is_executed_next(machine: Machine) -> None:
    machine.priv = Priv.M
    for immediate in (5, 6):
        machine.write(RAM, (immediate << 20 | 10 << 7 | 0x13).to_bytes(4, "little"))  # li a0
        machine.pc = RAM
        machine.step()
        assert (machine.reg.a0, machine.pc) == (immediate, RAM + 4)


def test_tables_that_are_written_count_at_once(machine: Machine) -> None:
    """No fence is needed from outside: the hart reads through what stands there now."""
    root, code, va = RAM + 0x10_0000, RAM + 0x1000, 0x4000_0000
    machine.write(code, (11 << 15 | 3 << 12 | 10 << 7 | 0x03).to_bytes(4, "little"))  # ld a0,(a1)
    machine.write64(RAM + 0x2000, 0x22)
    machine.write64(RAM + 0x3000, 0x33)
    machine.write64(root + 16, pte(RAM, "rwxad"))
    machine.write64(root + 8, pte(root + 0x1000))
    machine.write64(root + 0x1000, pte(root + 0x2000))
    machine.csr.pmpaddr0, machine.csr.pmpcfg0 = (1 << 54) - 1, 0x1F
    machine.csr.satp = satp("sv39", root)
    try:
        for value in (0x22, 0x33):
            machine.write64(root + 0x2000, pte(RAM + 0x1000 * (value & 15), "rwad"))
            machine.priv, machine.pc, machine.reg.a1 = "S", code, va
            found = machine.predict(va, Access.READ)
            machine.step()
            assert machine.reg.a0 == value, machine
            assert isinstance(found, pagewalk.Translation)
            pa = RAM + 0x1000 * (value & 15)
            assert found.pa == pa
            assert repr(found) == f"<Translation of {va:#x}: PA {pa:#x}, level 0, rw---ad>"
        refused = machine.predict(va, "execute")
        assert isinstance(refused, pagewalk.Refusal) and refused.rule is Rule.NOT_EXECUTABLE
        assert repr(refused) == (
            f"<Refusal of {va:#x} at level 0: the PTE does not allow execution (X=0), cause 12>"
        )
    finally:
        machine.priv = "M"
        machine.csr.satp = 0
    assert machine.predict(va, "read") is None


def test_a_run_ends_where_it_is_told(machine: Machine) -> None:
    machine.write(RAM, b"\x13\0\0\0" * 4 + SPIN.to_bytes(4, "little"))  # nop
    machine.pc = RAM
    assert machine.run(RAM + 8).reason is StopReason.BREAKPOINT and machine.pc == RAM + 8
    assert machine.run(count=1).reason is StopReason.LIMIT and machine.pc == RAM + 12
    assert machine.hart.breakpoints == frozenset()
    assert machine.run(timeout=0.01).reason is StopReason.INTERRUPTED
    assert machine.pc == RAM + 16


def test_ctrl_c_is_pythons_own(machine: Machine) -> None:
    machine.write(RAM, SPIN.to_bytes(4, "little"))
    machine.pc = RAM
    machine.step()
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait()
        while not machine.hart.running:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        begun.set()
        machine.run()
    thread.join()
    assert machine.pc == RAM and machine.step().reason is StopReason.LIMIT


def test_a_program_up_to_a_symbol(tmp_path: Path) -> None:
    with Machine("uart_hello") as machine:
        assert machine.run("main").reason is StopReason.BREAKPOINT
        assert machine.pc == machine.symbol("main") and machine.output == ""
        assert "uart_hello: 0x" in repr(machine) and "<main> in M-mode, 64 MiB" in repr(machine)
        stop = machine.run()
        assert (stop.reason, stop.code, repr(stop)) == (
            StopReason.EXIT,
            0,
            "<Stop exit 0: finisher: pass>",
        )
        machine.reset()
        assert machine.run().code == 0 and machine.output == "Hello from M-mode\n" * 2


def test_why_it_faulted(machine: Machine) -> None:
    with Kernel(ram="32M") as kernel:
        stop = kernel.run_program("fault", "write")
        assert stop.reason is StopReason.FAULT and stop.trap is not None
        assert "refused at level 0: the PTE does not allow writing (W=0)" in kernel.explain(stop)
        assert kernel.explain(stop.trap) == kernel.explain(stop)


class Line(Device):
    name = "line"
    fields = ("raised", "reads")

    def read(self, offset: int, size: int) -> int:
        self.reads += 1
        return size << 8 | offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.raised = value
        self.irq(bool(value))


def test_a_device_with_a_line_and_its_state(tmp_path: Path) -> None:
    with Machine(ram="16M", deterministic=True) as machine:
        line = Line(0x5000_0000)
        machine.attach(line, irq=40)
        machine.write64(RAM, 0x0005_A603_00B5_2023)  # sw a1,(a0); lw a2,(a1)
        machine.reg.a0, machine.reg.a1 = 0x5000_0000, 0x5000_0004
        machine.step(2)
        assert (machine.reg.a2, line.raised, line.reads) == (4 << 8 | 4, 0x5000_0004, 1)
        plic = machine.board.plic  # type: ignore[attr-defined]
        assert plic.read(0x1004, 4) == 1 << 8  # pending: source 40 is bit 8 of the second word
        assert repr(line) == "<Line 0x50000000-0x50001000 raised=0x50000004 reads=0x1>"
        machine.save(tmp_path / "line.snap")
        line.reads = 99
        machine.restore(tmp_path / "line.snap")
        assert line.reads == 1
        with pytest.raises(ValueError, match="overlaps line"):
            machine.attach(Line(0x5000_0000))
        with (
            pytest.raises(pagewalk.SnapshotError, match="no device line"),
            Machine(ram="16M", deterministic=True) as other,
        ):
            other.restore(tmp_path / "line.snap")


def test_what_does_not_come_is_told_with_what_did() -> None:
    with Machine("uart_hello") as machine:
        with pytest.raises(ConsoleError, match=r"ended with exit 0.*\n  [|] Hello") as caught:
            machine.expect("Goodbye")
        assert caught.value.output == "Hello from M-mode\n"
        assert machine.expect("from") == "Hello from"  # what came is still there
        assert machine.expect(b"mode\n") == " M-mode\n"
    with Machine("small", deterministic=True) as machine:
        machine.expect("$ ")
        with pytest.raises(ConsoleError, match=r"0\.05 s are over"):
            machine.expect("never", timeout=0.05)
        with pytest.raises(ConsoleError, match="took 65536 of 70000 bytes"):
            machine.send(b"x" * 70_000)


def test_a_text_in_pieces_is_found(machine: Machine) -> None:
    from pagewalk.console import Console

    console, found = Console(), []
    console.await_text(b"login: ", lambda: found.append(1))
    for piece in (b"debian lo", b"gi", b"n", b":", b" "):
        assert not found
        console.write(piece)
    assert found and console.take(b"login: ") == "debian login: " and console.rest() == ""
    console.write(b"x" * (40 << 20))
    assert len(console.data) == 16 << 20 and console.take(b"y") is None


def test_the_kernel(kernel: Kernel) -> None:
    assert repr(kernel).startswith("<Kernel sv39, ") and "32 MiB of RAM" in repr(kernel)
    assert any("Memory: " in line for line in kernel.log)
    va = kernel.kmalloc(64)
    page = kernel.virt_to_page(va)
    assert page.pa == kernel.mm.space.page_pa(kernel.mm.pa(va) >> 12)
    kernel.kfree(va)
    with pytest.raises(MmError):
        kernel.kfree(0x1234)
    with pytest.raises(MmError):
        kernel.virt_to_page(0x1234)
    assert kernel.insmod("page_struct").value == 0
    with pytest.raises(ValueError, match="module: page_struct is loaded"):
        kernel.insmod("page_struct")
    assert kernel.rmmod("page_struct").reason is StopReason.EXIT
    with pytest.raises(KeyError):
        kernel.rmmod("page_struct")
    assert kernel.run_program("hello", "a").code == 0
    kernel.check()


def test_assembling_without_a_compiler_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guest.build.have_compiler", lambda: False)
    with pytest.raises(pagewalk.BuildError, match=r"ziglang.*pip install 'pagewalk\[compile\]'"):
        assemble("nop # without")


def test_what_the_assembler_does_not_know() -> None:
    pytest.importorskip("ziglang")
    with pytest.raises(pagewalk.BuildError, match=r"text:1:.*unrecognized"):
        assemble("frobnicate a0")
    # The spec's own encodings; a label's address is that of where it runs.
    assert assemble("addi a0, zero, 5; wfi") == bytes.fromhex("1545") + WFI.to_bytes(4, "little")
    assert assemble("x: .dword x", at=0x1_0000)[:8] == (0x1_0000).to_bytes(8, "little")
