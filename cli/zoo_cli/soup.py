"""`zoo soup`."""

from __future__ import annotations

import click

from zoo_cli.combined import print_combined
from zoo_cli.options import console, device_option, echo, force_option, json_option, print_json


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--by",
    type=click.Choice(["loss", "accuracy"]),
    default="loss",
    show_default=True,
    help="What decides, on images of validation, whether a run is taken. With `accuracy`, equal is good enough.",
)
@click.option("--out", metavar="FOLDER", help="Folder of the new run.  [default: a new one below runs/]")
@click.option("--data", metavar="DATA", help="New place of the runs' data, if they were moved since training.")
@device_option
@force_option
@json_option
@click.pass_context
def soup(
    ctx: click.Context,
    runs: tuple[str, ...],
    by: str,
    out: str | None,
    data: str | None,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Average the weights of several runs into one network.

    Use it for runs of one backbone that differ in seed or settings. The network is as fast as each of them, and often
    more accurate. From the best run to the worst, each is taken if the mean is not worse with it on the images of
    validation. The new run is used like any other.

    \b
    zoo soup runs/seed0 runs/seed1 runs/seed2 --out runs/soup
    zoo export runs/soup
    """
    from zoo.combining.soup import soup as make
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    found = make(
        runs,
        by=by,  # type: ignore[arg-type]  # click has checked it
        out=out,
        data=data,
        device=device,
        force=force,
        plugins=plugins(ctx),
        progress=ProgressBar(screen),
    )
    if as_json:
        print_json(found.to_json())
        return
    print_combined(found, screen)
    echo(str(found.run.path))
