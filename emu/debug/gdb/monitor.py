"""What gdb's `monitor` command answers: the page tables in words."""

from __future__ import annotations

from collections.abc import Callable

from emu.debug.explain import describe_walk
from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.spec import tables
from emu.spec import words as W
from emu.spec.csr import PRIV_NAMES
from emu.spec.paging import PagingMode, mode_of_satp, satp_asid, satp_root
from emu.spec.walk import Access, walk

HELP = """\
monitor commands:
  walk VA [read|write|execute]  every PTE on the way of VA (hex, or a symbol), in words
  tables                        what satp's tables map, as ranges
  tree                          satp's tables level by level
  registers                     the integer registers, pc, privilege and satp
  help                          this text
"""
_ACCESSES = {access.verb: access for access in Access}


class Monitor:
    """The commands on ``hart``; ``symbols`` gives addresses for names."""

    def __init__(self, hart: Hart, symbols: Symbols) -> None:
        self._hart = hart
        self._symbols = symbols
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "walk": self._walk,
            "tables": self._tables,
            "tree": self._tree,
            "registers": self._registers,
            "help": lambda _arguments: HELP,
        }

    def command(self, line: str) -> str:
        """The answer to a line, with its last newline; the help for what is no command."""
        name, *arguments = line.split() or ["help"]
        command = self._commands.get(name)
        if command is None:
            return f"no command {name!r}\n{HELP}"
        text = command(arguments)
        return text if text.endswith("\n") else text + "\n"

    def _address(self, text: str) -> int | None:
        try:
            value = int(text, 16)
        except ValueError:
            return self._symbols.address(text)
        return value if 0 <= value < 1 << 64 else None

    def _walk(self, arguments: list[str]) -> str:
        hart = self._hart
        if not 1 <= len(arguments) <= 2:
            return "walk takes VA and, if wanted, read, write or execute"
        va = self._address(arguments[0])
        access = _ACCESSES.get(arguments[1]) if len(arguments) == 2 else Access.READ
        if va is None:
            return f"{arguments[0]!r} is neither a hexadecimal address nor a symbol"
        if access is None:
            return f"an access is read, write or execute, not {arguments[1]!r}"
        mode = mode_of_satp(hart.satp)
        if mode is None:
            return f"no translation: satp is Bare, {va:#x} is a PA"
        translated, config = hart.walk_config(access)
        root = satp_root(hart.satp)
        result = walk(hart.ram, mode, root, va, access, config)
        lines = describe_walk(mode, root, va, result, satp_asid(hart.satp))
        level = PRIV_NAMES[hart.priv]
        if translated:
            lines.insert(0, f"{access.verb} by {level}-mode")
        else:
            lines.insert(0, f"{level}-mode does not translate; S-mode's {access.verb} would go:")
        return "\n".join(lines)

    def _tables(self, _arguments: list[str]) -> str:
        return self._of_tables(
            lambda mode, root: tables.info_mem(tables.ranges(self._hart.ram, mode, root))
        )

    def _tree(self, _arguments: list[str]) -> str:
        return self._of_tables(lambda mode, root: tables.tree(self._hart.ram, mode, root))

    def _of_tables(self, show: Callable[[PagingMode, int], str]) -> str:
        mode = mode_of_satp(self._hart.satp)
        if mode is None:
            return "no translation: satp is Bare"
        try:
            return show(mode, satp_root(self._hart.satp))
        except tables.TooManyEntries as e:
            return str(e)

    def _registers(self, _arguments: list[str]) -> str:
        w, hart = self._hart.words, self._hart
        name = self._symbols.name(hart.pc)
        lines = [
            f"pc {hart.pc:#018x}{f' <{name}>' if name else ''} "
            f"{PRIV_NAMES[hart.priv]}-mode satp {hart.satp:#018x}"
        ]
        for row in range(0, 32, 4):
            cells = (f"{W.ABI_NAMES[i]:<5} {w[i]:#018x}" for i in range(row, row + 4))
            lines.append("  ".join(cells))
        return "\n".join(lines)
