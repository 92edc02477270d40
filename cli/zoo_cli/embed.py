"""`zoo embed`."""

from __future__ import annotations

from typing import Any, get_args

import click

from zoo.errors import counted
from zoo.experiment import Engine
from zoo_cli.options import (
    classes_from_option,
    console,
    device_option,
    echo,
    force_option,
    json_option,
    levels_option,
    print_json,
    splits_option,
    threads_option,
    workers_option,
)
from zoo_cli.shared_settings import feature_network_options


@click.command()
@click.argument("data", metavar="DATA")
@feature_network_options()
@click.option("--out", required=True, metavar="FILE", help="File to write: .parquet, or .npz for numpy.")
@click.option("--no-labels", is_flag=True, help="Read no labels and no splits, so that images need none.")
@levels_option
@device_option
@workers_option
@threads_option
@click.option(
    "--cache",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Whether features are kept for later calls.",
)
@click.option(
    "--engine",
    type=click.Choice(get_args(Engine)),
    default="auto",
    show_default=True,
    help="What computes the features, as for zoo train.",
)
@splits_option
@classes_from_option
@force_option
@json_option
@click.pass_context
def embed(
    ctx: click.Context,
    data: str,
    backbone: str | None,
    run: str | None,
    weights: str | None,
    image_size: Any,
    out: str,
    no_labels: bool,
    levels: tuple[float, float] | None,
    device: str,
    workers: int | None,
    cache: str,
    engine: Engine,
    force: bool,
    as_json: bool,
) -> None:
    """Write the features of images by a frozen backbone, or by the network of a run, to a file.

    DATA is whatever --data of zoo train takes. Each row of the file has the image's id, label, split, group, the
    SHA-256 of its bytes, and its features, which are what the backbone gives its head. Images are read one after the
    other, so there may be more of them than fit into memory.

    \b
    zoo embed photos --backbone efficientnet_lite0 --out features.parquet
    zoo embed new --no-labels --backbone efficientnet_lite0 --out features.npz
    zoo embed new --no-labels --run runs/first --out features.npz

    Use `zoo similar --features` to search in the file. Images that cannot be read are reported and left out.
    """
    from zoo.embedding.writing import embed as write
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    found = write(
        data,
        out,
        backbone,
        run=run,
        labels=not no_labels,
        weights=weights,
        image_size=image_size,
        levels=levels,
        device=device,
        workers=workers,
        cache="off" if cache == "off" else "auto",
        engine=engine,
        force=force,
        plugins=plugins(ctx),
        progress=ProgressBar(screen),
    )
    if as_json:
        print_json(
            {
                "file": str(found.file),
                "images": found.images,
                "origin": vars(found.origin),
                "bad": [vars(one) for one in found.bad],
            }
        )
        return
    screen.print(
        f"{counted(found.images, 'image')}, {found.origin.width:,} numbers each, by {found.origin.backbone}",
        markup=False,
    )
    echo(str(found.file))
