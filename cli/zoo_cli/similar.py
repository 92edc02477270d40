"""`zoo similar`."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.options import console, device_option, echo, json_option, print_json, threads_option, workers_option
from zoo_cli.predict import without_controls
from zoo_cli.shared_settings import feature_network_options


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--features", metavar="FILE", help="File of `zoo embed` to search in.")
@click.option("--data", metavar="DATA", help="Images to search in, in place of --features; no labels are needed.")
@feature_network_options(otherwise="that of --features", also="; and its data, without --features and --data")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Number of images to find for each.")
@device_option
@workers_option
@threads_option
@json_option
@click.pass_context
def similar(
    ctx: click.Context,
    images: tuple[str, ...],
    features: str | None,
    data: str | None,
    backbone: str | None,
    run: str | None,
    weights: str | None,
    image_size: Any,
    top: int,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Find the images that are most similar to IMAGE, in a file of zoo embed, in any data, or in those of a run.

    Prints a line for each image found, the most similar first: IMAGE, cosine similarity, id, label, and `same` where
    both have the same bytes, separated by tabs. The exit code is 1 if an IMAGE cannot be read.

    \b
    zoo similar query.jpg --features features.parquet
    zoo similar query.jpg --data photos --backbone efficientnet_lite0 --top 3
    zoo similar query.jpg --run runs/first
    """
    from zoo.embedding.similarity import similar as find
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    display = ProgressBar(console())
    found, bad = find(
        images,
        features=features,
        data=data,
        run=run,
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        top=top,
        device=device,
        workers=workers,
        plugins=plugins(ctx),
        progress=display,
    )
    if as_json:
        errors = [{"path": one.id, "matches": [], "error": one.reason} for one in bad]
        print_json([*(one.to_json() for one in found), *errors])
    for each in found if not as_json else ():
        for one in each.matches:
            cells = (each.path, f"{one.similarity:.4f}", one.id, one.label, "same" if one.same else "")
            echo("\t".join(map(without_controls, cells)).rstrip("\t"))
    for file in bad if not as_json else ():
        display.warn(file.reason)
    if bad:
        ctx.exit(1)
