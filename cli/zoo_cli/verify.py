"""`zoo verify`."""

from __future__ import annotations

import click
from rich.markup import escape

from zoo_cli.options import console, device_option, json_option, print_json


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--data", metavar="DATA", help="Also compare with the run on its photographs.")
@click.option("--split", metavar="train|val|test", help="Of `--data`.  [default: the one that the run reports]")
@device_option
@json_option
@click.pass_context
def verify(ctx: click.Context, file: str, data: str | None, split: str | None, device: str, as_json: bool) -> None:
    """Check an exported file, without torch.

    Integrity and golden inputs anywhere; with `--data`, every photograph against the run whose folder it lies in.
    Exit 0 if all holds, 1 if not.
    """
    from zoo.exporting import verify as check
    from zoo_cli.main import plugins

    screen = console()
    checks = check(file, data=data, split=split, device=device, plugins=plugins(ctx))
    for one in checks:
        mark = "[green]ok[/green]    " if one.passed else "[bold red]failed[/bold red]"
        screen.print(f"{mark} {one.name}: {escape(one.detail)}")
    passed = all(one.passed for one in checks)
    if as_json:
        rows = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in checks]
        print_json({"file": file, "passed": passed, "checks": rows})
    if not passed:
        ctx.exit(1)
