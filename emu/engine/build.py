"""Compiling the engine's C with ziglang, when the package is built.

``python -m emu.engine.build`` does it in a checkout, for this host: the library lies beside the
source, in ``built``. ``python -m emu.engine.build aarch64-linux FILE`` does it for another host.
The library needs no Python and no libc, so one file serves every Python of a platform.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from emu.spec import csr, paging, words
from emu.spec.walk import Rule, rule_number

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "built" / "engine.so"

_FLAGS = [
    *("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"),
    *("-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden", "-fno-sanitize=all", "-s"),
]
_WORDS = (*("PC", "BADADDR", "PRIV", "MSTATUS", "MIP", "MIE", "MIDELEG", "SATP", "MEPC", "SEPC"),)
_FIELDS = (
    *("MSTATUS_FS", "MSTATUS_XS", "MSTATUS_MPRV", "MSTATUS_SD", "SSTATUS_MASK"),
    *("MSTATUS_MPP", "MSTATUS_MPP_SHIFT", "MSTATUS_WRITABLE", "MEDELEG_WRITABLE"),
    *("MSTATUS_SUM", "MSTATUS_MXR", "S_INTERRUPTS", "M_INTERRUPTS"),
)
_CSRS = (
    *("SSTATUS", "SIE", "SCOUNTEREN", "SEPC", "SIP", "STIMECMP", "SATP", "MSTATUS", "MEDELEG"),
    *("MIDELEG", "MIE", "MCOUNTEREN", "MSCOUNTEREN", "MEPC", "MIP", "CYCLE", "TIME", "INSTRET"),
)
_PAGING = (
    *("PTE_V", "PTE_R", "PTE_W", "PTE_X", "PTE_U", "PTE_A", "PTE_D", "PTE_RESERVED", "PTE_PBMT"),
    *("PTE_N", "PTE_PPN_SHIFT", "PTE_PPN_MASK", "SATP_PPN_MASK"),
)
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# By machine and `sys.platform`: zig's target, and the tag of a wheel that holds the library.
TARGETS = {
    "x86_64-linux": ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    "aarch64-linux": ("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
    "x86_64-darwin": ("x86_64-macos", "macosx_11_0_x86_64"),
    "aarch64-darwin": ("aarch64-macos", "macosx_11_0_arm64"),
}


class BuildError(Exception):
    """The compiler refused; the text is what it said."""


def this_host() -> str | None:
    """Its name in TARGETS; None where Unicorn exports nothing to use."""
    machine = platform.machine().lower()
    name = f"{_MACHINES.get(machine, machine)}-{sys.platform}"
    return name if name in TARGETS else None


def wheel_platform() -> str:
    """The platform tag of a wheel that is built here."""
    host = this_host()
    return "any" if host is None else TARGETS[host][1]


def _definitions() -> list[str]:
    numbers = {f"WORD_{name}": getattr(words, name) for name in _WORDS}
    numbers |= {name: getattr(csr, name) for name in _FIELDS}
    numbers |= {f"CSR_{name}": getattr(csr, name) for name in _CSRS}
    numbers |= {"IRQ_STIP": 1 << csr.IRQ_STI, "IRQ_SSIP": 1 << csr.IRQ_SSI, "WIRES": csr.WIRES}
    numbers |= {name: getattr(paging, name) for name in _PAGING}
    numbers |= {"RULE_OK": 0} | {f"RULE_{rule.name}": rule_number(rule) for rule in Rule}
    return [f"-D{name}={value:#x}ul" for name, value in numbers.items()]


def build(target: str | None = None, output: Path = LIBRARY) -> bool:
    """Compile the library for a name of TARGETS, else for this host.

    False where this host has none. Raises BuildError, and KeyError for another name.
    """
    target = target or this_host()
    if target is None:
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = output.with_suffix(".new")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", TARGETS[target][0], *_FLAGS]
    command += [*_definitions(), "-o", str(scratch), *map(str, sorted(HERE.glob("*.c")))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError((done.stderr or done.stdout).strip())
    scratch.replace(output)  # in one step: a process that has it open keeps the old one
    return True


def _main(arguments: list[str]) -> None:
    if not arguments:
        build()
    elif len(arguments) == 2 and arguments[0] in TARGETS:
        build(arguments[0], Path(arguments[1]))
    else:
        sys.exit(f"usage: python -m emu.engine.build [{'|'.join(TARGETS)} FILE]")


if __name__ == "__main__":
    _main(sys.argv[1:])
