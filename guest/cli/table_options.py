"""`PROGRAM`, `--machine`, `--load` and what goes with them: whose page tables.

@table_options
def tables(..., request: TablesRequest, ...):
    it = request.tables()
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from emu.debug.symbols import Symbols
from emu.spec.paging import mode_of_satp
from guest.boot import look, machines
from guest.boot.find import RUN, Found, find
from guest.boot.kernel_machine import KernelOptions
from guest.boot.machines import KERNEL, MACHINES
from guest.boot.outcome import UsageError
from guest.cli.kernel_options import kernel_options
from guest.cli.kit import refuse_idle
from guest.cli.load_options import load_option, refuse_beside_load, symbols_option
from guest.image.elf import Elf


@dataclass(frozen=True)
class TablesRequest:
    """Whose tables: the kernel's after boot, those of a guest that it runs, or a snapshot's."""

    program: str | None
    machine: str | None
    load: Path | None
    symbols: Path | None
    kernel: KernelOptions

    def tables(self) -> look.Tables:
        """Raises UsageError, SnapshotError, and what running the guest raises."""
        if self.load is not None:
            refuse_beside_load(click.get_current_context())
            return look.load_snapshot(self.load, self.symbols)
        names = look.load_symbols(self.symbols)
        if self.program is None:
            if self.machine not in (None, KERNEL):
                raise UsageError(f"a {self.machine} machine has no tables before it runs a program")
            return self._of_kernel(None, names)
        found = find(self.program, RUN, self.machine)
        elf = machines.load(found, self.machine)
        machine = machines.machine_for(elf, self.machine)
        if machine == KERNEL:
            return self._of_kernel(elf, names)
        why = f"for the kernel machine; {self.program} runs on {machine}"
        refuse_idle(click.get_current_context(), ["paging", "slab", "append"], why)
        return self._of_board(found, elf, machine, names)

    def _of_kernel(self, elf: Elf | None, names: Symbols) -> look.Tables:
        """After boot, and with a guest as it is loaded. What it prints was not asked for."""
        from guest.boot import kernel_machine

        system = kernel_machine.boot(self.kernel)
        satp = system.kernel.satp()
        if elf is not None and elf.is_module:
            system.load_module(elf)
        elif elf is not None:
            satp = system.kernel.satp(system.load_program(elf).mm)
        return look.Tables(system.machine.ram, self.kernel.paging, satp, names)

    def _of_board(self, found: Found, elf: Elf, machine: str, names: Symbols) -> look.Tables:
        """Where a bare or firmware guest ended."""
        from guest.boot import boot
        from guest.boot.session import Session, SessionOptions

        options = boot.options_of(found, elf, machine, self.kernel.ram_size, self.kernel.hart)
        booted = boot.prepare(options)
        outcome = Session(booted, SessionOptions(reboot=False, with_input=False)).run(found.name)
        satp = booted.board.hart.satp
        mode = mode_of_satp(satp)
        if mode is None:
            raise UsageError(
                f"{self.program}: translation is off (satp=0) where it ended: {outcome.where}"
            )
        return look.Tables(booted.board.ram, mode, satp, names)


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options; it gets them as ``request``, a `TablesRequest`."""

    @click.argument("program", required=False)
    @load_option
    @symbols_option
    @kernel_options
    @click.option(
        "--machine",
        type=click.Choice(MACHINES),
        help="Who holds which level: bare, firmware or kernel, see pagewalk run.",
    )
    @functools.wraps(command)
    def with_request(
        *args: Any,
        program: str | None,
        machine: str | None,
        load: Path | None,
        symbols: Path | None,
        kernel: KernelOptions,
        **kw: Any,
    ) -> Any:
        request = TablesRequest(program, machine, load, symbols, kernel)
        return command(*args, request=request, **kw)

    return with_request
