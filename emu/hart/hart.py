"""The hart: Unicorn's RV64GC core with the privileged architecture made whole.

Unicorn stops at each trap and does nothing more. The hart finds out what happened,
corrects what Unicorn reports wrongly, routes the trap as `medeleg` and `mideleg` say, and
then either performs architectural trap entry (guest code holds the target level) or calls
the Python handler that holds it. Nothing else decides where a trap goes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import unicorn.unicorn_const as ucc
from unicorn.unicorn_py3.unicorn import Uc, UcError

from emu.engine import calls, csr_repairs, native, odd_pc, pmp_csrs
from emu.engine.added_csrs import AddedCsrs
from emu.engine.coherence import Coherence
from emu.engine.direct_access import DirectAccess
from emu.engine.mmu import Mmu
from emu.engine.open_access import open_access
from emu.engine.retired import Retired
from emu.engine.stop_at_block import StopAtBlock
from emu.hart.interrupts import HartInterrupts, Interrupts, SharedInterrupts
from emu.hart.options import HartOptions
from emu.ram import Ram
from emu.spec import csr as CSR
from emu.spec import insn, trap, words
from emu.spec.csr import Priv
from emu.spec.paging import PAGE_SIZE, mode_of_satp, satp_root
from emu.spec.trap import Cause, Trap
from emu.spec.walk import (
    ACCESS_OF_CAUSE,
    Access,
    Refusal,
    Rule,
    Translation,
    WalkConfig,
    check_access,
    walk,
)
from emu.stop import Stop, StopReason

_M64 = (1 << 64) - 1
_ASK_AGAIN = 0.0005  # seconds
_TCG_BUFFER_SIZE = 32 << 20  # bytes; Unicorn's own default is 1 GiB

# A handler of the traps to one level. It finds pc at the trapping instruction, may change
# any state, and returns None to go on at pc, or a Stop to end the run.
Handler = Callable[[Trap], Stop | None]

_NUMBER_TO_CAUSE_ON_HOLE = {
    ucc.UC_MEM_READ_UNMAPPED: Cause.LOAD_ACCESS_FAULT,
    ucc.UC_MEM_READ_PROT: Cause.LOAD_ACCESS_FAULT,
    ucc.UC_MEM_WRITE_UNMAPPED: Cause.STORE_ACCESS_FAULT,
    ucc.UC_MEM_WRITE_PROT: Cause.STORE_ACCESS_FAULT,
    ucc.UC_MEM_FETCH_UNMAPPED: Cause.INSTRUCTION_ACCESS_FAULT,
    ucc.UC_MEM_FETCH_PROT: Cause.INSTRUCTION_ACCESS_FAULT,
}
_STORE_CAUSE = {4: 6, 5: 7, 13: 15}
# Found before the block that they are in has begun.
_FETCH_FAULTS = (Cause.INSTRUCTION_ACCESS_FAULT, Cause.INSTRUCTION_PAGE_FAULT)


class HartError(Exception):
    """The engine failed in a way that is not a guest's doing."""


