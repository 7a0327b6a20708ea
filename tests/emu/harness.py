"""What the machine's tests share: page tables written by hand, and a machine to run code on.

Numbers are those of the privileged spec, written out: a test that took them from the code
under test would find nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from asm import Snippet

from emu.board.machine import Machine
from emu.hart import Hart, HartOptions
from emu.ram import Ram
from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason

RAM = 0x8000_0000
CODE = RAM  # snippets that a test runs
VECTOR = RAM + 0x1000  # M's trap vector: `wfi`, which ends the run
S_VECTOR = RAM + 0x2000  # S's trap vector: another `wfi`
DATA = RAM + 0x4000
TABLES = RAM + 0x10_0000
HOLE = 0x4000_0000  # neither RAM nor a device

V, R, W, X, U, G, A, D = (1 << i for i in range(8))
RWX = V | R | W | X | A | D
SATP_MODE = {3: 8, 4: 9, 5: 10}  # by levels: Sv39, Sv48, Sv57

WFI = bytes.fromhex("73005010")


class Tables:
    """Page tables of ``levels`` levels, written into RAM from ``at`` on."""

    def __init__(self, ram: Ram, levels: int, at: int = TABLES) -> None:
        self.ram = ram
        self.levels = levels
        self.root = at
        self._next = at + 4096
        ram.fill(at, 4096)

    @property
    def satp(self) -> int:
        return SATP_MODE[self.levels] << 60 | self.root >> 12

    def table(self) -> int:
        """A fresh table's PA."""
        self._next += 4096
        self.ram.fill(self._next - 4096, 4096)
        return self._next - 4096

    def slot(self, va: int, level: int = 0) -> int:
        """The PA of the PTE of ``level`` for ``va``; the tables above are made."""
        table = self.root
        for i in range(self.levels - 1, level, -1):
            pte_pa = table + (va >> (12 + 9 * i) & 511) * 8
            pte = self.ram.read64(pte_pa)
            if not pte & V:
                pte = self.table() >> 12 << 10 | V
                self.ram.write64(pte_pa, pte)
            assert not pte & (R | W | X), "a leaf is in the way"
            table = pte >> 10 << 12 & (1 << 56) - 1
        return table + (va >> (12 + 9 * level) & 511) * 8

    def map(self, va: int, pa: int, flags: int = RWX, level: int = 0) -> int:
        """Map one (super)page; the PA of its PTE."""
        slot = self.slot(va, level)
        self.ram.write64(slot, pa >> 12 << 10 | flags)
        return slot


def let_all_memory_be_used(hart: Hart) -> None:
    """PMP entry 0 as firmware sets it: S and U may touch all. After a reset they may not."""
    hart.access.csr(0x3B0, (1 << 54) - 1)
    hart.access.csr(0x3A0, 0x1F)


class Bench:
    """A machine whose M and S vectors end the run with `wfi`, unless Python holds a level."""

    def __init__(self, options: str | HartOptions) -> None:
        self.output = bytearray()
        self.machine = Machine(16 << 20, self.output.extend, options)
        self.access = HartOptions.of(options).access
        self.hart = self.machine.hart
        self.ram = self.machine.ram
        self.w = self.hart.words
        self.ram.write(VECTOR, WFI)
        self.ram.write(S_VECTOR, WFI)
        self.w[words.MTVEC] = VECTOR
        self.w[words.STVEC] = S_VECTOR
        if self.hart.walks_by_spec:
            let_all_memory_be_used(self.hart)

    @property
    def is_inside(self) -> bool:
        return self.access == "inside"

    def load(self, snippet: Snippet, pa: int = CODE) -> None:
        self.ram.write(pa, snippet.code)
        self.hart.access.flush_code()  # the engine does not see the host's stores to code

    def start(
        self, snippet: Snippet | None = None, pc: int = CODE, priv: int = 3, **gpr: int
    ) -> None:
        """Put ``snippet`` at CODE and the hart at ``pc`` in ``priv``; registers by name."""
        if snippet is not None:
            self.load(snippet)
        self.w[words.PC] = pc
        self.w[words.PRIV] = priv
        for name, value in gpr.items():
            self.w[words.ABI_NAMES.index(name)] = value & (1 << 64) - 1

    def run(
        self, snippet: Snippet | None = None, pc: int = CODE, priv: int = 3, **gpr: int
    ) -> Stop:
        self.start(snippet, pc, priv, **gpr)
        return self.machine.run()

    def trapped(self, *args: object, **kw: object) -> tuple[int, int, int]:
        """Run into M's vector; ``(mcause, mepc, mtval)``."""
        stop = self.run(*args, **kw)  # type: ignore[arg-type]
        assert stop.reason is StopReason.WFI, stop
        assert self.hart.pc == VECTOR + 4, hex(self.hart.pc)
        return self.w[words.MCAUSE], self.w[words.MEPC], self.w[words.MTVAL]

    def s_trapped(self, *args: object, **kw: object) -> tuple[int, int, int]:
        """Run into S's vector; ``(scause, sepc, stval)``."""
        stop = self.run(*args, **kw)  # type: ignore[arg-type]
        assert stop.reason is StopReason.WFI, stop
        assert self.hart.pc == S_VECTOR + 4, hex(self.hart.pc)
        return self.w[words.SCAUSE], self.w[words.SEPC], self.w[words.STVAL]

    def hold_m(self, handler: Callable[[Trap], Stop | None] | None = None) -> list[Trap]:
        """Python holds M; the traps that it gets. Without ``handler`` the first ends the run."""
        seen: list[Trap] = []

        def handle(trap: Trap) -> Stop | None:
            seen.append(trap)
            if handler is not None:
                return handler(trap)
            return Stop(StopReason.FAULT, trap=trap)

        self.hart.handlers[3] = handle
        return seen

    def reg(self, name: str) -> int:
        return int(self.w[words.ABI_NAMES.index(name)])

    def translate(self, levels: int = 3) -> Tables:
        """Page tables in which RAM's first MiB and the vectors are mapped where they are,
        for S and M alike (no U bit), and satp set to them."""
        tables = Tables(self.ram, levels)
        for page in range(RAM, RAM + 0x8000, 4096):
            tables.map(page, page)
        self.hart.set_satp(tables.satp)
        return tables

    def wfi_is_next(self) -> bool:
        return self.ram.read32(self.hart.pc) == 0x1050_0073
