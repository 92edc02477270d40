"""`zoo label-next`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zoo_cli.options import console, device_option, echo, force_option, json_option, print_json, workers_option
from zoo_cli.predict import without_controls

if TYPE_CHECKING:
    from zoo.embedding.selection import Method


@click.command(name="label-next")
@click.argument("unlabelled", metavar="UNLABELLED")
@click.option("--data", metavar="DATA", help="Images that are labelled already, as zoo train takes them.")
@click.option("--backbone", required=True, metavar="NAME", help="Backbone whose features decide.")
@click.option("--out", required=True, metavar="FILE", help="CSV to write, with an empty column `label` to fill in.")
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Number of images to choose.")
@click.option(
    "--method",
    type=click.Choice(["combined", "margin", "k-centre"]),
    default="combined",
    show_default=True,
    help="How images are chosen: those a head is least sure of (`margin`), those farthest from all that are labelled "
    "(`k-centre`), or the second among the first (`combined`).",
)
@click.option(
    "--weights",
    default="default",
    show_default=True,
    metavar="default|none|TAG|FILE",
    help="Weights of the backbone: their default, none (random), a published tag, or a file.",
)
@click.option(
    "--image-size",
    type=click.IntRange(1),
    help="Height and width of the network's input, in pixels.  [default: the backbone's own]",
)
@device_option
@workers_option
@force_option
@json_option
@click.pass_context
def label_next(
    ctx: click.Context,
    unlabelled: str,
    data: str | None,
    backbone: str,
    out: str,
    count: int,
    method: Method,
    weights: str,
    image_size: int | None,
    device: str,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Choose which images to label next.

    UNLABELLED and --data are whatever --data of zoo train takes. Features of a frozen backbone are computed once and
    kept. Without --data, images at the centres of clusters are chosen.

    \b
    zoo label-next new --backbone efficientnet_lite0 --count 20 --out next.csv
    zoo label-next new --data photos --backbone efficientnet_lite0 --out next.csv

    Writes a CSV with the columns path, label (empty), rank, predicted, margin and distance, and prints the paths. With
    labels filled in, `csv:next.csv` reads it.
    """
    from zoo.embedding.labelling import label_next as choose
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    found = choose(
        unlabelled,
        backbone,
        data=data,
        count=count,
        out=out,
        method=method,
        weights=weights,
        image_size=image_size,
        device=device,
        workers=workers,
        force=force,
        plugins=plugins(ctx),
        progress=ProgressBar(console()),
    )
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        echo(without_controls(one.path))
