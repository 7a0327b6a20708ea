"""Fetching the guests, by the machine's own apt from an archive made here: no network."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_initramfs import module, read

from guest.cli.fetch import fetch_command
from guest.distro import fetch
from guest.distro.apt import Source, main_archive, parse_deb822, parse_one_line
from guest.distro.fetch import (
    FetchError,
    cache_folder,
    guests,
    kernel_package,
    loading_order,
    module_depends,
)

_ROOT = Path(__file__).resolve().parents[2]
RELEASE = "6.99.1+test-riscv64"
IMAGE = f"linux-image-{RELEASE}"
_SBI = "usr/lib/riscv64-linux-gnu/opensbi/generic"
_UBOOT = "usr/lib/u-boot/qemu-riscv64_smode"
_KERNEL = f"usr/lib/modules/{RELEASE}/kernel/drivers"

PACKAGES: dict[str, dict[str, bytes]] = {
    "opensbi": {
        f"{_SBI}/{name}": name.encode()
        for name in ("fw_jump.bin", "fw_jump.elf", "fw_dynamic.bin", "fw_dynamic.elf")
    },
    "u-boot-qemu": {
        f"{_UBOOT}/u-boot.bin": b"u-boot",
        f"{_UBOOT}/uboot.elf": b"elf",
        "usr/lib/u-boot/qemu_arm/u-boot.bin": b"another machine's",
    },
    "busybox-static": {"usr/bin/busybox": b"busybox" * 1000},
    IMAGE: {
        f"boot/vmlinux-{RELEASE}": b"kernel" * 10_000,
        f"{_KERNEL}/block/brd.ko.xz": lzma.compress(module("a-needed,z_needed")),
        f"{_KERNEL}/block/virtio_blk.ko": module(""),
        f"{_KERNEL}/a/a-needed.ko.xz": lzma.compress(module("")),
        f"{_KERNEL}/virtio/virtio_mmio.ko.xz": lzma.compress(module("")),
        f"{_KERNEL}/char/virtio-rng.ko.xz": lzma.compress(module("")),
        f"{_KERNEL}/z/z_needed.ko": module("a_needed"),
        f"{_KERNEL}/z/other.ko.xz": b"not to be looked at",
    },
    "linux-image-riscv64": {},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which the code under test uses."""
    folder = tmp_path / "a cache"
    monkeypatch.setenv("PAGEWALK_GUESTS", str(folder))
    monkeypatch.delenv("PAGEWALK_APT_SOURCE", raising=False)
    return folder


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """deb(name, files, version) -> the package's path; each is made once."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt on this machine")
    folder = tmp_path_factory.mktemp("debs")

    def make(name: str, files: Mapping[str, bytes], version: str = "1:2-3") -> Path:
        key = hashlib.sha256(repr((name, version, files)).encode()).hexdigest()[:16]
        path = folder / f"{key}.deb"
        if path.exists():
            return path
        root = folder / key
        (root / "DEBIAN").mkdir(parents=True)
        depends = f"Depends: {IMAGE} (= 2-3)\n" if name == fetch.KERNEL_META else ""
        (root / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: riscv64\n{depends}"
            "Maintainer: nobody <nobody@example.invalid>\nDescription: for a test\n"
        )
        for at, data in files.items():
            (root / at).parent.mkdir(parents=True, exist_ok=True)
            (root / at).write_bytes(data)
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", root, path]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(root)
        return path

    return make


@pytest.fixture
def archive(tmp_path: Path, debs: Callable[..., Path]) -> Callable[..., str]:
    """archive(without=, change={package: files}, version=) -> a source line."""

    def make(
        without: str = "",
        change: Mapping[str, Mapping[str, bytes]] | None = None,
        version: str = "1:2-3",
        options: str = "[trusted=yes]",
    ) -> str:
        root = tmp_path / "archive"
        shutil.rmtree(root, ignore_errors=True)
        index = root / "dists" / "stable" / "main" / "binary-riscv64"
        index.mkdir(parents=True)
        stanzas = []
        for name, files in (PACKAGES | dict(change or {})).items():
            if name == without:
                continue
            deb = debs(name, files, version)
            shutil.copyfile(deb, root / f"{name}.deb")
            data = deb.read_bytes()
            control = subprocess.run(
                ["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True
            )
            stanzas.append(
                f"{control.stdout}Filename: {name}.deb\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
        packages = "\n".join(stanzas).encode()
        (index / "Packages").write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        (root / "dists" / "stable" / "Release").write_text(
            "Suite: stable\nCodename: test\nArchitectures: riscv64\nComponents: main\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {len(packages)} main/binary-riscv64/Packages\n"
        )
        return f"deb {options} file:{root} stable main"

    return make


def test_fetches_what_the_board_needs(cache: Path, archive: Callable[..., str]) -> None:
    steps: list[tuple[str, float | None]] = []
    found = guests(source=archive(), progress=lambda *step: steps.append(step))
    kept = {
        found.kernel: PACKAGES[IMAGE][f"boot/vmlinux-{RELEASE}"],
        found.opensbi_jump: b"fw_jump.bin",
        found.opensbi_jump_elf: b"fw_jump.elf",
        found.opensbi_dynamic: b"fw_dynamic.bin",
        found.opensbi_dynamic_elf: b"fw_dynamic.elf",
        found.uboot: b"u-boot",
        found.uboot_elf: b"elf",
        found.busybox: b"busybox" * 1000,
    }
    for path, data in kept.items():
        assert path.read_bytes() == data
    assert found.version == RELEASE
    names = [path.stem for path in found.modules]
    # Dependencies first, also the one that came before the module that needs it.
    assert names == ["virtio_mmio", "virtio_blk", "virtio_rng", "a_needed", "z_needed", "brd"]
    assert found.modules[-1].read_bytes() == module("a-needed,z_needed")
    assert found.packages == dict.fromkeys(
        (IMAGE, "opensbi", "u-boot-qemu", "busybox-static"), "1:2-3"
    )
    # Nothing else is left: of other files, of apt, of the way there.
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "riscv64"]
    assert {p.name for p in found.folder.iterdir()} == {
        *(path.name for path in kept),
        "modules",
        "manifest.json",
    }
    assert {p.stem for p in (found.folder / "modules").iterdir()} == set(names)
    assert any("fetching" in text for text, _ in steps)

    manifest = json.loads((found.folder / "manifest.json").read_text())
    for name, told in manifest["files"].items():
        data = (found.folder / name).read_bytes()
        assert told == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    deb = (cache.parent / "archive" / "opensbi.deb").read_bytes()
    assert manifest["packages"]["opensbi"]["sha256"] == hashlib.sha256(deb).hexdigest()


def test_a_whole_cache_needs_nothing(
    cache: Path, archive: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = guests(source=archive())
    shutil.rmtree(cache.parent / "archive")
    monkeypatch.setenv("PATH", "")
    assert guests(source="deb nonsense://x stable main") == found
    assert guests(fetch=False) == found


@pytest.mark.parametrize("name", ["linux", "modules/brd.ko", "manifest.json"])
def test_a_cache_that_is_not_whole_is_none(
    cache: Path, archive: Callable[..., str], name: str
) -> None:
    source = archive()
    path = guests(source=source).folder / name
    good = path.read_bytes()
    path.write_bytes(good[:-2])  # of the manifest: its last brace
    with pytest.raises(FetchError, match="pagewalk fetch"):
        guests(fetch=False)
    guests(source=source)
    path.unlink()
    with pytest.raises(FetchError, match="pagewalk fetch"):
        guests(fetch=False)
    guests(source=source)
    assert path.read_bytes() == good


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "files": {}}'])
def test_a_manifest_of_another_kind(cache: Path, archive: Callable[..., str], text: str) -> None:
    found = guests(source=archive())
    (found.folder / "manifest.json").write_text(text)
    with pytest.raises(FetchError):
        guests(fetch=False)


def test_force_gets_the_newest(cache: Path, archive: Callable[..., str]) -> None:
    guests(source=archive())
    newer = {"busybox-static": {"usr/bin/busybox": b"newer"}}
    source = archive(change=newer, version="1:2-4")
    assert guests(source=source).busybox.read_bytes() != b"newer"
    found = guests(source=source, force=True)
    assert found.busybox.read_bytes() == b"newer"
    assert found.packages["busybox-static"] == "1:2-4"


def test_a_failed_fetch_leaves_the_old_set(cache: Path, archive: Callable[..., str]) -> None:
    found = guests(source=archive())
    broken = archive(change={"busybox-static": {"usr/bin/other": b""}}, version="1:2-5")
    with pytest.raises(FetchError, match="has no usr/bin/busybox"):
        guests(source=broken, force=True)
    assert guests(fetch=False) == found
    assert not list(cache.glob(".new-*"))


def test_what_a_killed_fetch_left_goes_away(cache: Path, archive: Callable[..., str]) -> None:
    (cache / ".new-killed" / "riscv64").mkdir(parents=True)
    (cache / ".new-killed" / "riscv64" / "linux").write_bytes(b"half")
    with pytest.raises(FetchError):
        guests(fetch=False)
    guests(source=archive())
    assert not list(cache.glob(".new-*"))


def test_killed_while_it_unpacks(cache: Path, archive: Callable[..., str]) -> None:
    """The process dies at the worst place: all written, nothing renamed."""
    source = archive()
    code = (
        "import os, sys; from pathlib import Path; from guest.distro import fetch\n"
        "Path.rename = lambda self, to: os._exit(9)\n"
        "fetch.guests(source=sys.argv[1])\n"
    )
    child = subprocess.run([sys.executable, "-c", code, source], cwd=_ROOT)
    assert child.returncode == 9
    assert len(list(cache.glob(".new-*"))) == 1
    with pytest.raises(FetchError):
        guests(fetch=False)
    assert guests(source=source).version == RELEASE
    assert not list(cache.glob(".new-*"))


def test_two_processes_fetch_once(cache: Path, archive: Callable[..., str]) -> None:
    code = (
        "import sys; from guest.distro import fetch; real = fetch._fetch\n"
        "fetch._fetch = lambda *a: (print('fetching', flush=True), real(*a))\n"
        "print(fetch.guests(source=sys.argv[1]).version)\n"
    )
    command = [sys.executable, "-c", code, archive()]
    children = [subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    told = [child.communicate()[0].decode().split() for child in children]
    assert sorted(told) == [[RELEASE], [RELEASE], ["fetching", RELEASE]]


def test_the_system_is_left_alone(cache: Path, archive: Callable[..., str]) -> None:
    def look() -> list[tuple[str, int, int]]:
        found = []
        for folder in ("/var/lib/apt", "/var/cache/apt", "/etc/apt", "/var/lib/dpkg"):
            for at, _, names in os.walk(folder):
                for path in (at, *(os.path.join(at, name) for name in names)):
                    status = os.lstat(path)
                    found.append((path, status.st_mtime_ns, status.st_size))
        return found

    before = look()
    guests(source=archive())
    assert look() == before


def test_signatures_are_checked(cache: Path, archive: Callable[..., str]) -> None:
    with pytest.raises(FetchError, match="debian-archive-keyring"):
        guests(source=archive(options=""))


def test_a_package_that_is_not_what_the_index_says(
    cache: Path, archive: Callable[..., str]
) -> None:
    source = archive()
    path = cache.parent / "archive" / "opensbi.deb"
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    with pytest.raises(FetchError, match="opensbi"):
        guests(source=source)
    assert not (cache / "riscv64").exists()


def one_line(error: pytest.ExceptionInfo[FetchError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 300
    return text


@pytest.mark.parametrize("name", ["opensbi", "linux-image-riscv64", IMAGE])
def test_a_package_that_is_not_there(cache: Path, archive: Callable[..., str], name: str) -> None:
    with pytest.raises(FetchError) as error:
        guests(source=archive(without=name))
    assert f"has no package {name} for riscv64 in stable" in one_line(error)


def test_an_archive_of_something_else(cache: Path, archive: Callable[..., str]) -> None:
    line = archive(options="")
    shutil.rmtree(cache.parent / "archive" / "dists")
    with pytest.raises(FetchError) as error:
        guests(source=line)
    assert "has no suite stable for riscv64" in one_line(error)


@pytest.mark.slow
def test_no_network(
    cache: Path, debs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "direct.conf"
    settings.write_text('Acquire::http::Proxy "DIRECT";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(FetchError) as error:
        guests(source=f"deb http://127.0.0.1:{port}/debian stable main")
    assert "cannot be reached" in one_line(error)


def test_no_apt(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError) as error:
        guests()
    assert "no apt-get on this machine" in one_line(error)


def test_a_cache_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAGEWALK_GUESTS", str(tmp_path / "file" / "guests"))
    with pytest.raises(FetchError, match="Not a directory"):
        guests()


def test_a_source_that_is_none(cache: Path, debs: Callable[..., Path]) -> None:
    with pytest.raises(FetchError, match="is no source"):
        guests(source="http://example.invalid/debian stable main")


def test_where_the_cache_is() -> None:
    assert cache_folder({"PAGEWALK_GUESTS": "/g", "XDG_CACHE_HOME": "/x"}) == Path("/g")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/pagewalk/guests")
    home = Path.home() / ".cache" / "pagewalk" / "guests"
    assert cache_folder({}) == cache_folder({"XDG_CACHE_HOME": "relative"}) == home


def test_one_line_sources() -> None:
    text = """
