"""`zoo ensemble`."""

from __future__ import annotations

import click

from zoo_cli.combined import print_combined
from zoo_cli.options import console, device_option, echo, force_option, json_option, print_json


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="FOLDER", help="Folder of the new run.  [default: a new one below runs/]")
@click.option("--data", metavar="DATA", help="New place of the runs' data, if they were moved since training.")
@device_option
@force_option
@json_option
@click.pass_context
def ensemble(
    ctx: click.Context,
    runs: tuple[str, ...],
    out: str | None,
    data: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Combine several runs into one, whose probabilities are the mean of theirs.

    Backbones and strategies may differ; classes, data and the crop of images must be the same. It takes as long as all
    of its members together. The new run is used like any other, and exported to one file.

    \b
    zoo ensemble runs/resnet runs/convnext --out runs/both
    zoo export runs/both
    """
    from zoo.combining.ensemble import ensemble as make
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    found = make(
        runs, out=out, data=data, device=device, force=force, plugins=plugins(ctx), progress=ProgressBar(screen)
    )
    if as_json:
        print_json(found.to_json())
        return
    print_combined(found, screen)
    echo(str(found.run.path))
