"""`zoo plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.preprocess import pixels_text
from zoo_cli.options import classes_from_option, console, json_option, print_json, splits_option
from zoo_cli.settings import settings_options, with_parent
from zoo_cli.settings_file import experiment_of, file_argument

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.training.dry_run import PhasePlan, Plan


@click.command()
@file_argument
@settings_options
@json_option
@splits_option
@classes_from_option
@click.pass_context
def plan(ctx: click.Context, /, as_json: bool, settings_file: str | None, **settings: Any) -> None:
    """Show what a strategy would train, without training.

    Prints a table for each phase of the strategy: which stages train, their learning rate, and their number of
    parameters. Use it to check a strategy before `zoo train`, whose options it takes. No weights are downloaded.

    \b
    zoo plan --backbone efficientnet_lite0 --strategy partial:2
    zoo plan --backbone resnet50 --strategy gradual:3 --data photos --batch-size 64
    zoo plan run.toml

    SETTINGS is a file in TOML, as for `zoo train`.

    With --data it also counts the steps and estimates memory and training time on this machine.
    """
    settings = with_parent(settings, "plan", ("backbone", "strategy"))
    with_data = settings["data"] is not None
    experiment = experiment_of(ctx, {**settings, "data": settings["data"] if with_data else "none"})
    from zoo.training.dry_run import plan as make_plan
    from zoo_cli.main import plugins

    made = make_plan(experiment, with_data=with_data, plugins=plugins(ctx))
    if as_json:
        print_json(made.to_json())
        return
    print_plan(made, experiment, console())


def print_plan(made: Plan, experiment: Experiment, screen: Console) -> None:
    """Print a table for each phase, then the totals."""
    from rich.markup import escape

    screen.print(
        f"{escape(made.strategy)} on {escape(made.backbone)}, {pixels_text(made.image_size)} pixels, "
        f"{made.classes} classes, batches of {made.batch_size}"
    )
    for number, phase in enumerate(made.phases, start=1):
        _print_phase(number, phase, experiment, screen)
    for note in made.notes:
        screen.print(f"[dim]{escape(note)}[/dim]")
    steps = "- steps" if made.steps is None else counted(made.steps, "step")
    time = "" if made.seconds is None else f", about {_duration(made.seconds)} of the network's time on {made.device}"
    whole = "" if made.peak_memory is None else f", {made.peak_memory / 2**30:.1f} GiB with libraries and images"
    screen.print(
        f"in all {made.trainable:,} of {made.parameters:,} parameters train, {steps}, "
        f"about {made.memory / 2**20:,.0f} MiB{whole}{time}"
    )


def _print_phase(number: int, phase: PhasePlan, experiment: Experiment, screen: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    words = [f"phase {number} {phase.name}"]
    if phase.solver is not None:
        words.append(f"solved by {phase.solver.partition(':')[0].rpartition('.')[2]}")
    else:
        steps = "" if phase.steps is None else f", {counted(phase.steps, 'step')}"
        words += [f"{counted(phase.epochs, 'epoch')}{steps}", experiment.schedule, f"norm {phase.norm}"]
    words += [f"{word} {value if isinstance(value, str) else f'{value:g}'}" for word, value in phase.settings.items()]
    table = Table(title=escape(", ".join(words)), title_justify="left", title_style="bold")
    for name in ("stage", "trains", "lr", "weight decay", "statistics", "trainable", "parameters"):
        table.add_column(name, justify="right" if name in ("lr", "weight decay", "trainable", "parameters") else "left")
    times = "x " if experiment.lr == "find" else ""
    for row in phase.stages:
        table.add_row(
            escape(row.stage),
            row.trains,
            "-" if row.lr is None else f"{times}{row.lr:.3g}",
            "-" if row.weight_decay is None else f"{row.weight_decay:g}",
            row.norm,
            f"{row.trainable:,}",
            f"{row.parameters:,}",
        )
    table.add_section()
    table.add_row("in all", "", "", "", "", f"{phase.trainable:,}", f"{phase.parameters:,}")
    screen.print(table)
    if phase.frozen is not None:
        screen.print(f"[dim]{escape(phase.frozen)}[/dim]")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
