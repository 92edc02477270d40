"""`zoo label-next`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.options import (
    console,
    device_option,
    echo,
    force_option,
    json_option,
    print_json,
    threads_option,
    workers_option,
)
from zoo_cli.predict import without_controls
from zoo_cli.shared_settings import feature_network_options

if TYPE_CHECKING:
    from zoo.embedding.selection import Method


@click.command(name="label-next")
@click.argument("unlabelled", metavar="UNLABELLED")
@click.option("--data", metavar="DATA", help="Images that are labelled already, as zoo train takes them.")
@feature_network_options(also="; margins are of its probabilities, and without --data its data are labelled")
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
@device_option
@workers_option
@threads_option
@force_option
@json_option
@click.pass_context
def label_next(
    ctx: click.Context,
    unlabelled: str,
    data: str | None,
    backbone: str | None,
    run: str | None,
    weights: str | None,
    image_size: Any,
    out: str,
    count: int,
    method: Method,
    device: str,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Choose which images to label next.

    UNLABELLED and --data are whatever --data of zoo train takes. Features of a frozen backbone are computed once and
    kept. Without --data and --run, images at the centres of clusters are chosen.

    \b
    zoo label-next new --backbone efficientnet_lite0 --count 20 --out next.csv
    zoo label-next new --data photos --backbone efficientnet_lite0 --out next.csv
    zoo label-next new --run runs/first --out next.csv

    Writes a CSV with the columns path, label (empty), rank, predicted, margin and distance, and prints the paths. With
    labels filled in, `csv:next.csv` reads it.
    """
    from zoo.embedding.labelling import label_next as choose
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    found = choose(
        unlabelled,
        backbone,
        run=run,
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
