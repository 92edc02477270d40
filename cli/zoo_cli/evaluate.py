"""`zoo evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from zoo.errors import UsageError
from zoo_cli.options import (
    classes_from_option,
    console,
    device_option,
    json_option,
    levels_option,
    print_json,
    splits_option,
    threads_option,
    workers_option,
)
from zoo_cli.shared_settings import exclude_option, split_seed_option

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.plugin import Plugins


@click.command()
@click.argument("model", metavar="RUN|FILE")
@click.option("--data", metavar="DATA", help="Images to score, a folder or a dataset.  [default: the data of the run]")
@click.option(
    "--split", metavar="train|val|test|all", help="Split to score.  [default: the split that the run reports]"
)
@split_seed_option("the run's")
@device_option
@workers_option
@threads_option
@levels_option
@exclude_option("those that the run left out of its data")
@click.option(
    "--unknown",
    metavar="DATA",
    help="Images of no class, whatever --data reads; labels are not needed. How well they are told from those of the "
    "split, by a model that was trained with --unknown-rate.",
)
@click.option(
    "--at",
    metavar="CLASS:FIGURE=VALUE",
    multiple=True,
    help="Operating point, such as bees:recall=0.95 or bees:precision=0.9: the threshold of the class's probability, "
    "chosen on other images than those that it is reported on: val where test is scored, else half of them. Can be "
    "given several times.",
)
@click.option(
    "--costs",
    metavar="FILE",
    help="CSV file with what each decision (column) costs for each true class (row), by name: the mean cost of the "
    "decisions of the lowest expected cost, beside that of the most probable classes.",
)
@click.option(
    "--forgotten",
    is_flag=True,
    help="For a run of `zoo train --from`: score it on the images that the run was reported on which it goes on from, "
    "and say how much it has forgotten.",
)
@json_option
@splits_option
@classes_from_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    model: str,
    data: str | None,
    split: str | None,
    split_seed: int | None,
    device: str,
    workers: int | None,
    levels: tuple[float, float] | None,
    exclude: str | None,
    unknown: str | None,
    at: tuple[str, ...],
    costs: str | None,
    forgotten: bool,
    as_json: bool,
) -> None:
    """Measure the accuracy of a run or an exported file on a split.

    Prints accuracy, precision, recall, F1, top-5 accuracy, loss, areas under the curves, kappa, MCC and calibration
    error, a table by class and the confusion matrix. `zoo train` never uses the test split. Score it here once, when
    nothing is left to choose: each evaluation is recorded in the run's `ledger.jsonl`.

    \b
    zoo evaluate runs/first --split test
    zoo evaluate runs/first/model.onnx --data photos
    zoo evaluate runs/first --split test --unknown holiday
    zoo evaluate runs/first --split test --at bees:recall=0.95 --costs costs.csv
    zoo evaluate runs/second --forgotten
    """
    from zoo.data.decoding import doubts_text
    from zoo.errors import counted
    from zoo.evaluation.scoring import evaluate as score
    from zoo.progress import ProgressBar
    from zoo_cli.figures import print_evaluation
    from zoo_cli.main import plugins

    screen = console()
    display = ProgressBar(screen)
    begun = False

    def advance(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            display.start("score", total)
            begun = True
        display.advance(done - display.done)

    if forgotten:
        _check_alone(ctx)
        try:
            _print_forgetting(model, split, device, workers, as_json, plugins(ctx), advance, screen)
        finally:
            display.stop()
        return
    try:
        found = score(
            model,
            data=data,
            split=split,
            split_seed=split_seed,
            device=device,
            workers=workers,
            levels=levels,
            exclude=exclude,
            unknown=unknown,
            at=at,
            costs=costs,
            plugins=plugins(ctx),
            advance=advance,
        )
    finally:
        display.stop()
    for text in (*found.notes, *(() if found.unknown is None else found.unknown.notes)):
        display.note(text)
    if bad := (*found.bad, *(() if found.unknown is None else found.unknown.bad)):
        listed = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:10])
        what = counted(
            len(bad),
            "file is left out because it cannot be read as an image",
            "files are left out because they cannot be read as images",
        )
        display.warn(f"{what}:{listed}")
    if found.doubtful:
        display.warn(doubts_text(found.doubtful))
    if as_json:
        print_json(found.to_json())
    else:
        print_evaluation(found, screen)


# Options that may be given with `--forgotten`
WITH_FORGOTTEN = ("model", "split", "device", "workers", "forgotten", "as_json")


def _check_alone(ctx: click.Context) -> None:
    """Check that nothing is given with `--forgotten` that the run which another goes on from has settled.

    Raises:
        UsageError: something is.
    """
    given = [
        f"`--{name.replace('_', '-')}`"
        for name in ctx.params
        if name not in WITH_FORGOTTEN and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be given with `--forgotten`: the images are those that the earlier run was "
            "reported on",
            hint="leave it out; `zoo evaluate RUN --data DATA` scores other images",
        )


def _print_forgetting(
    model: str,
    split: str | None,
    device: str,
    workers: int | None,
    as_json: bool,
    plugins: Plugins,
    advance: Callable[[int, int], None],
    screen: Console,
) -> None:
    from zoo.evaluation.forgetting import measure_forgetting
    from zoo_cli.figures import print_forgetting

    found = measure_forgetting(model, split=split, device=device, workers=workers, plugins=plugins, advance=advance)
    if as_json:
        print_json({"schema": 1, "run": found.run, **found.to_json()})
    else:
        print_forgetting(found, screen)
