"""`zoo doctor`."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.options import (
    classes_from_option,
    console,
    device_option,
    echo,
    force_option,
    json_option,
    print_json,
    splits_option,
    threads_option,
    workers_option,
)
from zoo_cli.shared_settings import exclude_option, split_seed_option, weights_option


@click.command()
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Images to examine: a folder, or a dataset as NAME:ARGUMENT; see `zoo list datasets`.",
)
@click.option(
    "--backbone",
    metavar="NAME|none",
    help="Backbone whose features are used, see `zoo list backbones`; `none`: no features, so neither wrong labels nor "
    "strangers are found.  [default: efficientnet_lite0, or the cheapest whose weights are on this machine]",
)
@weights_option()
@split_seed_option()
@click.option(
    "--group",
    metavar="COLUMN|REGEX",
    help="What images of one group share: a column of the table, or a regular expression of their paths; groups in two "
    "splits are found.  [default: the groups of the data]",
)
@exclude_option()
@click.option("--out", metavar="DIR", help="Folder of the files.  [default: a new one below runs/]")
@click.option(
    "--photographs/--no-photographs",
    default=True,
    show_default=True,
    help="Whether to draw small pictures in the page, or list names only.",
)
@force_option
@device_option
@workers_option
@threads_option
@json_option
@splits_option
@classes_from_option
@click.pass_context
def doctor(
    ctx: click.Context,
    data: str,
    backbone: str | None,
    weights: str,
    split_seed: int,
    group: str | None,
    exclude: str | None,
    out: str | None,
    photographs: bool,
    force: bool,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Find faults of your images before training: copies, wrong labels, strangers, dark and blurred ones.

    It reports and ranks, and never deletes. It writes a page with pictures (`doctor.html`), and `doctor.csv`, which you
    may edit: `--exclude doctor.csv` of train, study and evaluate leaves out the images whose row says `yes`.

    \b
    zoo doctor --data photos --out checked
    zoo train --data photos --exclude checked/doctor.csv --backbone efficientnet_lite0 --strategy linear

    Copies are found by their bytes, and near duplicates (resized, cut, compressed, mirrored, turned, brightened) by
    aligning their pixels. Wrong labels and strangers are found by the features of a pretrained backbone.
    """
    from zoo.doctor.findings import BY_NAME
    from zoo.doctor.reporting import doctor as examine
    from zoo.progress import ProgressBar
    from zoo_cli.main import plugins

    screen = console()
    progress = ProgressBar(screen)
    try:
        found = examine(
            data,
            out=out,
            force=force,
            photographs=photographs,
            backbone=backbone,
            weights=weights,
            split_seed=split_seed,
            group=group,
            exclude=exclude,
            device=device,
            workers=workers,
            plugins=plugins(ctx),
            progress=progress,
        )
    finally:
        progress.stop()
    examination = found.examination
    if as_json:
        print_json(examination.to_json())
        return
    counts = examination.counts()
    if counts:
        table = Table("finding", "number", "worst")
        for name, count in counts.items():
            worst = next(one for one in examination.findings if one.kind == name)
            pair = f" = {worst.partner}" if worst.partner else ""
            table.add_row(escape(BY_NAME[name].title), f"{count:,}", escape(f"{worst.id}{pair}"))
        screen.print(table)
    else:
        screen.print("nothing was found")
    for one in examination.power:
        screen.print(escape(str(one)))
    for file in (found.html, found.csv):
        echo(str(file))
