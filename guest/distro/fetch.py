"""The guests that other people wrote: OpenSBI, U-Boot, Linux and BusyBox of the distribution.

They are packages of Debian's newest stable suite for riscv64, fetched by name through the
machine's own apt (`guest.distro.apt`). What the board needs of them lies in one folder: in
``$PAGEWALK_GUESTS``, else ``$XDG_CACHE_HOME/pagewalk/guests``, else
``~/.cache/pagewalk/guests``.

    riscv64/            a whole set, or nothing: it is made beside and renamed
      manifest.json     packages, versions, and each file's size and SHA-256
      linux             the kernel, a raw Image with the RISC-V boot header
      fw_jump.bin .elf  fw_dynamic.bin .elf     OpenSBI
      u-boot.bin .elf                           U-Boot for S-mode
      busybox                                   a static program
      modules/*.ko                              modules of that kernel, uncompressed

    pagewalk fetch [--json] [--force] [--source LINE]
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from guest.distro.apt import Apt, AptError, Progress

ARCHITECTURE = "riscv64"
SUITE = "stable"
KERNEL_META = "linux-image-riscv64"
# A disk on the board's virtio slots, a source of random numbers, and one that needs no device:
# brd, which says so in the kernel's log and gives /dev/ram0.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_rng", "brd")

_FORMAT = 1
_FIRMWARE = "usr/lib/riscv64-linux-gnu/opensbi/generic"
_UBOOT = "usr/lib/u-boot/qemu-riscv64_smode"
# Package -> its files that are kept, and their names here.
_KEPT = {
    "opensbi": {
        f"{_FIRMWARE}/{name}": name
        for name in ("fw_jump.bin", "fw_jump.elf", "fw_dynamic.bin", "fw_dynamic.elf")
    },
    "u-boot-qemu": {
        f"{_UBOOT}/u-boot.bin": "u-boot.bin",
        f"{_UBOOT}/uboot.elf": "u-boot.elf",
    },
    "busybox-static": {"usr/bin/busybox": "busybox"},
}
_FILES = ("linux", *(name for kept in _KEPT.values() for name in kept.values()))
_KERNEL = re.compile(r"boot/vmlinu[xz]-(?P<release>[^/]+)")
_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/kernel/.*/(?P<name>[^/]+)\.ko(?P<packed>\.xz)?")


class FetchError(Exception):
    """There are no guests; the text is one line that says why and what to do."""


@dataclass(frozen=True)
class Guests:
    """Where each guest is. ``version``: the kernel's release, as `uname -r` tells it.

    ``modules``: each with its dependencies before it, in an order in which insmod takes them.
    ``packages``: name -> version.
    """

    folder: Path
    kernel: Path
    opensbi_jump: Path
    opensbi_jump_elf: Path
    opensbi_dynamic: Path
    opensbi_dynamic_elf: Path
    uboot: Path
    uboot_elf: Path
    busybox: Path
    modules: tuple[Path, ...]
    version: str
    packages: Mapping[str, str]

    @property
    def initramfs(self) -> Path:
        """Where `pagewalk fetch` puts the initramfs that it makes of these."""
        return self.folder / "initramfs.cpio"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that holds the guests, whether it is there or not."""
    if given := environ.get("PAGEWALK_GUESTS"):
        return Path(given)
    cache = environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "pagewalk" / "guests"


def guests(
    fetch: bool = True,
    force: bool = False,
    source: str = "",
    progress: Progress = lambda text, percent: None,
) -> Guests:
    """The guests, from the cache when it is whole, else fetched.

    ``fetch`` False: only what is in the cache. ``force``: fetch the newest even when there
    is a set; the old set stays until the new one is whole. ``source``: an archive in place of
    the machine's own, as a line of sources.list(5); ``$PAGEWALK_APT_SOURCE`` does the same.

    Safe against other processes that fetch, and against being killed. Raises FetchError.
    """
    root = cache_folder()
    if not force:
        found = _load(root)
        if found is not None:
            return found
    if not fetch:
        raise FetchError(f"no guests in {root}: `pagewalk fetch` gets them")
    source = source or os.environ.get("PAGEWALK_APT_SOURCE", "")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            found = None if force else _load(root)  # another process may have been faster
            if found is None:
                _fetch(root, source, progress)
                found = _load(root)
    except AptError as e:
        raise FetchError(str(e)) from None
    except OSError as e:
        raise FetchError(f"{e.filename or root}: {e.strerror or e}") from None
    if found is None:
        raise FetchError(f"{root}: files changed while they were written")
    return found


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        raise FetchError("guests come from a Debian archive by way of apt: no apt here") from None
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file, even by a process that dies
        yield


