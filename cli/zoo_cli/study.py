"""`zoo study`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from zoo.errors import UsageError, ZooError
from zoo_cli.figures import print_needed
from zoo_cli.options import console, json_option, percent, print_json
from zoo_cli.settings import SECONDS, settings_options

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.studies.results import Results

# Of `zoo train`, what is a study's own, or what it says several times
OWN = ("data", "backbone", "strategy", "seed", "fraction", "time_budget")


class _Size(click.ParamType[int]):
    """Bytes, such as `20M`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)B?", str(value))
        if found is None:
            self.fail(f"{value} is no size, such as 20M", param, ctx)
        return int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2]])


class _Milliseconds(click.ParamType[float]):
    """A latency such as `20ms`, in seconds."""

    name = "latency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s)", str(value))
        if found is None:
            self.fail(f"{value} is no latency, such as 20ms", param, ctx)
        return float(found[1]) * {"ms": 1e-3, "s": 1.0}[found[2]]


def _settings(command: Any) -> Any:
    """The settings of `zoo train` but for those that a study sets itself."""

    def bare() -> None: ...

    settings_options(bare)
    kept = [option for option in bare.__click_params__ if option.name not in OWN]  # type: ignore[attr-defined]
    command.__click_params__ = [*getattr(command, "__click_params__", []), *kept]
    return command


@click.command()
@click.argument("study", required=False, metavar="[STUDY]")
@_settings
@json_option
@click.option("--out", metavar="DIR", help="The study's folder; one that holds this study goes on.")
@click.option("--retry", is_flag=True, help="Try failed trials again.")
@click.option("--status", is_flag=True, help="Show how the study in the folder STUDY stands, and do nothing.")
@click.option("--no-test", "test", flag_value=False, default=True, help="Leave the locked split unseen.")
@click.option("--time-budget", type=SECONDS, metavar="TIME", help="Begin no trial after that long: 90s, 30m, 2h.")
@click.option("--search", type=int, default=0, metavar="N", help="Try N settings for each pair, by the loss on val.")
@click.option("--license", "licenses", multiple=True, metavar="PATTERN", help="Of the weights, such as `apache*`.")
@click.option("--max-size", type=_Size(), metavar="SIZE", help="Of the exported file, such as 20M.")
@click.option("--max-latency", type=_Milliseconds(), metavar="TIME", help="Of one image, exported: 20ms.")
@click.option("--fraction", "fractions", type=float, multiple=True, help="Share of the training images.  [default: 1]")
@click.option("--seed", "seeds", type=int, multiple=True, help="[default: 0 1]")
@click.option("--also", type=(str, str), multiple=True, metavar="NAME SPEC", help="One more backbone and strategy.")
@click.option("--strategy", "strategies", multiple=True, metavar="SPEC", help="See `zoo list strategies`.")
@click.option("--backbone", "backbones", multiple=True, metavar="NAME", help="See `zoo list backbones`.")
@click.option("--data", metavar="DATA", help="A folder of photographs, or NAME:ARGUMENT.")
@click.pass_context
def study(
    ctx: click.Context,
    /,
    study: str | None,
    out: str | None,
    as_json: bool,
    retry: bool,
    status: bool,
    time_budget: float | None,
    **asked: Any,
) -> None:
    """Compare every backbone with every strategy, and say which cannot be told apart from the best.

    \b
    zoo study --data photos --backbone efficientnet_lite0 --backbone resnet18 --strategy linear --strategy partial:2
    zoo study --data photos --backbone resnet18 --strategy full --fraction 0.1 --fraction 1 --max-latency 20ms
    zoo study study.toml
    zoo study runs/first-study

    STUDY is a study file, or the folder of a study, which goes on where it was stopped. Networks are timed before they
    are trained. Ways to train are compared on `val`; the winners are scored on `test`, at the end and once. Data with
    two splits have the second locked away as `test`, and `val` carved from train.
    """
    from zoo.studies.results import Results
    from zoo.studies.runner import study as carry_out
    from zoo_cli.display import Display
    from zoo_cli.main import plugins

    screen = console()
    if status:
        if study is None:
            raise UsageError("`--status` of which study?", hint="zoo study FOLDER --status")
        results = Results.open(study)
    else:
        folder = Path(study) if study is not None and Path(study).is_dir() else None
        given = _given(ctx, asked) if folder is not None else []
        if given:
            raise UsageError(
                f"`{_option(ctx, given[0])}` is of a new study, and `{folder}` goes on as it is",
                hint="leave it out, or begin another study by `--out`",
            )
        results = carry_out(
            folder if folder is not None else _asked(ctx, study, time_budget, asked),
            out=_out(ctx, study, out),
            retry=retry,
            time_budget=time_budget,
            plugins=plugins(ctx),
            progress=Display(screen),
        )
    board, why = _board(results)
    _print(results, board, why, screen)
    if as_json:
        whole = {"study": str(results.path), **results.record, "outcomes": [one.to_json() for one in results.outcomes]}
        print_json({**whole, "leaderboard": board})
    else:
        click.echo(str(results.path))
    if not status and results.outcomes and not any(one.finished for one in results.outcomes):
        raise ZooError(
            f"no trial of `{results.path}` is finished; the reasons stand above",
            hint="loosen a bound, or mend what failed and pass `--retry`",
        )


