"""`zoo features`."""

from __future__ import annotations

from typing import Any

import click

from zoo.errors import UsageError, counted
from zoo_cli.options import (
    classes_from_option,
    console,
    echo,
    json_option,
    print_json,
    splits_option,
    threads_option,
)
from zoo_cli.places import place_options
from zoo_cli.settings import settings_options, with_parent
from zoo_cli.settings_file import experiment_of, file_argument


@click.command()
@file_argument
@settings_options
@place_options("shard", "Compute the shards on other machines, which see the data and the cache folder")
@json_option
@splits_option
@threads_option
@classes_from_option
@click.pass_context
def features(
    ctx: click.Context,
    /,
    jobs: int | None,
    place: str | None,
    cpus_per_shard: int | None,
    gpus_per_shard: float | None,
    as_json: bool,
    settings_file: str | None,
    **settings: Any,
) -> None:
    """Compute the features of millions of images, shard by shard.

    Every shard is one task. Its features are kept in the cache folder by the digest of the shard, so that a pass that
    was killed goes on from there: run the same command again. `zoo train` with the same settings then trains from the
    features, and decodes nothing.

    \b
    zoo features --data 'wds:shard-{000..999}.tar' --backbone efficientnet_lite0 --jobs 8
    zoo train --data 'wds:shard-{000..999}.tar' --backbone efficientnet_lite0 --strategy linear
    zoo features --data 'wds:shard-{000..999}.tar' --backbone efficientnet_lite0 --on ray://head:10001

    The data are WebDataset shards. The strategy, `linear` by default, is one that is solved from features.
    """
    from zoo.progress import ProgressBar
    from zoo.storage.tensor_store import size_text
    from zoo.studies.feature_pass import compute_features
    from zoo.studies.places import executor_on
    from zoo_cli.main import plugins

    settings["strategy"] = settings["strategy"] or "linear"
    experiment = experiment_of(ctx, with_parent(settings, "features", ("data", "backbone")))
    if place is None and (cpus_per_shard, gpus_per_shard) != (None, None):
        raise UsageError("`--cpus-per-shard` and `--gpus-per-shard` apply with `--on` only", hint="such as `--on ray`")
    executor = None
    if place is not None:
        executor = executor_on(
            place, cpus=cpus_per_shard or 1, gpus=gpus_per_shard or 0.0, jobs=jobs, plugins=plugins(ctx)
        )
    screen = console()
    found = compute_features(
        experiment, jobs=jobs or 1, executor=executor, plugins=plugins(ctx), progress=ProgressBar(screen)
    )
    if as_json:
        print_json(found.to_json())
        return
    rate = f", {found.computed / found.core_seconds:,.0f} images/s of processor time" if found.computed else ""
    screen.print(
        f"{counted(found.shards, 'shard')}, {found.computed + found.kept:,} images, {size_text(found.bytes)}: "
        f"{found.computed:,} computed by {found.engine}, {found.kept:,} kept before{rate}, at most "
        f"{size_text(found.peak_memory)} of memory a worker",
        markup=False,
    )
    echo(str(found.store))
