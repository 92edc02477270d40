"""`zoo inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from zoo_cli.options import console, json_option, print_json

LONG = 300  # characters of a value that are shown; `--json` prints all


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def inspect(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Show the metadata of an exported file.

    Prints inputs, outputs and nodes, and what zoo recorded at export: classes, preprocessing, precision, metrics,
    data, versions and licence. `zoo verify` checks whether the file matches its record. Does not need torch.

    \b
    zoo inspect runs/first/model.onnx
    """
    from zoo.exporting.verification import inspect as read
    from zoo_cli.main import plugins

    found = read(file, plugins=plugins(ctx))
    if as_json:
        print_json(found)
        return
    screen = console()
    metadata = found.pop("metadata")
    del found["precision"], found["parity"]  # the metadata holds them too
    for name, value in found.items():
        screen.print(f"[bold]{name}[/bold] {escape(_text(value))}")
    for name, value in metadata.items():
        screen.print(f"[bold]{escape(name)}[/bold] [dim]{escape(_text(value))}[/dim]")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    elif isinstance(value, list):
        text = ", ".join(_text(one) for one in value)
    else:
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONG else f"{text[:LONG]} ... ({len(text)} characters)"
