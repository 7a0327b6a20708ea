"""Odd addresses for code from files and guests: refused with one line, or bit 0 is cleared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import elf_kit
import pytest
from asm import assemble
from click.testing import Result
from guest_kit import Kernel, load

from emu.stop import StopReason
from guest import build

Cli = Callable[..., Result]

# From M to U by mret, or from S to U by sret, to an odd address: there c.addi s0, 1 (05 04) and
# c.addi s2, 1 (05 09) would be read as 04 05 09 ...: another instruction. Twice, by way of the
# same block. Then the exit status says whether all was executed.
RETURN = """
    li s1, 2
    li t1, {mode}
    la t0, landing
    addi t0, t0, 1
1:  csrw {epc}, t0
    {to_self} {status}, t1
    {ret}
    .balign 8
landing:
    c.addi s0, 1
    c.addi s2, 1
    addi s1, s1, -1
    bnez s1, 1b
    slli s0, s0, 4
    or s0, s0, s2
    li t0, 0x100000
    slli s0, s0, 16
    li t1, 0x3333
    or t1, t1, s0
    sw t1, 0(t0)
2:  j 2b
"""
FORMS = {
    "mret": {"mode": "0x1800", "epc": "mepc", "to_self": "csrs", "status": "mstatus"},
    "sret": {"mode": "0x100", "epc": "sepc", "to_self": "csrs", "status": "sstatus"},
}


@pytest.mark.parametrize("access", ["auto", "public"])
@pytest.mark.parametrize("ret", FORMS)
def test_mepc_and_sepc(tmp_path: Path, ret: str, access: str) -> None:
    """In a process of its own: CSRs that another hart has repaired are repaired for all."""
    kernel = tmp_path / "kernel.bin"
    kernel.write_bytes(assemble(RETURN.format(ret=ret, **FORMS[ret])))
    bios = "none" if ret == "mret" else "python"
    command = [sys.executable, "-m", "guest.cli", "boot", kernel, "--bios", bios]
    done = subprocess.run(
        [*command, "--hart", access, "--timeout", "60"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0x22, done.stderr


@pytest.mark.parametrize("command", [["run"], ["boot"], ["boot", "--bios", "none"]])
def test_the_entry_of_an_elf(pagewalk: Cli, tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "odd.elf"
    code = elf_kit.Load(0x8020_0000, elf_kit.EXIT_7, elf_kit.R | elf_kit.X)
    path.write_bytes(elf_kit.make([code], 0x8020_0001))
    done = pagewalk(*command, path)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr == (
        f"pagewalk: {path}: no instruction begins at an odd address: 0x80200001\n"
    )


MODULE = """
#include <linux/module.h>
#include <linux/slab.h>
static int made;
static void construct(void *object) { made++; }
int times_made(void) { return made; }
static int __init begin(void)
{
    void (*odd)(void *) = (void (*)(void *))((unsigned long)construct | 1);
    struct kmem_cache *cache = kmem_cache_create("odd", 64, 0, 0, odd);
    return kmem_cache_alloc(cache, GFP_KERNEL) ? 0 : -1;
}
module_init(begin);
"""


@pytest.mark.parametrize("access", ["auto", "public"])
def test_functions_that_a_kernel_in_python_calls(access: str) -> None:
    """A constructor, and what `System.call` is given: as `jalr` does, which clears bit 0."""
    kernel = Kernel(access=access)
    module, stop = kernel.system.load_module(load(build.MODULE, MODULE))
    assert stop.reason is StopReason.EXIT and stop.value == 0, stop
    function = module.elf.symbol("times_made")
    assert function is not None
    times = kernel.system.call(module.base + function + 1).value
    assert times > 0 and times == kernel.system.call(module.base + function).value
    kernel.close()