def _load(root: Path) -> Guests | None:
    """The set in the cache; None when there is none, or a file of it is not what it was."""
    folder = root / ARCHITECTURE
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != _FORMAT:
            return None
        files: dict[str, dict[str, object]] = manifest["files"]
        if not {*_FILES, *(f"modules/{name}.ko" for name in MODULES)} <= files.keys():
            return None
        for name, kept in files.items():
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != kept["sha256"]:
                    return None
        return Guests(
            folder,
            folder / "linux",
            folder / "fw_jump.bin",
            folder / "fw_jump.elf",
            folder / "fw_dynamic.bin",
            folder / "fw_dynamic.elf",
            folder / "u-boot.bin",
            folder / "u-boot.elf",
            folder / "busybox",
            tuple(folder / "modules" / f"{name}.ko" for name in manifest["modules"]),
            manifest["kernel_release"],
            {name: package["version"] for name, package in manifest["packages"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch(root: Path, source: str, progress: Progress) -> None:
    """Put a new set in place of the one that is there."""
    for left in root.glob(".new-*"):  # by one that was killed: nobody else is here now
        shutil.rmtree(left, ignore_errors=True)
    apt = Apt(root / ".apt", ARCHITECTURE, SUITE, source)
    apt.update(progress)
    image = kernel_package(apt.field(KERNEL_META, "Depends"))
    names = [image, *_KEPT]
    versions = {name: apt.field(name, "Version") for name in names}
    packages = apt.download(names, progress)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        made = new / ARCHITECTURE
        made.mkdir()
        for package, kept in _KEPT.items():
            progress(f"unpacking {package}", None)
            _unpack(packages[package], made, kept)
        progress(f"unpacking {image}", None)
        release, order = _unpack_kernel(packages[image], made)
        progress("writing the manifest", None)
        manifest = {
            "format": _FORMAT,
            "architecture": ARCHITECTURE,
            "suite": apt.suite,
            "kernel_release": release,
            "modules": order,
            "packages": {
                name: {"version": versions[name], "sha256": _sha256(packages[name])}
                for name in names
            },
            "files": {
                str(path.relative_to(made)): {
                    "size": path.stat().st_size,
                    "sha256": _sha256(path),
                }
                for path in sorted(made.rglob("*"))
                if path.is_file()
            },
        }
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        old = root / ARCHITECTURE
        if old.exists():
            old.rename(new / "old")
        made.rename(old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(root / ".apt", ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kernel_package(depends: str) -> str:
    """The package with the kernel itself, of the meta package's ``Depends`` field."""
    for alternative in re.split(r"[,|]", depends):
        name = re.match(r"\s*(linux-image-\d[^\s(:]*)", alternative)
        if name:
            return name[1]
    raise FetchError(f"{KERNEL_META} depends on no kernel: {depends or 'on nothing'}")


def _members(package: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The regular files of a ``.deb`` by their paths without a leading slash, as they come."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            with tarfile.open(fileobj=child.stdout, mode="r|") as tar:
                for member in tar:
                    if member.isfile():
                        path = str(PurePosixPath(member.name.removeprefix("/")))

                        def read(member: tarfile.TarInfo = member) -> bytes:
                            file = tar.extractfile(member)
                            assert file is not None
                            return file.read()

                        yield path, read
        except (tarfile.TarError, EOFError) as e:
            raise FetchError(f"{package.name} cannot be unpacked: {e}") from None
        finally:
            child.kill()  # of a reader that has had enough


def _unpack(package: Path, folder: Path, kept: Mapping[str, str]) -> None:
    """Write the files ``kept`` (path in the package -> name) to ``folder``."""
    missing = dict(kept)
    for path, read in _members(package):
        if path in missing:
            (folder / missing.pop(path)).write_bytes(read())
            if not missing:
                return
    raise FetchError(f"{package.name} has no {next(iter(missing))}")


def _unpack_kernel(package: Path, folder: Path) -> tuple[str, list[str]]:
    """Write the kernel and the modules; the release, and the modules in loading order."""
    (folder / "modules").mkdir()
    release = ""
    wanted = set(MODULES)
    depends: dict[str, list[str]] = {}
    while wanted or not release:  # once more for dependencies that had gone past
        before = release, set(wanted)
        for path, read in _members(package):
            if (kernel := _KERNEL.fullmatch(path)) and not release:
                release = kernel["release"]
                (folder / "linux").write_bytes(read())
            elif module := _MODULE.fullmatch(path):
                name = module["name"].replace("-", "_")  # the same to the kernel
                if name not in wanted:
                    continue
                data = lzma.decompress(read()) if module["packed"] else read()
                (folder / "modules" / f"{name}.ko").write_bytes(data)
                depends[name] = module_depends(data)
                wanted.remove(name)
                wanted |= set(depends[name]) - depends.keys()
            if release and not wanted:
                break
        if (release, wanted) == before:
            missing = f"module {min(wanted)}" if release else "kernel under boot/"
            raise FetchError(f"{package.name} has no {missing}")
    return release, loading_order({name: depends[name] for name in (*MODULES, *depends)})


def module_depends(data: bytes) -> list[str]:
    """The modules that a module needs: ``depends=`` of its section ``.modinfo``.

    Raises FetchError for bytes that are no module.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    except ELFError as e:
        raise FetchError(f"a kernel module is no ELF file: {e}") from None
    for entry in section.data().split(b"\0") if section else ():
        name, _, value = entry.partition(b"=")
        if name == b"depends":
            return [word.replace("-", "_") for word in value.decode().split(",") if word]
    return []


def loading_order(depends: Mapping[str, list[str]]) -> list[str]:
    """The modules, each after those it needs (all of them are keys), else in the given order.

    Raises FetchError for modules that need each other.
    """
    order: list[str] = []

    def place(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise FetchError(f"modules need each other: {' -> '.join((*above, name))}")
        if name not in order:
            for needed in depends[name]:
                place(needed, (*above, name))
            order.append(name)

    for name in depends:
        place(name, ())
    return order