# deb http://a.example/debian old main
deb http://a.example/debian bookworm main contrib # comment
deb-src http://a.example/debian bookworm main
deb [ arch=amd64,riscv64 signed-by=/k.gpg trusted=yes ] https://b.example stable main
  deb   [signed-by=/k.gpg]   cdrom:[x]/   bookworm   main
deb
deb http://only-a-uri
"""
    found = list(parse_one_line(text))
    assert found[:2] == [
        Source("http://a.example/debian", ("bookworm",), ("main", "contrib")),
        Source("https://b.example", ("stable",), ("main",), "/k.gpg", "yes"),
    ]
    assert [source.uri for source in found[2:]] == ["cdrom:[x]/"]


def test_deb822_sources() -> None:
    text = """\
Types: deb deb-src
# a comment in a stanza
URIs: http://a.example/debian
 http://b.example/debian
suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example
Suites: bookworm
Components: main

# between
Types: deb-src
URIs: http://source.example
Suites: bookworm
Components: main
"""
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----"
    suites = ("bookworm", "bookworm-updates")
    assert list(parse_deb822(text)) == [
        Source(f"http://{host}.example/debian", suites, ("main",), key) for host in "ab"
    ]


def test_the_main_archive() -> None:
    def source(uri: str, suites: str, components: str = "main") -> Source:
        return Source(uri, tuple(suites.split()), tuple(components.split()))

    third = source("http://third", "stable main")
    security = source("http://security", "bookworm-security bookworm-updates")
    containers = source("http://containers", "bookworm", "stable")
    disc = source("cdrom:[Debian]/", "bookworm")
    main = source("http://main", "bookworm bookworm-updates", "main contrib")
    assert main_archive([third, security, containers, disc, main], "bookworm") == main
    assert main_archive([security, containers], "bookworm") is None
    unstable = source("http://main", "sid")
    assert main_archive([security, unstable], "") == unstable
    assert main_archive([], "bookworm") is None


def test_the_kernel_of_the_meta_package() -> None:
    depends = (
        "initramfs-tools | linux-initramfs-tool, linux-image-6.12.1+deb13-riscv64 (= 6.12.1-1)"
    )
    assert kernel_package(depends) == "linux-image-6.12.1+deb13-riscv64"
    for text in ("", "linux-base", "linux-image-riscv64-signed"):
        with pytest.raises(FetchError, match="depends on no kernel"):
            kernel_package(text)


def test_what_a_module_needs() -> None:
    assert module_depends(module("")) == []
    assert module_depends(module("rng-core,b")) == ["rng_core", "b"]
    with pytest.raises(FetchError, match="no ELF"):
        module_depends(b"\x7fELF")
    with pytest.raises(FetchError, match="no ELF"):
        module_depends(b"")


def test_loading_order() -> None:
    assert loading_order({"a": ["c"], "b": [], "c": ["b"]}) == ["b", "c", "a"]
    with pytest.raises(FetchError, match="a -> b -> a"):
        loading_order({"a": ["b"], "b": ["a"]})


def command(*arguments: object) -> Result:
    return CliRunner().invoke(fetch_command, [str(a) for a in arguments])


def test_command_says_what_to_type(cache: Path, archive: Callable[..., str]) -> None:
    result = command("--source", archive(), "--initramfs", cache.parent / "mine.cpio")
    assert result.exit_code == 0, result.output
    found = guests(fetch=False)
    last = result.stdout.splitlines()[-1]
    assert last == f"  pagewalk boot '{found.kernel}' --initrd '{found.initramfs}'"
    names = {entry.name for entry in read(found.initramfs.read_bytes())}
    assert f"lib/modules/{RELEASE}/virtio_blk.ko" in names
    assert (cache.parent / "mine.cpio").read_bytes() == found.initramfs.read_bytes()
    assert "fetching" in result.stderr


def test_command_in_json(cache: Path, archive: Callable[..., str]) -> None:
    guests(source=archive())
    result = command("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["version"] == RELEASE and told["packages"]["opensbi"] == "1:2-3"
    assert Path(told["initramfs"]).is_file() and Path(told["kernel"]).is_file()
    assert [Path(path).stem for path in told["modules"]][-1] == "brd"


def test_command_in_one_line_when_it_cannot(
    cache: Path, archive: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command("--source", archive(without="opensbi"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("pagewalk: ")
    guests(source=archive())
    result = command("--initramfs", cache.parent / "none" / "x")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("pagewalk: ")
    monkeypatch.setattr("guest.distro.boot_disk.find_mke2fs", lambda: None)
    result = command("--disk", cache.parent / "disk")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "pagewalk: a disk needs mke2fs: install e2fsprogs"
