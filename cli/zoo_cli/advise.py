"""`zoo advise`."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from zoo.errors import counted
from zoo_cli.options import (
    classes_from_option,
    console,
    device_option,
    echo,
    json_option,
    percent,
    print_json,
    splits_option,
    threads_option,
)
from zoo_cli.settings import preprocessing_options
from zoo_cli.shared_settings import split_seed_option, weights_option


@click.command()
@click.option(
    "--data",
    metavar="DATA",
    help="Images to train on: a folder, or a dataset as NAME:ARGUMENT; see `zoo list datasets`.",
)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="Backbone to rank, see `zoo list backbones`; may be given several times.",
)
@click.option(
    "--study", metavar="DIR", help="Take data and backbones from the study in this folder, and store the advice there."
)
@click.option(
    "--studies",
    default="runs",
    show_default=True,
    metavar="DIR",
    help="Folder of past studies with stored advice, to show how good that advice was.",
)
@weights_option("the backbones")
@split_seed_option()
@preprocessing_options
@device_option
@threads_option
@json_option
@splits_option
@classes_from_option
@click.pass_context
def advise(
    ctx: click.Context,
    data: str | None,
    backbones: tuple[str, ...],
    study: str | None,
    studies: str,
    weights: str,
    split_seed: int,
    image_size: Any,
    fit: Any,
    fill: Any,
    device: str,
    as_json: bool,
) -> None:
    """Rank backbones for your images and suggest a strategy, without training.

    Use it to shorten the list of backbones before a study. It runs up to 2,000 training images through each backbone
    once. Only a study, which trains, finds a winner.

    \b
    zoo advise --data photos --backbone efficientnet_lite0 --backbone resnet50
    zoo advise --study runs/first-study

    Backbones are ranked by the mean of four ranks: published top-1 accuracy, LogME, H-score and nearest-neighbour
    accuracy. For each backbone it then prints the accuracy of a linear probe after every stage, the distance between
    your images and those that the backbone was pretrained on, and the strategy suggested by these two.
    """
    from zoo.advice.recommendation import advise as rank
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    found = rank(
        data,
        backbones,
        study=study,
        studies=studies,
        weights=weights,
        split_seed=split_seed,
        image_size=image_size,
        fit=fit,
        fill=fill,
        device=device,
        plugins=plugins(ctx),
        progress=ProgressBar(screen),
    )
    if as_json:
        print_json(found.to_json())
        return
    table = Table("backbone", "mean rank", "top-1", "LogME", "H-score", "kNN", "distance", "seconds")
    for one in found.backbones:
        table.add_row(
            escape(one.backbone),
            f"{one.rank:.2f}",
            percent(one.top1),
            f"{one.logme:.4f}",
            f"{one.h_score:.4f}",
            percent(one.knn),
            "-" if one.distance is None else f"{one.distance:.2f}{'*' if one.distance_by else ''}",
            f"{one.seconds:.0f}",
        )
    screen.print(table)
    borrowed = next((one for one in found.backbones if one.distance_by), None)
    if borrowed is not None:
        by = " ".join(f"`{name}`" for name in borrowed.distance_by or ())
        screen.print(f"[dim]* it has no batch norms, so the distance is that by {escape(by)}[/dim]")
    for one in found.backbones:
        depths = Table("stage", "probe", "95 %", "distance", title=escape(one.backbone))
        for stage in one.stages:
            depths.add_row(
                escape(stage.name),
                percent(stage.accuracy),
                f"{stage.interval[0]:.3f}-{stage.interval[1]:.3f}",
                "-" if stage.distance is None else f"{stage.distance:.2f}",
            )
        low, high = one.interval
        depths.add_section()
        depths.add_row("before the head", percent(one.probe), f"{low:.3f}-{high:.3f}", "")
        screen.print(depths)
        screen.print(f"[bold]{escape(one.strategy)}[/bold]: {escape(one.reason)}")
    if found.record:
        tau = "-" if found.record["tau"] is None else f"{found.record['tau']:.2f}"
        of = "; ".join(
            f"{one['study']}: {counted(one['backbones'], 'backbone')}, {counted(one['images'], 'photograph')}"
            for one in found.record["studies"]
        )
        screen.print(
            f"[dim]advice in past studies ({escape(of)}): Kendall's tau {tau} between advised and measured order; "
            f"accuracy lost by training only the first backbone {found.record['regret_top_1']:.3f}, "
            f"only the first three {found.record['regret_top_3']:.3f}[/dim]"
        )
    else:
        screen.print(
            "[dim]there is no past study to compare it with; `zoo advise --study DIR` stores it in a study[/dim]"
        )
    for name in found.shortlist:
        echo(name)
