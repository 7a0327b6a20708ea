"""Packages of the distribution for another architecture, by way of the machine's own apt.

The archive is the one in the machine's own sources; its suite and architecture are ours. So
apt gets a configuration file that is read after the machine's own (apt.conf(5): ``-c``): the
machine's proxies, certificates, logins and keys hold, while lists, caches and sources lie in
a folder of ours. Nothing of the system's apt or dpkg is written, and signatures are checked
as the machine checks them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str, float | None], None]
"""Called with what is going on, and how many per cent of it are done where that is known."""

# Names that a Debian archive knows itself by, for a machine whose os-release has no codename.
_DEBIAN_SUITES = ("stable", "oldstable", "testing", "unstable", "sid")
_NETWORK = re.compile(
    r"Could not resolve|Temporary failure|Could not connect|Cannot initiate the connection"
    r"|Connection (failed|refused|timed out|reset)|Network is unreachable|Unable to connect"
    r"|No route to host"
)


class AptError(Exception):
    """apt cannot give what was asked for; the text is one line that says what to do."""


@dataclass(frozen=True)
class Source:
    """One archive: its URI, and who signs it (a key file's path, a fingerprint, or a key).

    ``trusted`` is what the machine's owner said of the archive (sources.list(5)).
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: str = ""


def parse_one_line(text: str) -> Iterator[Source]:
    """The archives of a ``.list`` file: ``deb [option=value ...] URI suite component ...``."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?([^#]*)", line)
        if match is None:
            continue
        words = match[2].split()
        if len(words) < 2:
            continue
        options = dict(word.partition("=")[::2] for word in (match[1] or "").split())
        yield Source(
            words[0],
            (words[1],),
            tuple(words[2:]),
            options.get("signed-by", ""),
            options.get("trusted", ""),
        )


def parse_deb822(text: str) -> Iterator[Source]:
    """The archives of a ``.sources`` file: stanzas of ``Field: value`` (sources.list(5))."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):  # goes on: a key block, or a long list
                fields[name] = f"{fields.get(name, '')}\n{line}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        off = fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "without")
        if off or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
                fields.get("trusted", ""),
            )


def main_archive(sources: Sequence[Source], codename: str) -> Source | None:
    """The archive that the machine's own distribution comes from; None where none is named.

    That is the one with a component ``main`` under the machine's ``codename``, or under a
    name of Debian's own suites; not one of its update or security archives, which lack
    most packages, nor a third party's.
    """
    for suites in ((codename,), _DEBIAN_SUITES):
        for source in sources:
            fits = any(suite in suites for suite in source.suites if suite)
            if fits and "main" in source.components and not source.uri.startswith("cdrom:"):
                return source
    return None


