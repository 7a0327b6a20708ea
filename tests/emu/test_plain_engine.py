"""A plain Unicorn engine in the same process is as Unicorn made it, whatever harts there are.

The engine's table of CSRs is one for all engines of a process. In a process of its own: here
other tests have made harts.
"""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import ctypes as C
import random
from contextlib import closing

import unicorn.riscv_const as rc
from unicorn import UC_ARCH_RISCV, UC_MODE_RISCV64
from unicorn.unicorn_py3.unicorn import Uc, uclib

# satp is left out: a reserved mode ends the process. cycle and instret go on by themselves.
CSRS = [n for n in range(4096) if n not in (0x180, 0xB00, 0xB02, 0xC00, 0xC02)]
RANDOM = random.Random(1)
WRITES = [(RANDOM.choice(CSRS), RANDOM.getrandbits(64), RANDOM.getrandbits(64)) for _ in range(99)]
WRITES += [(n, v, -1) for n in (0x300, 0x100, 0x104, 0x106, 0x141, 0x144, 0x14D, 0x302, 0x303,
           0x304, 0x306, 0x341, 0x344, 0x30A, 0xC01, 0x321, 0xB03) for v in (0, -1, 0x222, 3)]


def find_env(uc):
    from emu.engine.layout import Allocation
    from emu.engine.layout_proof import proven_layout
    where = proven_layout()
    cpu = Allocation(Allocation(uc._uch.value).read(where.uc_cpu, 8))
    return cpu.read(where.cpu_env, 8)


def access(env, number, value, mask):
    old = C.c_uint64()
    status = uclib.riscv_csrrw_debug_riscv64(
        C.c_void_p(env), number, C.byref(old), C.c_uint64(value), C.c_uint64(mask))
    return (status, old.value if status == 0 else None)


def look():
    uc = Uc(UC_ARCH_RISCV, UC_MODE_RISCV64)
    uc.reg_read(rc.UC_RISCV_REG_PC)
    return look_at(uc)


def look_at(uc):
    env = find_env(uc)
    found = [access(env, number, 0, 0) for number in CSRS]
    for number, value, mask in WRITES:
        found.append(access(env, number, value, mask))
        found.append(access(env, number, 0, 0))
    for number, _, _ in WRITES:
        access(env, number, 0, -1)
    return found


before = look()
assert sum(status == 0 for status, _ in before) > 100
first = Uc(UC_ARCH_RISCV, UC_MODE_RISCV64)
first.reg_read(rc.UC_RISCV_REG_PC)
from emu.board.machine import Machine
machine = Machine(1 << 20, access="inside")
assert machine.hart.read_csr(0x300) == 0xA_0000_0000
assert look() == before, "a new engine, beside a hart"
assert look_at(first) == before, "an older engine"
machine.ram.write(machine.ram.base, bytes.fromhex("73252030" "73005010"))  # csrr a0, medeleg
machine.run()
machine.close()
assert look() == before, "after its close"
assert look_at(machine.hart.uc) is not None
with closing(Machine(1 << 20, access="inside")) as another:
    assert another.hart.read_csr(0x300) == 0xA_0000_0000
    assert another.hart.read_csr(0xC01) is not None
    assert look() == before
for _ in range(100):  # their places are used again
    Machine(1 << 16, access="inside").close()
from emu.engine import direct_access
assert len(direct_access._unused) <= 3, len(direct_access._unused)
"""


def test_a_plain_engine_has_unicorns_csrs() -> None:
    subprocess.run([sys.executable, "-c", LOOK], check=True)
