"""The rules of the house as functions: files in, violations out. `test_house` holds them.

``Files`` is path -> text, of the repository or made up by a test.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Files = Mapping[str, str]

# What a room may import besides itself. `tests` and `bench` may import everything.
BELOW = {
    "emu": (),
    "firmware": ("emu",),
    "mm": ("emu",),
    "guest": ("emu", "firmware", "mm"),
    "pagewalk": ("emu", "firmware", "mm", "guest"),
}
# The folders of emu, each importing those before it. What is in none of them (ram, stop) is theirs
# all.
EMU_FLOORS = ("spec", "engine", "hart", "board", "debug")
LINES_MAX, FUNCTION_LINES_MAX = 600, 60
REASON = "Long because "  # begins the sentence in the head of a file that may be longer


@cache
def repository() -> Files:
    """The files that git knows or would add; the text of those that are read here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    suffixes = (".py", ".md", ".c", ".h", ".S", ".ld", ".toml")
    return {
        name: (ROOT / name).read_text() if name.endswith(suffixes) else ""
        for name in names.splitlines()
        if (ROOT / name).is_file()
    }


def python(files: Files, *folders: str) -> Iterator[tuple[str, str]]:
    """The Python files in ``folders``, by default in all."""
    for path, text in files.items():
        if path.endswith(".py") and (not folders or path.partition("/")[0] in folders):
            yield path, text


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


# imports


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(files: Files) -> dict[str, set[str]]:
    """Each module of the rooms and the modules that it imports, wherever the import stands:
    also in functions, and under TYPE_CHECKING."""
    modules = {module_of(path): text for path, text in python(files, *BELOW)}
    return {name: set(_imported(text, modules)) - {name} for name, text in modules.items()}


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if found := inner if inner in modules else node.module:
                    yield from [found] if found in modules else []


def circles(files: Files) -> list[str]:
    """Modules that import each other, by whatever way: a circle a line, sorted."""
    graph = imports(files)
    reach = {name: _reached(graph, name) for name in graph}
    found = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return sorted(" ".join(sorted(circle)) for circle in found)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for name in graph[left.pop()] - found:
            found.add(name)
            left.append(name)
    return found


def wrong_ways(files: Files) -> list[str]:
    """Imports of a room above, or of a folder of emu above."""
    return sorted(
        f"{name} imports {other}"
        for name, others in imports(files).items()
        for other in others
        if not _may(name.split("."), other.split("."))
    )


def _may(name: list[str], other: list[str]) -> bool:
    if name[0] != other[0]:
        return other[0] in BELOW[name[0]]
    floors = [part[1] for part in (name, other) if len(part) > 1 and part[1] in EMU_FLOORS]
    if name[0] != "emu" or len(floors) < 2:
        return True
    return EMU_FLOORS.index(floors[0]) >= EMU_FLOORS.index(floors[1])


def private_imports(files: Files) -> list[str]:
    """Private names that a file of the rooms imports from another; ruff finds the other uses."""
    return sorted(
        f"{path}: {node.module}.{alias.name}"
        for path, text in python(files, *BELOW)
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BELOW
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    )


# sizes


def long_files(files: Files) -> list[str]:
    """Files of more than LINES_MAX lines whose head does not say why."""
    return sorted(
        path
        for path, text in python(files)
        if text.count("\n") > LINES_MAX
        and not any(
            line.startswith(REASON) for line in (ast.get_docstring(parsed(text)) or "").splitlines()
        )
    )


def long_functions(files: Files) -> list[str]:
    """Functions of more than FUNCTION_LINES_MAX lines, decorators not counted."""
    return sorted(
        f"{path}: {node.name}"
        for path, text in python(files)
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    )


# what is cited

# A file or folder of ours, by its path. Linux has an mm/ of its own, with C files.
_PATH = re.compile(
    r"(?<![\w./<-])(?:emu|mm|guest|firmware|pagewalk|bench|tests|docs|\.ci)/[\w./-]*\w/?(?![\w*{<]|/\w)"
)
_LINUX = re.compile(r"mm/[\w-]+\.[ch]")
_DOCUMENT = re.compile(r"(?<![\w./-])[A-Z][A-Z_]*\.md\b")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_DOTTED = re.compile(r"(?<!`)`~?((?:emu|mm|guest|firmware|pagewalk)(?:\.\w+)+)`")
_HEADER = re.compile(r"pagewalk/(\w+\.h)")  # as guests include it
# What is made when the package is built.
_MADE = ("guest/built", "emu/engine/built")
_MADE_HEADERS = ("abi.h", "mm_types.h", "task.h")


def missing_citations(files: Files) -> list[str]:
    """What comments, docstrings and documents name of the repository, and what is not in it."""
    folders = {str(parent) for path in files for parent in Path(path).parents}
    known = {*files, *folders}
    found = set()
    for path, text in files.items():
        prose = _prose(text) if path.endswith(".py") else text
        cited = {c.rstrip("/.") for c in _PATH.findall(prose) if not _LINUX.fullmatch(c)}
        cited |= set(_DOCUMENT.findall(prose))
        if path.endswith(".md"):
            cited |= {str((Path(path).parent / link).as_posix()) for link in _LINK.findall(text)}
        for name in cited:
            header = _HEADER.fullmatch(name)
            if header:
                is_there = header[1] in _MADE_HEADERS or f"guest/include/{name}" in files
            else:
                is_there = _normal(name) in known or name.startswith(_MADE)
            if not is_there:
                found.add(f"{path}: {name}")
        for name in _DOTTED.findall(prose):
            if not _is_there(name, files):
                found.add(f"{path}: {name}")
    return sorted(found)


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _prose(text: str) -> str:
    """Comments and docstrings, a blank line between them."""
    parts = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    parts += [
        ast.get_docstring(node) or "" for node in ast.walk(parsed(text)) if isinstance(node, nodes)
    ]
    return "\n\n".join(parts)


def _is_there(dotted: str, files: Files) -> bool:
    """Whether ``dotted`` is a module, or a name in one, as far as the names can be seen."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = "/".join(parts[:end])
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in files:
                return end == len(parts) or parts[end] in _names(files[path])
    return any(path.startswith("/".join(parts) + "/") for path in files)


def _names(text: str) -> set[str]:
    """Names that a module's own lines bind, inner ones too."""
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found
