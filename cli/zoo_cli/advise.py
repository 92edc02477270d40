"""`zoo advise`."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.options import console, device_option, json_option, percent, print_json


@click.command()
@click.option("--data", metavar="DATA", help="A folder of photographs, or NAME:ARGUMENT.")
@click.option("--backbone", "backbones", multiple=True, metavar="NAME", help="See `zoo list backbones`.")
@click.option("--study", metavar="DIR", help="Take data and backbones of this study, and keep the advice there.")
@click.option(
    "--studies", default="runs", show_default=True, metavar="DIR", help="Past studies, for the advice's track record."
)
@click.option(
    "--weights", default="default", show_default=True, metavar="default|none|TAG|FILE", help="Of the backbones."
)
@click.option("--split-seed", type=int, default=0, show_default=True, help="Of the split, where the data bring none.")
@device_option
@json_option
@click.pass_context
def advise(
    ctx: click.Context,
    data: str | None,
    backbones: tuple[str, ...],
    study: str | None,
    studies: str,
    weights: str,
    split_seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Look at training photographs through backbones, once and without training: which to try, and how to train them.

    \b
    zoo advise --data photos --backbone efficientnet_lite0 --backbone resnet50
    zoo advise --study runs/first-study

    Ranks by the published accuracy, LogME, H-score and nearest neighbours: a shortlist, no winner. For each backbone,
    what a linear probe knows after every stage, how far the photographs lie from those that it learnt from, and the
    strategy that follows.
    """
    from zoo.advice.recommendation import advise as look
    from zoo_cli.display import Display
    from zoo_cli.main import plugins

    screen = console()
    found = look(
        data,
        backbones,
        study=study,
        studies=studies,
        weights=weights,
        split_seed=split_seed,
        device=device,
        plugins=plugins(ctx),
        progress=Display(screen),
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
            "-" if one.distance is None else f"{one.distance:.2f}",
            f"{one.seconds:.0f}",
        )
    screen.print(table)
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
            f"{one['study']}: {one['backbones']} backbones by {one['images']} photographs"
            for one in found.record["studies"]
        )
        screen.print(
            f"[dim]in past studies ({escape(of)}): Kendall's tau {tau}, regret of the first "
            f"{found.record['regret_top_1']:.3f}, of the best of three {found.record['regret_top_3']:.3f}[/dim]"
        )
    else:
        screen.print("[dim]no past study tells how good this advice is; `zoo advise --study DIR` keeps it there[/dim]")
    for name in found.shortlist:
        click.echo(name)