def _given(ctx: click.Context, names: Any) -> list[str]:
    source = click.core.ParameterSource.COMMANDLINE
    return [name for name in names if ctx.get_parameter_source(name) is source]


def _option(ctx: click.Context, name: str) -> str:
    """How an option is said."""
    return next(option.opts[0] for option in ctx.command.params if option.name == name)


def _out(ctx: click.Context, study: str | None, out: str | None) -> str | None:
    if study is not None and Path(study).is_dir() and out is not None:
        raise UsageError("`--out` is of a new study", hint=f"leave it out: `{study}` is the folder that goes on")
    return out


def _asked(ctx: click.Context, file: str | None, time_budget: float | None, asked: dict[str, Any]) -> Any:
    """The study that the options, or a file, describe."""
    from zoo.studies.study import Study

    given = _given(ctx, asked)
    if file is not None:
        if given:
            raise UsageError(f"`{_option(ctx, given[0])}` is of a study without a file", hint=f"write it into `{file}`")
        if not Path(file).is_file():
            raise UsageError(f"there is no study `{file}`", hint="pass a study file, or the folder of a study")
        return Study.from_file(Path(file))
    own = {entry.name for entry in dataclasses.fields(Study)}
    if asked["data"] is None:
        raise UsageError("missing option `--data`", hint="see `zoo study --help`")
    kept = {name: value for name, value in asked.items() if name in own and value not in (None, ())}
    settings = {name: asked[name] for name in given if name not in own}
    return Study(**kept, settings=settings, time_budget=time_budget)


def _board(results: Results) -> tuple[dict[str, Any] | None, str]:
    """The leaderboard, or why there is none; nothing is wrong where no trial is finished yet."""
    if not any(one.finished for one in results.outcomes):
        return None, ""
    try:
        return results.leaderboard, ""
    except ZooError as error:
        return None, str(error)


def _print(results: Results, board: dict[str, Any] | None, why: str, screen: Console) -> None:
    from zoo.studies.results import TRIALS
    from zoo.studies.trial import TrialState

    states = [one.state for one in results.outcomes]
    screen.print(
        f"study {results.status}: {results.record['trials']} trials, {states.count(TrialState.FINISHED)} finished, "
        f"{states.count(TrialState.REFUSED)} not trained, {states.count(TrialState.FAILED)} failed, "
        f"{results.record['trials'] - len(states)} left"
    )
    for one in results.outcomes:
        if not one.finished:
            hint = f" ({one.hint})" if one.hint else ""
            screen.print(f"[dim]{escape(one.name)}: {one.state}: {escape(one.failure + hint)}[/dim]")
    if why:
        screen.print(f"[yellow]warning[/yellow]: {escape(why)}")
    if board is None:
        return
    table = Table("backbone", "strategy", f"accuracy on {board['split']}", "95 %", "F1", "ms", "seconds", "on test", "")
    for row in board["rows"]:
        latency, test = row["latency"], row["test"]
        table.add_row(
            escape(row["backbone"]),
            escape(row["strategy"]),
            percent(row["accuracy"]),
            f"{row['interval'][0]:.3f}-{row['interval'][1]:.3f}",
            percent(row["f1"]),
            f"{latency[0] * 1000:.1f}" if latency else "-",
            f"{row['seconds']:.0f}",
            percent(test["accuracy"]) if test else "-",
            "cheapest winner" if row["cheapest"] else "winner" if row["winner"] else "",
        )
    screen.print(table)
    count, cheapest = len(board["winners"]), f"[bold]{escape(board['cheapest'])}[/bold]"
    if len(board["rows"]) == 1:
        screen.print(f"one way to train was compared, with nothing: {cheapest}")
    elif count > 1:
        images = board["rows"][0]["images"]
        screen.print(f"{count} ways to train cannot be told apart on {images} photographs; the cheapest is {cheapest}")
    else:
        screen.print(f"nothing is known to be as good as {cheapest}")
    print_needed(board["comparison"], screen)
    mixed = board.get("ensemble")
    if mixed and mixed["helps"]:
        screen.print(f"{mixed['name']} ({len(mixed['members'])}): accuracy {mixed['metrics']['accuracy']:.3f}")
    for note in board["notes"]:
        screen.print(f"[dim]{escape(note)}[/dim]")
    screen.print(f"[dim]looks at the locked split: {board['looks']}[/dim]")
    trial = results.path / TRIALS / results.first(board["cheapest"]).name
    screen.print(f"[dim]next: zoo report {escape(str(results.path))}; zoo export {escape(str(trial))}[/dim]")
