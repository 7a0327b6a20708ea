"""What the user typed: which guest it is, and what to say of a file that is none.

A name without a slash is a file in the current folder, else a guest that comes with pagewalk;
`guest:NAME` is always the latter.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from pathlib import Path

from guest.image import user_file
from guest.image.elf import ElfError
from guest.image.shipped import shipped
from guest.image.user_file import UserFileError

PREFIX = "guest:"
FETCHED = ("linux", "u-boot")  # kernels of `pagewalk fetch`, by name

_SUFFIXES = (".elf", ".ko", ".c", ".S")
_NAMES_MAX = 1000  # of a folder, that are compared with what was typed
_HEAD_SIZE = 512  # bytes of a file that are looked at
_ELF_MAGIC, _ET_REL, _ET_DYN = b"\x7fELF", 1, 3
_IMAGE_MAGIC_AT, _IMAGE_MAGICS = 0x30, (b"RISCV\0\0\0", b"RSC\x05")
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh", b"\x5d\0\0")
_TEXT_WITH_A_NAME = (b"#!", b"070701", b"070702")
_KIND_OF_FOLDER = {"programs": "a U-mode program", "modules": "a kernel module"}


def shipped_guest(name: str) -> Path | None:
    """The ELF that `guest:NAME` or a bare NAME means, unless a file has that name."""
    if name.startswith(PREFIX):
        return shipped().get(name.removeprefix(PREFIX))
    return None if Path(name).is_file() else shipped().get(name)


def near(name: str, command: str = "run") -> str:
    """A question after what has the nearest name, a guest or a file beside it; or nothing."""
    from difflib import get_close_matches  # for this alone

    known = [n for n, path in shipped().items() if command == "run" or not _is_for_run(path)]
    wanted = name.removeprefix(PREFIX)
    path = Path(wanted)
    choices = {word.lower(): word for word in (*FETCHED, *known)}
    if not name.startswith(PREFIX) and (beside := _names_in(path.parent)):
        if "/" in name:
            choices = {}
        choices |= {(shown := str(path.parent / file)).lower(): shown for file in beside}
    if path.suffix in _SUFFIXES and path.stem in known:
        return f"; did you mean {path.stem}?"
    found = get_close_matches(str(path).lower(), choices, 1)
    return f"; did you mean {choices[found[0]]}?" if found else ""


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())[:_NAMES_MAX]
    except OSError:
        return []


def _is_for_run(path: Path) -> bool:
    return path.parent.name in _KIND_OF_FOLDER


def hides(name: str, command: str) -> str:
    """What to add to a refusal of a file that is named like a shipped guest, or nothing."""
    if name not in shipped():
        return ""
    return f" (the guest of that name that comes with pagewalk: pagewalk {command} {PREFIX}{name})"


def is_text(head: bytes) -> bool:
    """Whether a file that begins so is text: UTF-8 without control characters but white space."""
    try:  # a character may be cut in two at the end
        text = getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\t\n\r\f" for c in text)


def not_to_run(path: Path, name: str) -> str | None:
    """Why `pagewalk run` has no use for a file, and who has; None for one that may do."""
    head = _head(path)
    if head.startswith(_ELF_MAGIC):
        if _elf_type(head) == _ET_REL and _has_modinfo(path):
            return (
                f"{name}: a module built for Linux itself: insmod it there (pagewalk boot linux), "
                "or give its C file"
            )
        return None
    if is_image(head):
        return f"{name}: a kernel (RISC-V Image): pagewalk boot {name}"
    if head.startswith(_COMPRESSED):
        return f"{name}: compressed, not an ELF file; a kernel may be: pagewalk boot {name}"
    if is_text(head):
        return f"{name}: is text, not an ELF file; C and assembly files end in .c, .S or .s"
    return None


def not_to_boot(path: Path, name: str) -> str | None:
    """Why `pagewalk boot` has no use for a file, and who has; None for one that may do."""
    head = _head(path)
    if head.startswith(_ELF_MAGIC):
        kind = _elf_type(head)
        if kind == _ET_REL and _has_modinfo(path):
            return f"{name}: is a kernel module, not a kernel: insmod it in the Linux it is for"
        if kind == _ET_DYN and _is_module(path):
            return f"{name}: is a kernel module: pagewalk run {name}"
        return None
    if head.startswith(_TEXT_WITH_A_NAME):  # `guest.image.kernel_image` knows it
        return None
    return f"{name}: is text, not a kernel" if is_text(head) else None


def shipped_not_to_boot(path: Path, name: str, in_m_mode: bool) -> str | None:
    """As `not_to_boot`, for a guest that comes with pagewalk."""
    if path.parent.name == "bare" and not in_m_mode:
        return f"{name}: begins in M-mode: give --bios none, or pagewalk run {name}"
    kind = _KIND_OF_FOLDER.get(path.parent.name)
    return f"{name}: is {kind}: pagewalk run {name}" if kind else None


def is_image(head: bytes) -> bool:
    """Whether a file that begins so has the boot header of a RISC-V Image."""
    return any(head.startswith(m, _IMAGE_MAGIC_AT + 8 * i) for i, m in enumerate(_IMAGE_MAGICS))


def _head(path: Path) -> bytes:
    try:
        return user_file.head(path, _HEAD_SIZE)
    except UserFileError:  # told by whoever reads it
        return b""


def _elf_type(head: bytes) -> int:
    return int.from_bytes(head[16:18], "little")


def _is_module(path: Path) -> bool:
    from guest.image import elf

    try:
        return elf.load(path).is_module
    except ElfError:
        return False


def _has_modinfo(path: Path) -> bool:
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            return ELFFile(file).get_section_by_name(".modinfo") is not None
    except Exception:  # pyelftools raises whatever its parsers stumble over
        return False
