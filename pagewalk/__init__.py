"""pagewalk from Python: the interface that stays.

    from pagewalk import Machine

    with Machine("test.elf") as machine:
        stop = machine.run()
        assert stop.code == 0 and machine.reg.a0 == 42

docs/python.md shows the rest. What is exported here is documented, typed, and kept; the rooms
below it (``emu``, ``mm``, ``guest``, ``firmware``) change as they need to. A name is imported
when it is first used: ``import pagewalk`` itself takes a millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of this

if TYPE_CHECKING:
    from emu.debug.snapshot.file import SnapshotError as SnapshotError
    from emu.hart import HartError as HartError
    from emu.hart import HartOptions as HartOptions
    from emu.ram import Ram as Ram
    from emu.ram import RamError as RamError
    from emu.spec.csr import Priv as Priv
    from emu.spec.trap import Cause as Cause
    from emu.spec.trap import Trap as Trap
    from emu.spec.walk import Access as Access
    from emu.spec.walk import Refusal as Refusal
    from emu.spec.walk import Rule as Rule
    from emu.spec.walk import Translation as Translation
    from emu.stop import Stop as Stop
    from emu.stop import StopReason as StopReason
    from guest.boot.outcome import UsageError as UsageError
    from guest.build import BuildError as BuildError
    from guest.image.elf import ElfError as ElfError
    from mm.errors import MmError as MmError
    from pagewalk.assembler import assemble as assemble
    from pagewalk.console import ConsoleError as ConsoleError
    from pagewalk.device import Device as Device
    from pagewalk.kernel import Kernel as Kernel
    from pagewalk.machine import Machine as Machine
    from pagewalk.tables import pte as pte
    from pagewalk.tables import satp as satp

_WHERE = {
    "Access": "emu.spec.walk",
    "BuildError": "guest.build",
    "Cause": "emu.spec.trap",
    "ConsoleError": "pagewalk.console",
    "Device": "pagewalk.device",
    "ElfError": "guest.image.elf",
    "HartError": "emu.hart",
    "HartOptions": "emu.hart",
    "Kernel": "pagewalk.kernel",
    "Machine": "pagewalk.machine",
    "MmError": "mm.errors",
    "Priv": "emu.spec.csr",
    "Ram": "emu.ram",
    "RamError": "emu.ram",
    "Refusal": "emu.spec.walk",
    "Rule": "emu.spec.walk",
    "SnapshotError": "emu.debug.snapshot.file",
    "Stop": "emu.stop",
    "StopReason": "emu.stop",
    "Translation": "emu.spec.walk",
    "Trap": "emu.spec.trap",
    "UsageError": "guest.boot.outcome",
    "assemble": "pagewalk.assembler",
    "pte": "pagewalk.tables",
    "satp": "pagewalk.tables",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'pagewalk' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
