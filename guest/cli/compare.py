"""`pagewalk compare`: one allocation trace through SLAB, SLUB and SLOB.

With --record the trace comes from a guest: every kmalloc and kfree of a kernel module is
written down as it runs. The module then has no fast path (slub_debug=F: no per-CPU
freelists that it could pop itself), so that each call traps and is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from guest.boot.outcome import UsageError
from guest.cli.kit import SizeParameter, json_option, print_json, refuse_idle
from guest.image.shipped import shipped
from mm.alloc_trace import GENERATED, Op, dump, parse


def load_trace(name: str) -> list[Op]:
    """The trace of a file, or a generated one by its name. Raises UsageError."""
    path = Path(name)
    if not path.exists():
        if name in GENERATED:
            return GENERATED[name]()
        if name in shipped():
            raise UsageError(f"{name}: a guest, not a trace: --record FILE makes one of its run")
        near = get_close_matches(name, GENERATED, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{name}: no such file, and no generated trace{hint} ({', '.join(GENERATED)})"
        )
    try:
        return parse(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{name}: {e}") from None
    except ValueError as e:
        raise UsageError(f"{name}: {e}") from None


def record(program: str, arguments: Sequence[str], ram_size: int) -> list[Op]:
    """The kmallocs and kfrees of a kernel module's run. Raises UsageError."""
    from guest.boot import kernel_machine, machines
    from guest.boot.find import RUN, find

    options = kernel_machine.KernelOptions(ram_size, config=(("slub_debug", "F"),))
    elf = machines.load(find(program, RUN))
    if not elf.is_module:
        raise UsageError(f"{program}: no kernel module; programs do not call kmalloc")
    system = kernel_machine.boot(options)
    kernel = system.kernel
    ops: list[Op] = []
    names: dict[int, str] = {}
    kmalloc, kfree = kernel.kmalloc, kernel.kfree

    def seen_kmalloc(size: int, *rest: int) -> int | None:
        va = kmalloc(size, *rest)
        if va is not None and size > 0:
            names[va] = f"k{len(ops)}"
            ops.append(Op("a", names[va], size))
        return va

    def seen_kfree(va: int) -> None:
        kfree(va)
        if va in names:
            ops.append(Op("f", names.pop(va)))

    setattr(kernel, "kmalloc", seen_kmalloc)  # noqa: B010
    setattr(kernel, "kfree", seen_kfree)  # noqa: B010
    module, stop = system.load_module(elf, arguments)
    if stop.reason.name == "EXIT" and stop.value == 0:
        system.unload_module(module)
    return ops


def register(main: click.Group) -> None:
    """Add `compare` to the command line."""

    @main.command("compare")
    @click.argument("trace")
    @click.argument("arguments", nargs=-1)
    @click.option(
        "--slab",
        "kinds",
        type=click.Choice(["slab", "slub", "slob"]),
        multiple=True,
        help="Only this one; may be given more than once. Default: all three.",
    )
    @click.option("--ram", "ram_size", type=SizeParameter(), default=64 << 20, show_default="64M",
                  help="RAM of each machine.")  # fmt: skip
    @click.option(
        "--record", "recording", type=click.Path(dir_okay=False), metavar="FILE",
        help="TRACE is a kernel module: run it, write its kmallocs and kfrees to FILE, "
        "and compare with those.",
    )  # fmt: skip
    @click.option(
        "--write", "writing", type=click.Path(dir_okay=False), metavar="FILE",
        help="Write the trace to FILE and do nothing else.",
    )  # fmt: skip
    @json_option
    def compare_command(
        trace: str,
        arguments: tuple[str, ...],
        kinds: tuple[str, ...],
        ram_size: int,
        recording: str | None,
        writing: str | None,
        as_json: bool,
    ) -> None:
        """Run one allocation TRACE through SLAB, SLUB and SLOB, each on fresh RAM.

        TRACE is a file, or one of four generated ones:

        \b
        churn   small objects made and freed at random: speed
        mixed   all sizes, long-lived, then two in three are freed: holes
        fifo    a queue of packets: memory that comes back in order
        boot    sixty caches, as after a kernel's boot: waste

        A trace has one operation a line: `a ID SIZE` (kmalloc), `f ID` (free), `c NAME SIZE`
        (make a cache), `o ID NAME` (an object of it), `# comment`.

        \b
        us/op      host time of an operation: Python's, to compare with one another
        peak, end  pages held: the most, and at the end; shrunk: after kmem_cache_shrink
        internal   of the bytes in live objects, those nobody asked for, at the fullest moment
        external   of the bytes in held pages, those in no live object, at that moment
        lines/op   distinct 64-byte lines of RAM that the allocator touches in an operation
        """
        if writing is not None:
            idle = ["kinds", "as_json"] if recording else ["kinds", "as_json", "ram_size"]
            refuse_idle(click.get_current_context(), idle, "--write only writes the trace")
        from mm.errors import OutOfMemory
        from mm.slab_compare import KINDS, compare, table

        if recording is not None:
            ops = record(trace, arguments, ram_size)
            if not ops:
                raise UsageError(f"{trace}: its run allocated nothing with kmalloc")
            _write(recording, ops, f"pagewalk compare --record of {trace}")
        elif arguments:
            raise UsageError("arguments are for a module that --record runs")
        else:
            ops = load_trace(trace)
        if writing is not None:
            _write(writing, ops, f"pagewalk compare {trace}")
            return
        try:
            results = compare(ops, kinds or KINDS, ram_size)
        except OutOfMemory as e:
            raise UsageError(str(e)) from None
        if as_json:
            rows = [result.as_dict() for result in results]
            print_json({"trace": trace, "operations": len(ops), "results": rows})
        else:
            click.echo(f"{trace}: {len(ops)} operations")
            click.echo(table(results), nl=False)


def _write(path: str, ops: Sequence[Op], comment: str) -> None:
    try:
        Path(path).write_text("\n".join(dump(ops, comment)) + "\n")
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror or e}") from None
