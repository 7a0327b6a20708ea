"""`pagewalk list`: the guests that come with pagewalk."""

from __future__ import annotations

from pathlib import Path

import click

from guest.cli.kit import json_option, print_json


@click.command("list")
@json_option
def list_guests(as_json: bool) -> None:
    """List the guests that come with pagewalk, and what each shows."""
    from guest import build
    from guest.image.shipped import shipped

    here = Path(build.__file__).parent
    rows = []
    for name, path in shipped().items():
        folder = path.parent.name
        places = (here / folder / name / "kernel.c", *sorted((here / folder).glob(f"{name}.*")))
        source = next(s for s in places if s.is_file())
        rows.append((name, folder, _first_comment(source)))
    if as_json:
        print_json([{"name": n, "kind": k, "description": d} for n, k, d in rows])
        return
    width = max(len(name) for name, _, _ in rows)
    for name, kind, description in rows:
        click.echo(f"{name:<{width}}  {kind:<10}  {description}")


def _first_comment(source: Path) -> str:
    """The comment at the top of a C or assembly file, as one line."""
    text = source.read_text()
    if text.startswith("/*"):
        return " ".join(text[2 : text.index("*/")].replace("\n *", "\n").split())
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(list_guests)