class Hart:
    """One RV64GC hart on ``ram``.

    ``options``: `HartOptions`, or its ``access`` alone. ``words`` is the state, indexed by
    `emu.spec.words`; outside of a run and inside handlers it is up to date, and what is
    written there counts when the handler returns.
    """

    def __init__(self, ram: Ram, options: str | HartOptions = "auto", hartid: int = 0) -> None:
        self.ram = ram
        self.hartid = hartid  # among the machine's harts; the engine's mhartid reads 0
        self.options = HartOptions.of(options)
        self.uc = Uc(ucc.UC_ARCH_RISCV, ucc.UC_MODE_RISCV64)
        self.uc.ctl_set_tcg_buffer_size(_TCG_BUFFER_SIZE)
        # With exits enabled and none set, no address ends a run (`until` would).
        self.uc.ctl_exits_enabled(True)
        self.access = open_access(self.uc, self.options.access)
        self.words = self.access.words
        self.uc.mem_map_ptr(ram.base, ram.size, ucc.UC_PROT_ALL, ram.host_address)
        self.handlers: dict[int, Handler | None] = {3: None, 1: None}  # by target level
        self.trap_listener: Callable[[Trap], None] | None = None
        # Around what is looked at together with what is pending. On the public way it is also
        # around each change of that; where the C keeps it, that has a lock of its own.
        self.pending_lock = threading.RLock()
        self.interrupts: HartInterrupts
        if isinstance(self.access, DirectAccess):
            self.interrupts = SharedInterrupts(self.access.shared)
            self.access.watch_interrupts_for(self._python_may_take)
        else:
            self.interrupts = Interrupts(self.present, self.pending_lock)
        # Called when another thread than the run's has raised an interrupt: the clock then
        # sees to it that the engine looks, see `show_again`.
        self.raised: Callable[[], None] = lambda: None
        self.running = False
        # Around each change of `running`, and each stop from outside together with the look
        # at `running` that it belongs to: no stop is meant for one run and comes in the next.
        self._running_lock = threading.RLock()
        # What `rdtime` reads (ticks), and `rdcycle` if not the engine's own count; the
        # machine gives both from its clock.
        self._read_time: Callable[[], int] = lambda: 0
        self.read_cycles: Callable[[], int] | None = None
        # With `--deterministic`: minstret to the instruction; else it is the engine's count.
        self.retired: Retired | None = None
        self.counter_offsets = {CSR.MCYCLE: 0, CSR.MINSTRET: 0}  # from writes of these
        # Called at a `wfi` with nothing pending: waits until the event is set, or returns
        # False when nothing can ever set it.
        self.idle: Callable[[threading.Event], bool] = threading.Event.is_set
        # Called at the start of each run, before the first instruction.
        self.before_run: Callable[[], None] = lambda: None
        self.wake = threading.Event()
        self._waits = False  # in `_wait`
        self._thread = 0
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        # See undo: the words, fcsr, and the task.
        self._undone: tuple[bytes, int | None, Callable[[], Stop | None]] | None = None
        self.breakpoints: frozenset[int] = frozenset()  # VA, see set_breakpoints
        self._given_mip = 0  # on the public way: what the engine was given last
        # Set by a debugger that steps: as if no interrupt were pending.
        self.interrupts_held = False
        self._stop_asked = False
        self._restart = False
        self._entered: Trap | None = None  # the last trap that guest code was entered for
        self._tasks: list[Callable[[], Stop | None]] = []
        self._stepping_over = False
        self._rerun_to: tuple[int, ...] | None = None  # VA, see _exception
        # A run for a count takes interrupts between instructions. The engine would look in
        # the middle of one as well, behind its device access, and run it twice.
        self._stepping = False
        self._counted = False  # the translated code obeys a count
        self._in_place = self.access.in_place
        self.mmu = Mmu(ram, self.options.extensions)
        self.walks_by_spec = self._may_walk_by_spec()
        if self.walks_by_spec:
            self.access.walk_by(self.mmu)
        self.added_csrs = AddedCsrs(self.access)
        self.at_reset: list[Callable[[], None]] = []  # called at the end of each
        self.coherence: Coherence | None = None  # None: whoever changes code says so himself
        self._install_hooks()
        if not self._in_place:
            odd_pc.watch(self)
        self._look_again = StopAtBlock(self)
        if isinstance(self.access, DirectAccess):
            self.access.on_error = self.fail
            csr_repairs.install(self)
            if self.walks_by_spec:
                pmp_csrs.install(self.access, self.mmu)
        else:
            self.access.lock = self.pending_lock
            self.access.on_load, self.access.on_store = self._heed_mip, self._note_mip
        csr_repairs.add_absent(self)
        self.reset(ram.base)

    @property
    def read_time(self) -> Callable[[], int]:
        """What `time` reads (ticks)."""
        return self._read_time

    @read_time.setter
    def read_time(self, read: Callable[[], int]) -> None:
        self._read_time = read
        if isinstance(self.access, DirectAccess):
            self.access.ask_python(CSR.TIME)

    def _may_walk_by_spec(self) -> bool:
        """Whether `walk.c` translates. Raises ValueError for an unknown ``walk``."""
        wanted = self.options.walk
        if wanted not in ("spec", "engine"):
            raise ValueError(f"walk is spec or engine, not {wanted!r}")
        return wanted == "spec" and self._in_place and native.available()

    def close(self) -> None:
        """Let go of the engine."""
        if isinstance(self.access, DirectAccess):
            self.access.close()

    def _install_hooks(self) -> None:
        # Access faults are watched for outside of RAM only: a hook that covers RAM would
        # slow every store of the machine down.
        intr = calls.INTR_CB(self._make_on_intr())
        invalid = calls.INSN_INVALID_CB(self._on_insn_invalid)
        hole = calls.MEM_CB(self._on_hole)
        self.callbacks: list[object] = [intr, invalid, hole]  # the engine has their addresses
        calls.hook(self.uc, ucc.UC_HOOK_INTR, intr)
        calls.hook(self.uc, ucc.UC_HOOK_INSN_INVALID, invalid)
        kinds = ucc.UC_HOOK_MEM_UNMAPPED | ucc.UC_HOOK_MEM_PROT
        if self.ram.base:
            calls.hook(self.uc, kinds, hole, 0, self.ram.base - 1)
        calls.hook(self.uc, kinds, hole, self.ram.end, _M64)

    # state

    def reset(self, pc: int) -> None:
        """The state after reset (section 3.4): M-mode at ``pc`` (PA), no translation."""
        w = self.words
        for i in range(words.GPR, words.FPR):
            w[i] = 0
        kept = (words.MTVEC, words.STVEC)  # the spec leaves them open
        for i in range(words.MSTATUS, words.COUNT):
            w[i] = w[i] if i in kept else 0
        w[words.PC] = pc
        w[words.PRIV] = Priv.M
        w[words.LOAD_RES] = _M64
        w[words.MSTATUS] = CSR.MSTATUS_UXL_64 | CSR.MSTATUS_SXL_64
        self.access.store()
        if self.walks_by_spec:
            self.mmu.reset()
        else:
            self.access.reset_pmp()
        self.access.flush_tlb()
        self.interrupts.reset()
        for reset in self.at_reset:
            reset()
        self.present()

    @property
    def pending(self) -> int:
        """What `mip` reads."""
        return self.interrupts.pending

    @property
    def pc(self) -> int:
        return self.words[words.PC]

    @property
    def priv(self) -> Priv:
        return Priv(self.words[words.PRIV])

    @property
    def satp(self) -> int:
        return self.words[words.SATP]

    def set_satp(self, satp: int) -> None:
        """Switch address spaces as a `csrw satp` with its fence does.

        Raises ValueError for a reserved mode: the engine would abort the host on it.
        """
        mode_of_satp(satp)
        self.words[words.SATP] = satp
        self.access.flush_tlb()

    def set_sum(self, on: bool) -> None:
        """Set or clear mstatus.SUM, and drop the translations that were made with it."""
        status = self.words[words.MSTATUS]
        wanted = status | CSR.MSTATUS_SUM if on else status & ~CSR.MSTATUS_SUM
        if wanted != status:
            self.words[words.MSTATUS] = wanted
            self.access.flush_tlb()

    def read_csr(self, number: int) -> int:
        """Any CSR by number, whatever the privilege.

        Raises HartError for one that the hart does not have, or that cannot be reached.
        """
        added = self.added_csrs.get(number)
        value = added.read() if added else self.access.csr(number)
        if value is None:
            value = self._csr_from_words(number)
        if value is None:
            raise HartError(f"CSR {CSR.NAMES.get(number, hex(number))} cannot be read here")
        if number == CSR.MSTATUS and self.words[words.PRIV] != Priv.M:
            value &= ~CSR.MSTATUS_MPRV  # the engine clears it late, see `emu.spec.trap.enter`
        return value

    def _csr_from_words(self, number: int) -> int | None:
        w = self.words
        if number in (CSR.MIP, CSR.SIP):
            return self.pending & (w[words.MIDELEG] if number == CSR.SIP else _M64)
        place = {
            CSR.MSTATUS: words.MSTATUS, CSR.MIE: words.MIE, CSR.MIDELEG: words.MIDELEG,
            CSR.MEDELEG: words.MEDELEG, CSR.SATP: words.SATP, CSR.STVAL: words.STVAL,
            CSR.MTVAL: words.MTVAL, CSR.STVEC: words.STVEC, CSR.SEPC: words.SEPC,
            CSR.SCAUSE: words.SCAUSE, CSR.MTVEC: words.MTVEC, CSR.MEPC: words.MEPC,
            CSR.MCAUSE: words.MCAUSE,
        }.get(number)  # fmt: skip
        return None if place is None else w[place]

    def keep_code_coherent(self) -> None:
        """From now on the guest's own stores to code are seen, through whatever mapping."""
        if self.coherence is None:
            self.coherence = Coherence(self)

    def code_changed(self, pa: int, size: int) -> None:
        """The host has written ``size`` bytes of RAM at ``pa``, which may have been code."""
        if self.coherence is None:
            self.access.flush_code()
        elif self.coherence.holds_code(pa, size):
            self.access.drop_code(pa - self.ram.base, size)

    # translation, to predict and to explain

    def walk_config(self, access: Access) -> tuple[bool, WalkConfig]:
        """``(translated, config)`` of an access by the hart as it is now (section 3.1.6.3)."""
        status = self.words[words.MSTATUS]
        priv = self.effective_priv(access)
        have = self.options.extensions
        exact = self.walks_by_spec  # else the engine sets A and D, and knows no extension
        config = WalkConfig(
            user=priv == Priv.U,
            sum=bool(status & CSR.MSTATUS_SUM),
            mxr=bool(status & CSR.MSTATUS_MXR),
            svade=exact and not self.mmu.updates_ad,
            svnapot=exact and have.svnapot,
            svpbmt=exact and self.mmu.pbmte,
            pmp=self.mmu.pmp if exact and have.pmp else None,
        )
        return priv != Priv.M and bool(self.satp >> 60), config

    def effective_priv(self, access: Access) -> int:
        """The privilege that an access of now has: with MPRV, that of MPP (section 3.1.6.3)."""
        status = self.words[words.MSTATUS]
        priv = self.words[words.PRIV]
        if priv == Priv.M and access is not Access.EXECUTE and status & CSR.MSTATUS_MPRV:
            return (status & CSR.MSTATUS_MPP) >> CSR.MSTATUS_MPP_SHIFT
        return priv

    def predict(self, va: int, access: Access, size: int = 1) -> int | Refusal:
        """What an access of ``size`` bytes at ``va``, all in one page, would do: the PA that it
        touches, or the refusal. By the tables, the PMP and the board as they are now; what the TLB
        holds, and translated code, are not looked at."""
        result = self.walk(va, access)
        if isinstance(result, Refusal):
            return result
        pa = va if result is None else result.pa
        steps = () if result is None else result.steps
        _, config = self.walk_config(access)
        machine = self.effective_priv(access) == Priv.M
        rights = self.mmu.board_rights(pa)
        refused = check_access(pa, size, access, rights, config.pmp, machine)
        if refused is None:
            return pa
        rule, entry = refused
        level = None if result is None else result.level
        return Refusal(va, rule, level, None, access.access_fault, steps, entry)

    def walk(self, va: int, access: Access) -> Translation | Refusal | None:
        """The reference walk of ``va`` in the hart's present state; None: not translated."""
        translated, config = self.walk_config(access)
        mode = mode_of_satp(self.satp)
        if not translated or mode is None:
            return None
        return walk(self.ram, mode, satp_root(self.satp), va, access, config)

    def fetch(self, va: int) -> int | None:
        """The instruction's bits at ``va`` (2 or 4 bytes, low ones first), None: unreadable.

        Bit 0 of ``va`` means nothing: no instruction begins at an odd address.
        """
        va &= ~1
        first = self.fetch16(va)
        if first is None or insn.length(first) == 2:
            return first
        second = self.fetch16((va + 2) & _M64)
        return None if second is None else first | second << 16

    def fetch16(self, va: int) -> int | None:
        """The two bytes of code at ``va``, None: unreadable."""
        result = self.walk(va, Access.EXECUTE)
        if isinstance(result, Refusal):
            return None
        pa = va if result is None else result.pa
        if self.ram.contains(pa, 2):
            return self.ram.read16(pa)
        try:
            return int.from_bytes(self.uc.mem_read(pa, 2), "little")
        except UcError:
            return None

    # interrupts

    def set_pending(self, number: int, level: bool) -> None:
        """Raise or lower interrupt ``number`` (a bit of mip), from any thread.

        That is the wire of MSIP, MTIP, SEIP and MEIP. SSIP is a bit that the guest clears,
        and so is STIP, unless it is stimecmp's wire (see `emu.hart.interrupts`).
        """
        if self.interrupts.set(number, level) and level:
            self.has_raised()

    def has_raised(self) -> None:
        """An interrupt has become pending, in whatever thread: see to it that it is noticed."""
        self.wake.set()
        if self.running and threading.get_ident() != self._thread:
            self.raised()

    def show_again(self) -> bool:
        """Let the engine look again at what it has not taken yet; False when that is nothing.

        For interrupts that another thread raised. The engine clears its request to look and
        looks, without a barrier between: when the raise falls there it is forgotten, and
        guest code that never leaves its loop would not be interrupted (one in 300,000 timer
        ticks was lost). A stop that comes before the engine has started is forgotten, too. So
        whoever raises from another thread asks again until it is taken.
        """
        with self.pending_lock:
            # On the public way mie is that of the last stop.
            enabled = self.words[words.MIE] if self._in_place else _M64
            if not self.running or not self.pending & enabled:
                return False
            self.present()
            return True

    def present(self) -> None:
        """Show the engine the one interrupt that comes next.

        The engine takes the lowest number first, the spec has another order. It is never
        given a choice: only the winner is shown, again after each write that can change
        the winner (mip, mie, mideleg). An interrupt to M hides those to S, as it should:
        wherever one to S could be taken, the one to M would be taken first.
        """
        with self.pending_lock:
            held = self.interrupts_held or self._stepping or self._undone is not None
            if isinstance(self.access, DirectAccess):
                s_level, m_level = self.handlers[1] is not None, self.handlers[3] is not None
                self.access.present(held, s_level << 1 | m_level << 3)
                return
            # The words are those of the last stop, `mie` among them: look anew.
            self.access.present_interrupts(0 if held else self.interrupts.written)
            if self.pending and not held:
                self._look_again.set()

    def _python_may_take(self) -> None:
        """The interrupt that comes next is Python's: stop the hart where it is enabled.

        See _take_interrupts.
        """
        choice = trap.choose_interrupt(self.words, self.pending)
        if choice is None or self.handlers[choice[1]] is None:
            return
        if self.running and trap.is_enabled(self.words, choice[1]):
            self.start_again()

    def _heed_mip(self) -> None:
        """On the public way: what the guest has written to mip or sip since it was shown them.

        Its writes go to the engine alone. Old kernels' M-mode timer hands its tick down so.
        """
        mip = self.words[words.MIP]
        changed = mip ^ self._given_mip
        if changed:
            self._given_mip = mip
            self.interrupts.write(changed, mip)
        # What another thread has written meanwhile is no doing of the guest's.
        self.words[words.MIP] = 0 if self.interrupts_held else self.interrupts.written

    def _note_mip(self) -> None:
        """On the public way: the engine has been given the words, `mip` among them."""
        self._given_mip = self.words[words.MIP]

    def _take_interrupts(self) -> None:
        """Take what is pending and enabled and not delivered by the engine itself."""
        w = self.words
        while self._stop is None and not self._stop_asked and not self.interrupts_held:
            choice = trap.choose_interrupt(w, self.pending)
            if choice is None or not trap.is_enabled(w, choice[1]):
                return
            if self.handlers[choice[1]] is None and self._in_place and not self._stepping:
                return
            self._dispatch(Trap(choice[0], w[words.PC], 0, w[words.PRIV], choice[1], True))

    # traps

    def _dispatch(self, record: Trap) -> None:
        """The one path of every trap."""
        if self.trap_listener is not None:
            self.trap_listener(record)
        handler = self.handlers[record.target]
        if handler is None:
            if self._vector_is_gone(record):
                return
            self._entered = record
            # Where MPRV is set, MPP says how M-mode's loads are translated, and it changes.
            if self.words[words.MSTATUS] & CSR.MSTATUS_MPRV and record.target == Priv.M:
                self.access.flush_tlb()
            trap.enter(self.words, record)
            return
        self.words[words.PC] = record.epc
        stop = handler(record)
        if stop is not None:
            self.end(stop)
        if self.pending:  # the handler may have changed what is enabled
            self.present()

    def _vector_is_gone(self, record: Trap) -> bool:
        """Whether nobody handles this trap: the handler's own first fetch has trapped to it.

        Hardware would fetch, trap and fetch for ever. Ends the run with the trap that
        started it, in the state in which it struck.
        """
        if record.cause not in (1, 12) or record.interrupt:
            return False
        # From a lower level it is somebody who jumped there, and what the handler is for.
        if record.priv != record.target:
            return False
        w = self.words
        if record.epc != w[words.MTVEC if record.target == 3 else words.STVEC] & ~3:
            return False
        first = self._last_interrupt(record.target) or self._entered or record
        w[words.PC], w[words.PRIV] = first.epc, first.priv
        detail = "no trap handler: its vector cannot be fetched"
        self.end(Stop(StopReason.FAULT, trap=first, detail=detail))
        return True

    def _last_interrupt(self, target: int) -> Trap | None:
        """The last trap that ``target`` was entered for, if it was an interrupt.

        The engine delivers those by itself, so only the CSRs know of it.
        """
        w = self.words
        if target == Priv.M:
            cause, epc = w[words.MCAUSE], w[words.MEPC]
            priv = (w[words.MSTATUS] & CSR.MSTATUS_MPP) >> CSR.MSTATUS_MPP_SHIFT
        else:
            cause, epc = w[words.SCAUSE], w[words.SEPC]
            priv = int(bool(w[words.MSTATUS] & CSR.MSTATUS_SPP))
        if not cause & trap.INTERRUPT:
            return None
        return Trap(cause & ~trap.INTERRUPT, epc, 0, priv, target, True)

    def _make_on_intr(self) -> Callable[[int, int, int], None]:
        """The callback of every trap but `ebreak`, also the way of every system call.

        A closure over what never changes, plain integers, and one record that is used
        again for each kind of ecall: an attribute here and a call there double its cost.
        """
        w, handlers, access, in_place = self.words, self.handlers, self.access, self._in_place
        pc_word, priv_word, medeleg_word = words.PC, words.PRIV, words.MEDELEG
        records: dict[int, Trap] = {}
        pending, at = self.interrupts.place
        present = self.access.presenter() if isinstance(self.access, DirectAccess) else self.present

        def on_intr(_uc: int, number: int, _data: int) -> None:
            try:
                if not in_place:
                    access.load()
                if self._undone is not None:
                    calls.emu_stop(self.uc)
                    return
                pc = w[pc_word] - 4  # always 4, also behind a 2-byte instruction
                if pc < 0:
                    pc += 1 << 64
                if number == 8:  # ecall: reported as from U, from every level
                    priv = w[priv_word]
                    cause = 8 + priv
                    if self.retired is not None:
                        self.retired.trapped(pc)
                    target = 1 if priv <= 1 and w[medeleg_word] >> cause & 1 else 3
                    handler = handlers[target]
                    if handler is None or self.trap_listener is not None:
                        self._dispatch(Trap(cause, pc, 0, priv, target))
                    else:
                        record = records.get(cause)
                        if record is None or record.target != target:
                            record = records[cause] = Trap(cause, pc, 0, priv, target)
                        record.epc = w[pc_word] = pc
                        stop = handler(record)
                        if stop is not None:
                            del records[cause]  # it may live on in the Stop
                            self.end(stop)
                        if pending[at]:  # the handler may have changed what is enabled
                            present()
                else:
                    self._exception(number, pc)
                if not in_place:
                    access.store()
            except BaseException as e:  # nothing may pass through the engine's C frames
                self.fail(e)

        return on_intr

    def _on_insn_invalid(self, _uc: int, _data: int) -> bool:
        """`ebreak`, which the engine reports this way, with pc still on it."""
        try:
            if self._undone is not None:
                self._restart = True
                calls.emu_stop(self.uc)
                return True
            self.access.load()
            pc = self.words[words.PC]
            bits = self.fetch(pc)
            is_ebreak = bits in (0x0010_0073, 0x9002)
            self._exception(Cause.BREAKPOINT if is_ebreak else Cause.ILLEGAL_INSTRUCTION, pc)
            self.access.store()
            # The engine remembers this exception: until it is started again it would skip
            # the hook of the next access to a hole and take `wfi` for a failure.
            self._restart = True
            calls.emu_stop(self.uc)
        except BaseException as e:
            self.fail(e)
        return True

    def _on_hole(self, _uc: int, kind: int, pa: int, _size: int, _value: int, _data: int) -> bool:
        """An access to physical memory that is not there, or may not be accessed so."""
        try:
            cause = _NUMBER_TO_CAUSE_ON_HOLE[kind]
            self.undo(lambda: self._deliver_hole(cause, pa))
            # Pages that are in the TLB would not be asked about. Here the engine gives the access
            # up; behind a watchpoint's hook it goes on with the entry that it has, and needs
            # none of this: with such hooks each access is asked about.
            if self._in_place:
                self.access.flush_tlb()
        except BaseException as e:
            self.fail(e)
        return False

    def undo(self, task: Callable[[], Stop | None]) -> None:
        """From a memory hook: nothing of the instruction at pc is to have happened.

        In the hook pc and registers are exact. Behind it the engine goes on to the end of
        the block, so the state is taken now, loads and stores are denied, and system
        instructions are not allowed. Then ``task`` is called in the state of now, outside
        of the engine; a Stop that it returns ends the run. The first of a block counts.
        """
        if self._undone is not None:
            return
        self.access.load()
        fcsr = self.access.csr(CSR.FCSR) if self._in_place else None  # it is in no word
        with self.pending_lock:
            self._undone = bytes(self.words), fcsr, task
            self.present()  # none is taken in what is left of the block
        self.access.deny_memory(True)
        if self._in_place:
            self.words[words.PRIV] = Priv.U
        calls.emu_stop(self.uc)

    def _redo(self) -> Stop | None:
        """Back to the state that `undo` saved, and its task."""
        assert self._undone is not None
        (state, fcsr, task), self._undone = self._undone, None
        if fcsr is not None:
            self.access.csr(CSR.FCSR, fcsr)
        self.words.cast("B")[:] = state
        stop = task()
        self.access.store()
        return stop

    def _deliver_hole(self, cause: int, pa: int) -> None:
        """Take the access fault that `_on_hole` found."""
        w = self.words
        pc = w[words.PC]
        if cause == Cause.INSTRUCTION_ACCESS_FAULT:
            # Only the page of a fetch is reported: what is at its start is either pc
            # itself, or the second half of an instruction that crosses into it.
            crosses = (pc ^ pa) % PAGE_SIZE != 0
            tval = (pc | PAGE_SIZE - 1) + 1 if crosses else pc
        else:
            tval = self._data_address(pc, pa)
        self._exception(cause, pc, tval)

    def _data_address(self, pc: int, pa: int) -> int:
        """The VA of the data access at ``pc`` that touched ``pa``."""
        bits = self.fetch(pc)
        va = None if bits is None else insn.effective_address(bits, self.words[:32])
        if va is None:
            return pa
        # An access that straddles two pages faults in the part that ``pa`` belongs to.
        return (va + ((pa - va) % PAGE_SIZE)) & _M64

    def _exception(self, number: int, pc: int, tval: int | None = None) -> None:
        """Correct what the engine reports, then route."""
        w = self.words
        cause = number
        if tval is None:
            tval = w[words.BADADDR]
        if cause == Cause.ILLEGAL_INSTRUCTION:
            tval = self.fetch(pc) or 0
            if not self._in_place and self.added_csrs.execute(tval):
                w[words.PC] = (pc + 4) & _M64
                return
        elif cause == Cause.BREAKPOINT:
            tval = pc
        elif cause in (Cause.INSTRUCTION_PAGE_FAULT, Cause.INSTRUCTION_ACCESS_FAULT):
            if tval < pc & -PAGE_SIZE:
                if pc in self.breakpoints:  # translating an exit looks there, too
                    w[words.PC] = pc
                    self.end(Stop(StopReason.BREAKPOINT))
                    return
                # A 16-bit illegal instruction at the start of a page, behind one that
                # is not mapped: the engine blames that page.
                cause, tval = Cause.ILLEGAL_INSTRUCTION, self.fetch(pc) or 0
            elif tval > pc + 2:
                # An instruction that cannot be fetched, for the page that it crosses into or
                # for the PMP. The engine found it while it translated the block that starts
                # at pc, and has executed nothing of it. Run up to that instruction first;
                # there it faults exactly. What cannot be fetched is its first half or its
                # second; behind the border of a page, the second.
                self._rerun_to = (tval - 2, tval) if tval % PAGE_SIZE else (tval - 2,)
                w[words.PC] = pc
                calls.emu_stop(self.uc)
                return
        elif cause in _STORE_CAUSE:
            bits = self.fetch(pc)
            if bits is not None and insn.is_store_or_amo(bits):
                cause = _STORE_CAUSE[cause]
        if cause in trap.PAGE_FAULTS and not self.walks_by_spec:
            # Spec: a page table outside of RAM is an access fault, the engine has it a
            # page fault.
            access = ACCESS_OF_CAUSE[cause]
            result = self.walk(tval, access)
            if isinstance(result, Refusal) and result.rule is Rule.TABLE_NOT_RAM:
                cause = result.cause
        if self.retired is not None and cause not in _FETCH_FAULTS:
            self.retired.trapped(pc)
        priv = w[words.PRIV]
        self._dispatch(Trap(cause, pc, tval, priv, trap.exception_target(w, cause)))

    def fail(self, error: BaseException) -> None:
        """Keep an exception of a callback until the engine has returned."""
        if self._error is None:
            self._error = error
        calls.emu_stop(self.uc)

    # running

    def stop(self) -> None:
        """Stop the running hart from another thread or a signal handler.

        From another thread it returns when the run has seen it. Call it without locks
        that a device or handler may want.
        """
        self._stop_asked = True
        self.wake.set()
        # A stop that comes between the run's last look at the flag and the engine's start
        # is lost: ask until it has been seen.
        while self._ask_to_stop() and self._thread != threading.get_ident():
            time.sleep(_ASK_AGAIN)

    def _ask_to_stop(self) -> bool:
        """Stop the engine for `stop`; False when there is no run that has not seen it."""
        with self._running_lock:
            if not self._stop_asked or not self.running:
                return False
            if self._in_place:
                calls.emu_stop(self.uc)
            else:
                self._look_again.set()
            return True

    def stop_wanted(self) -> bool:
        """Whether somebody waits for the run to stop: for callbacks that take long."""
        return self._stop_asked

    def call_soon(self, task: Callable[[], Stop | None]) -> None:
        """From a callback: stop at the next block and call ``task`` outside of the engine."""
        if self._stepping_over:
            return
        if task not in self._tasks:
            self._tasks.append(task)
        calls.emu_stop(self.uc)

    def start_again(self) -> None:
        """Leave the engine and enter it again, to look at interrupts."""
        self._restart = True  # first: the run looks why the engine was left
        calls.emu_stop(self.uc)

    def end(self, stop: Stop) -> None:
        """From a device's callback: end the run with ``stop`` after this instruction.

        The first counts: what is left of the block, or the fetch of the next, may trap.
        """
        if self._stop is None:
            self._stop = stop
        calls.emu_stop(self.uc)

    def set_breakpoints(self, addresses: Iterable[int]) -> None:
        """End a run with BREAKPOINT before the instruction at each of these VAs, in any
        address space and at any privilege, also when the run begins there."""
        wanted = frozenset(addresses)
        if wanted != self.breakpoints:
            self.breakpoints = wanted
            self.uc.ctl_set_exits([*wanted])
            self.access.flush_code()  # exits are looked at when code is translated

    def run(self, count: int = 0) -> Stop:
        """Run until something ends it, or for ``count`` instructions.

        Raises what a handler or device raised, and HartError when the engine fails.
        """
        if self.running:
            raise HartError("the hart is running already")
        with self._running_lock:
            self._stop = None
            self._stop_asked = False
            self._thread = threading.get_ident()
            self._stepping = count > 0
            self.running = True
        try:
            return self._run(count)
        finally:
            with self._running_lock:
                self.running = self._stepping = False

    def _run(self, count: int) -> Stop:
        w = self.words
        for word in (words.PC, words.MEPC, words.SEPC):  # whoever has written them
            w[word] &= ~1
        self.access.store()
        self.before_run()
        left = count
        while True:
            if count and not left:
                return self._finish(Stop(StopReason.LIMIT))
            self.present()
            self._look_again.clear()  # who has asked for a look: it comes now
            self._restart = False
            self._take_interrupts()
            if self._stop is not None:
                return self._finish(self._stop)
            if self._stop_asked:  # while the engine was not running, which loses such a stop
                return self._finish(Stop(StopReason.INTERRUPTED))
            if not self._in_place:
                self.access.store()
            pc = w[words.PC]
            # One by one, so that traps cannot upset the count: each is one instruction.
            step = count > 0
            if self.pending and not self._in_place and not step:
                if self._look_again.is_native:
                    self._look_again.set_behind_one()
                else:
                    step = True
            rerun_to, self._rerun_to = self._rerun_to, None
            if rerun_to is not None:
                self.uc.ctl_set_exits([*rerun_to, *self.breakpoints])
                self.mmu.stop_before(rerun_to[-1])
            status = self._start(pc, 1 if step else 0)
            self.access.deny_memory(False)
            self.access.load()
            if w[words.PC] & 1:  # see `odd_pc`
                w[words.PC] &= ~1
                self.access.flush_code()
            if self._rerun_to is None:
                left -= 1
            if rerun_to is not None:
                self.uc.ctl_set_exits([*self.breakpoints])
                self.mmu.stop_before(None)
            if self._error is not None:
                error, self._error = self._error, None
                self._undone = None
                raise error
            if self._undone is not None:
                self._stop = self._redo() or self._stop
                if self._stop is not None:
                    return self._finish(self._stop)
                continue
            if self._tasks and not self._in_place:
                self._step_over(w[words.PC])
            while self._tasks and self._stop is None:
                self._stop = self._tasks.pop(0)()
                self._restart = True
            if self._stop is not None:
                if self._stop.reason is not StopReason.WFI or not self._wait():
                    return self._finish(self._stop)
                self._stop = None  # a handler had the hart wait, as `wfi` does; it has
                continue
            if self._stop_asked:
                return self._finish(Stop(StopReason.INTERRUPTED))
            if self._restart or self._rerun_to is not None:
                continue
            if w[words.PC] in self.breakpoints:
                return self._finish(Stop(StopReason.BREAKPOINT))
            if status != ucc.UC_ERR_OK:
                text = UcError(status)
                raise HartError(f"{text} at pc={w[words.PC]:#x}")
            if (rerun_to and w[words.PC] in rerun_to) or (step and w[words.PC] != pc + 4):
                continue
            if self.interrupts_held:  # a `wfi` that is stepped over does not wait
                continue
            if self._at_wfi() and not self._wait():
                return self._finish(Stop(StopReason.WFI))

    def _start(self, pc: int, count: int) -> int:
        """Run the engine from ``pc``, for one instruction (``count`` 1) or on and on (0)."""
        if self._counted != bool(count):
            self._counted = bool(count)
            self.access.obey_count(self._counted)
        if self.coherence is not None:
            self.coherence.enters(pc)
        if self.retired is not None:
            return self.retired.counted(pc, count, lambda: calls.emu_start(self.uc, pc, count))
        return calls.emu_start(self.uc, pc, count)

    def _step_over(self, pc: int) -> None:
        """On the public way a stop leaves pc at the access that asked for it: finish that."""
        self._stepping_over = True
        self._start(pc, 1)
        self._stepping_over = False
        self.access.load()

    def _wait(self) -> bool:
        """`wfi`: wait until an interrupt is pending that mie has; False: none can ever be."""
        w = self.words
        self._waits = True
        try:
            while not self.pending & w[words.MIE] and not self._stop_asked:
                self.wake.clear()
                if self.pending & w[words.MIE] or self._stop_asked:
                    break  # it came before the clear
                if not self.idle(self.wake):
                    return False
            return True
        finally:
            self._waits = False

    def lost_wakeup(self) -> str | None:
        """Why a hart that makes no progress should have, None when it is as it should be.

        For who watches a machine from another thread. It looks at one moment of a hart that
        runs, and what it finds may be about to be mended: found twice, with nothing executed
        between, it is a fault (docs/hart.md, "Who orders what").
        """
        with self.pending_lock:
            enabled = self.pending & self.words[words.MIE]
            if not self.running:
                return None
            if self._stop_asked:
                where = "waits" if self._waits else "goes on"
                return f"a stop was asked for, and the run {where}"
            if self._waits:
                if enabled and not self.wake.is_set():
                    return f"it waits, and {enabled:#x} is pending and enabled"
                return None
            if not self._in_place or self.interrupts_held or self._stepping or self._undone:
                return None
            return self._shown_wrong()

    def _shown_wrong(self) -> str | None:
        assert isinstance(self.access, DirectAccess)
        shown, wanted = self.access.look_shown()
        if shown != wanted:
            return f"the engine is shown {shown:#x}, and {wanted:#x} comes next"
        return None

    def _at_wfi(self) -> bool:
        pc = self.words[words.PC]
        return self.fetch((pc - 4) & _M64) == 0x1050_0073

    def _finish(self, stop: Stop) -> Stop:
        self.access.store()
        return stop