class Apt:
    """apt for ``architecture`` and ``suite`` on a folder of its own.

    ``source``: an archive to use instead of the machine's own, as a line of sources.list(5).
    Raises AptError: no apt on this machine, no archive in its sources, a source that is none.
    """

    def __init__(self, folder: Path, architecture: str, suite: str, source: str = "") -> None:
        for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AptError(
                    f"no {tool} on this machine: guests come from a Debian archive by way of apt; "
                    "fill a cache on a machine that has it and point PAGEWALK_GUESTS at a copy"
                )
        self.architecture = architecture
        self.suite = suite
        self._folder = folder.absolute()
        if re.search(r'["\\\n]', str(self._folder)):
            raise AptError(f"{folder}: apt's configuration cannot name such a folder")
        self._conf = self._folder / "apt.conf"
        for name in ("lists/partial", "cache/archives/partial", "sources", "packages"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self.source = self._chosen(source)
        (self._folder / "status").touch()
        self._configure()

    def _chosen(self, line: str) -> Source:
        if line:
            given = next(parse_one_line(line), None)
            if given is None:
                raise AptError(f"{line!r} is no source: give 'deb [signed-by=KEYS] URI suite main'")
            self.suite = given.suites[0]
            return given
        sources: list[Source] = []
        for path in _source_files():
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue  # one that only root may read
            sources += (parse_deb822 if path.suffix == ".sources" else parse_one_line)(text)
        found = main_archive(sources, _codename())
        if found is None:
            raise AptError(
                "this machine's apt sources name no Debian archive: "
                f"give one with --source 'deb URI {self.suite} main'"
            )
        return Source(found.uri, (self.suite,), ("main",), found.signed_by, found.trusted)

    def _configure(self) -> None:
        source = self.source
        stanza = {
            "Types": "deb",
            "URIs": source.uri,
            "Suites": " ".join(source.suites),
            "Components": " ".join(source.components),
            "Architectures": self.architecture,
            "Targets": "Packages",  # no lists of files, icons or commands, whatever is set up
            "Signed-By": source.signed_by,
            "Trusted": source.trusted,
        }
        lines = [f"{name}: {value}" for name, value in stanza.items() if value]
        (self._folder / "sources" / "guests.sources").write_text("\n".join(lines) + "\n")
        here = self._folder
        settings = {
            "Dir::State::Lists": here / "lists",
            "Dir::State::Status": here / "status",
            "Dir::State::extended_states": here / "extended_states",
            "Dir::Cache": here / "cache",
            "Dir::Cache::Archives": here / "cache" / "archives",
            "Dir::Cache::pkgcache": here / "cache" / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": here / "cache" / "srcpkgcache.bin",
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": here / "sources",
            # Pins and the default release speak of the machine's own packages.
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Architecture": self.architecture,
            # root would become _apt for a download, who cannot see into a user's cache.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        cleared = ("APT::Architectures", "APT::Default-Release", "Acquire::Languages")
        # Hooks of other programs: they would tell of an update of the system.
        hooks = ("APT::Update", "DPkg")
        kinds = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success", "Post-Invoke-Stats")
        text = [f"#clear {name};" for name in cleared]
        text += [f"#clear {hook}::{kind};" for hook in hooks for kind in kinds]
        text += [f'{name} "{value}";' for name, value in settings.items()]
        text += [f'APT::Architectures {{ "{self.architecture}"; }};']
        self._conf.write_text("\n".join(text) + "\n")

    def update(self, progress: Progress) -> None:
        """Fetch the archive's list of packages. Raises AptError."""
        what = f"the list of {self.suite} packages for {self.architecture}"
        progress(f"fetching {what}", None)
        self._run(["apt-get", "update"], what, progress)

    def field(self, package: str, name: str) -> str:
        """A field of the newest version's record, empty when it has none.

        Raises AptError for a package that the archive does not have.
        """
        text = self._run(["apt-cache", "show", "--no-all-versions", package], package)
        if not text.strip():  # a name that only other packages' dependencies mention
            raise AptError(self._no_package(package))
        match = re.search(rf"^{name}:\s*(.*(?:\n .*)*)", text, re.MULTILINE)
        return match[1] if match else ""

    def download(self, packages: Sequence[str], progress: Progress) -> dict[str, Path]:
        """The ``.deb`` files of the packages. Those that are there already are not fetched again.

        Raises AptError.
        """
        what = ", ".join(packages)
        size = sum(int(self.field(package, "Size") or 0) for package in packages)
        progress(f"fetching {what} ({size / 1e6:.0f} MB)", None)
        self._run(["apt-get", "download", *packages], what, progress)
        files = {}
        for package in packages:
            # The version's colon and the like are quoted in the name, as in a URL.
            version = re.sub(r"[:]", "%3a", self.field(package, "Version"))
            found = list((self._folder / "packages").glob(f"{package}_{version}_*.deb"))
            if not found:
                raise AptError(f"apt-get has not left {package} where it was told to")
            files[package] = found[0]
        return files

    def _run(
        self, command: list[str], what: str, progress: Progress = lambda text, percent: None
    ) -> str:
        """The output of an apt command; ``progress`` by APT::Status-Fd's lines."""
        reader, writer = os.pipe()
        options = ["-c", str(self._conf), "-q=2", "-o", f"APT::Status-Fd={writer}"]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(
                [command[0], *options, *command[1:]],
                cwd=self._folder / "packages",
                env=os.environ | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                pass_fds=(writer,),
            )
            os.close(writer)
            try:
                with open(reader, encoding="utf-8", errors="replace") as status:
                    for line in status:  # dlstatus:item:percent:text
                        fields = line.split(":", 3)
                        if fields[0] == "dlstatus" and len(fields) == 4:
                            progress(f"fetching {what}", float(fields[2]))
                child.wait()
            finally:
                if child.poll() is None:  # interrupted
                    child.terminate()
                    child.wait()
            for stream in (output, errors):
                stream.seek(0)
            text = output.read().decode(errors="replace")
            if child.returncode:
                raise AptError(self._reason(errors.read().decode(errors="replace"), what))
        return text

    def _no_package(self, name: str) -> str:
        return f"{self.source.uri} has no package {name} for {self.architecture} in {self.suite}"

    def _reason(self, errors: str, what: str) -> str:
        """One line from apt's own, with what to do about it."""
        archive = self.source.uri
        first = next((line[2:].strip() for line in errors.splitlines() if line[:2] == "E:"), "")
        told = first or (errors.strip().splitlines() or ["apt gives no reason"])[-1]
        if _NETWORK.search(errors):
            return f"{archive} cannot be reached for {what}: connect the network, then try again"
        if "NO_PUBKEY" in errors or "not signed" in errors:
            return (
                f"{archive}: this machine lacks the keys of {self.suite}: "
                "install a newer debian-archive-keyring, then try again"
            )
        if "No packages found" in errors or "Unable to locate package" in errors:
            return self._no_package(what)
        if re.search("does not have a Release file|doesn't support arch|/Packages.* 404 ", errors):
            return (
                f"{archive} has no suite {self.suite} for {self.architecture}: "
                "give a Debian archive with --source 'deb URI stable main'"
            )
        if "No space left" in errors or "enough free space" in errors:
            return f"{self._folder}: no room for {what}"
        return f"{what}: apt says: {told}"


def _source_files() -> list[Path]:
    command = ["apt-config", "shell", "l", "Dir::Etc::SourceList/f"]
    command += ["p", "Dir::Etc::SourceParts/d"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as e:
        raise AptError(f"apt-config does not run: {e}") from None
    found = dict(re.findall(r"(\w)='([^']*)'", text))
    files = [Path(found["l"])] if found.get("l") else []
    if found.get("p") and Path(found["p"]).is_dir():
        files += sorted(p for p in Path(found["p"]).iterdir() if p.suffix in (".list", ".sources"))
    return files


def _codename() -> str:
    """VERSION_CODENAME of os-release(5)."""
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(name).read_text()
        except OSError:
            continue
        match = re.search(r'^VERSION_CODENAME="?([\w.-]+)', text, re.MULTILINE)
        return match[1] if match else ""
    return ""
