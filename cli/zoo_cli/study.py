"""`zoo study`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from zoo.errors import UsageError, ZooError
from zoo.studies.pruners import PRUNERS
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
from zoo_cli.settings import SECONDS, settings_options
from zoo_cli.study_output import board_of, print_study

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.studies.search_status import SearchProgress

# Options of `zoo train` that a study defines itself
OWN = ("data", "backbone", "strategy", "seed", "fraction", "time_budget", "from_run")


class _Size(click.ParamType[int]):
    """A size such as `20M`, converted to bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)B?", str(value))
        if found is None:
            self.fail(f"{value} is not a size, such as 20M", param, ctx)
        return int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2]])


class _Milliseconds(click.ParamType[float]):
    """A latency such as `20ms`, converted to seconds."""

    name = "latency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s)", str(value))
        if found is None:
            self.fail(f"{value} is not a latency, such as 20ms", param, ctx)
        return float(found[1]) * {"ms": 1e-3, "s": 1.0}[found[2]]


def _settings(command: Any) -> Any:
    """Add the options of `zoo train`, except those that a study defines itself."""

    def bare() -> None: ...

    settings_options(bare)
    kept = [option for option in bare.__click_params__ if option.name not in OWN]  # type: ignore[attr-defined]
    command.__click_params__ = [*getattr(command, "__click_params__", []), *kept]
    return command


@click.command()
@click.argument("study", required=False, metavar="[STUDY]")
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
    help="Backbone to compare, see `zoo list backbones`; may be given several times.",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="SPEC",
    help="Strategy to compare, see `zoo list strategies`; may be given several times. An option that is a whole number "
    "may be a range: truncate:1..3 stands for three strategies.",
)
@click.option(
    "--also",
    type=(str, str),
    multiple=True,
    metavar="NAME SPEC",
    help="One more pair to compare: this backbone with this strategy only; may be given several times.",
)
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    help="Seed to train each pair with; give it several times to measure how results vary.  [default: 0 and 1]",
)
@click.option(
    "--fraction",
    "fractions",
    type=float,
    multiple=True,
    help="Fraction of the training images to train on; give it several times for learning curves.  [default: 1]",
)
@click.option(
    "--max-latency",
    type=_Milliseconds(),
    metavar="TIME",
    help="Do not train networks whose exported file is slower than this for one image, such as 20ms.  "
    "[default: no limit]",
)
@click.option(
    "--max-size",
    type=_Size(),
    metavar="SIZE",
    help="Do not train networks whose exported file is larger than this, such as 20M.  [default: no limit]",
)
@click.option(
    "--license",
    "licenses",
    multiple=True,
    metavar="PATTERN",
    help="Do not train networks whose weights have another licence than this, such as 'apache*'; may be given several "
    "times.",
)
@click.option(
    "--search",
    type=int,
    default=0,
    metavar="N",
    help="Number of hyperparameter settings to try for each pair before the comparison, by validation loss; needs the "
    "extra `study`.  [default: 0]",
)
@click.option(
    "--pruner",
    type=click.Choice(PRUNERS),
    default=PRUNERS[0],
    show_default=True,
    help="With --search: what ends trials of the search early, by their validation loss after each epoch: median, "
    "successive halving (asha), hyperband, or nothing.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="With --search: where its trials are kept, so that several sessions search together: sqlite:///FILE, "
    "postgresql://USER@HOST/DATABASE, mysql://..., or the path of a journal file. Also by ZOO_STORAGE, which keeps a "
    "password off the command line.  [default: search.db in the study's folder]",
)
@click.option(
    "--study-name",
    metavar="NAME",
    help="With --storage: name of the study there; sessions that give the same search together.  [default: the name of "
    "the study's folder]",
)
@click.option(
    "--grace-period",
    type=SECONDS,
    metavar="TIME",
    help="With --storage: time without a sign of life of this session after which others take its trial over.  "
    "[default: 2m]",
)
@click.option(
    "--time-budget",
    type=SECONDS,
    metavar="TIME",
    help="Start no further trial after this time, such as 30m or 2h.  [default: none]",
)
@click.option("--no-test", "test", flag_value=False, default=True, help="Do not score the winners on the test split.")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder to write the study to; the same study is continued if it is there.  [default: runs/<time>-study]",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the study as a file in TOML, with a comment for each key, and exit: `zoo study FILE` then carries out "
    "the same.",
)
@place_options("trial", "Train the trials on other machines, which see the study's folder and the data")
@click.option(
    "--store",
    metavar="URL",
    help="With --on: machines that share no folder exchange runs through this store, such as s3://bucket/prefix or a "
    "folder; needs the extra `remote` unless it is a folder.  [default: all machines see the study's folder]",
)
@click.option("--retry", is_flag=True, help="Train failed trials again.")
@click.option(
    "--status",
    is_flag=True,
    help="Print the results so far of the study in the folder STUDY, and exit; with --storage, how far the searches "
    "there are, also without STUDY.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Show the study in the folder STUDY as a page on this machine that renews itself, while another session "
    "carries it out; Ctrl-C ends it.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="With --watch: its port.  [default: a free one]"
)
@json_option
@_settings
@splits_option
@threads_option
@classes_from_option
@click.pass_context
def study(
    ctx: click.Context,
    /,
    study: str | None,
    out: str | None,
    as_json: bool,
    jobs: int | None,
    place: str | None,
    cpus_per_trial: int | None,
    gpus_per_trial: float | None,
    store: str | None,
    retry: bool,
    status: bool,
    watch: bool,
    port: int | None,
    time_budget: float | None,
    print_config: bool,
    storage: str | None,
    study_name: str | None,
    grace_period: float | None,
    **asked: Any,
) -> None:
    """Train and compare several backbones and strategies.

    Trains every backbone with every strategy and several seeds, and tests which pairs are significantly worse than
    others. The winners are the pairs that are not; the cheapest of them is named.

    \b
    zoo study --data photos --backbone efficientnet_lite0 --backbone resnet18 --strategy linear --strategy partial:2
    zoo study --data photos --backbone resnet18 --strategy full --fraction 0.1 --fraction 1 --max-latency 20ms
    zoo study study.toml
    zoo study runs/first-study

    STUDY is a study file in TOML, which --print-config writes, or the folder of a stopped study, which is then
    continued. Options that are given beside a file win over it.

    Pairs are compared on the validation split or, with --folds, over all images that are not in the test split. The
    test split is used once, at the end, to score the winners, which with --folds are trained on all other images
    first. If the data have two splits only, the second is the test split, and 15 % of the training images are the
    validation split. The latency of networks is measured before they are trained.

    The options from --weights on are settings of every run, as in `zoo train`.
    """
    from zoo.progress import ProgressBar
    from zoo.studies.places import executor_on
    from zoo.studies.results import Results
    from zoo.studies.runner import study as carry_out
    from zoo_cli.main import plugins

    screen = console()
    if print_config:
        if study is not None and Path(study).is_dir():
            raise UsageError(f"`--print-config` prints a new study, and `{study}` is a folder", hint="leave it out")
        echo(_asked(ctx, study, time_budget, asked).to_toml(plugins(ctx)), nl=False)
        return
    if port is not None and not watch:
        raise UsageError("`--port` applies with `--watch` only", hint="such as `zoo study FOLDER --watch --port 8081`")
    if watch:
        if study is None or status:
            raise UsageError("`--watch` needs the folder of a study alone", hint="such as `zoo study FOLDER --watch`")
        _check_looks_on(ctx, "watch", "port")
        _watch(study, port or 0, screen)
        return
    searches: list[SearchProgress] = []
    if status:
        _check_looks_on(ctx, "status", "storage", "study_name", "as_json")
        searches = _searches(study, storage, study_name)
        if study is None:
            if not searches:
                named = "" if study_name is None else f" of a study `{study_name}`"
                raise ZooError(f"the storage holds no search{named}", hint="the first `zoo study --storage` makes one")
            for one in searches:
                screen.print(f"search {escape(one.name)}: {one}")
            if as_json:
                print_json({"searches": [dataclasses.asdict(one) for one in searches]})
            return
        results = Results.open(study)
        for one in searches:
            screen.print(f"[dim]search {escape(one.name)}: {one}[/dim]")
    else:
        folder = Path(study) if study is not None and Path(study).is_dir() else None
        given = _given(ctx, asked) if folder is not None else []
        if given:
            raise UsageError(
                f"`{_option(ctx, given[0])}` cannot change the study in `{folder}`, which is continued as it is",
                hint="leave it out, or start a new study with `--out`",
            )
        if place is None and (cpus_per_trial, gpus_per_trial, store) != (None, None, None):
            raise UsageError(
                "`--cpus-per-trial`, `--gpus-per-trial` and `--store` apply with `--on` only", hint="such as `--on ray`"
            )
        executor = None
        if place is not None:
            executor = executor_on(
                place,
                cpus=cpus_per_trial or 1,
                gpus=gpus_per_trial or 0.0,
                jobs=jobs,
                store=store,
                plugins=plugins(ctx),
            )
        results = carry_out(
            folder if folder is not None else _asked(ctx, study, time_budget, asked),
            out=_out(ctx, study, out),
            retry=retry,
            time_budget=time_budget,
            jobs=(jobs or 1) if executor is None else 1,
            executor=executor,
            storage=storage,
            study_name=study_name,
            grace_period=grace_period,
            plugins=plugins(ctx),
            progress=ProgressBar(screen),
        )
    board, why = board_of(results)
    print_study(results, board, why, screen)
    if as_json:
        whole = {"study": str(results.path), **results.record, "outcomes": [one.to_json() for one in results.outcomes]}
        if status:
            whole["searches"] = [dataclasses.asdict(one) for one in searches]
        print_json({**whole, "leaderboard": board})
    else:
        echo(str(results.path))
    if not status and results.outcomes and not any(one.finished for one in results.outcomes):
        raise ZooError(
            f"no trial of `{results.path}` is finished; the reasons are printed above",
            hint="relax a limit, or fix the failures and pass `--retry`",
        )


def _searches(study: str | None, storage: str | None, study_name: str | None) -> list[SearchProgress]:
    """How far searches are: those of a study's folder that go on, or of a storage.

    Raises:
        UsageError: neither is given.
    """
    from zoo.studies.results import Results
    from zoo.studies.search_session import read_tuned, session_storage
    from zoo.studies.search_status import searches_of_folder, searches_of_storage

    if study is None:
        storage = session_storage(storage)
        if storage is None:
            raise UsageError(
                "`--status` needs the folder of a study, or `--storage`", hint="such as `zoo study FOLDER --status`"
            )
        return searches_of_storage(storage, study_name)
    results = Results.open(study)
    if storage is not None:
        return searches_of_storage(storage, study_name or results.record.get("study_name") or results.path.name)
    return searches_of_folder(results.path, read_tuned(results.path))


def _watch(study: str, port: int, screen: Console) -> None:
    from zoo.reports.live import serve_live
    from zoo.studies.results import Results

    results = Results.open(study)

    def ready(address: str) -> None:
        screen.print(f"[dim]the study in {escape(str(results.path))} is shown until Ctrl-C:[/dim]")
        echo(address)

    serve_live(results.path, port, ready)


def _given(ctx: click.Context, names: Any) -> list[str]:
    source = click.core.ParameterSource.COMMANDLINE
    return [name for name in names if ctx.get_parameter_source(name) is source]


def _check_looks_on(ctx: click.Context, option: str, *allowed: str) -> None:
    """Refuse options that have no meaning where a study is only looked at.

    Raises:
        UsageError: another option was given than the allowed ones.
    """
    known = {"study", option, *allowed}
    given = [name for name in _given(ctx, ctx.params) if name not in known]
    if given:
        raise UsageError(
            f"`{_option(ctx, given[0])}` has no meaning with `--{option}`, which only shows a study",
            hint="leave it out",
        )


def _option(ctx: click.Context, name: str) -> str:
    """The option as it is typed, such as `--max-size`."""
    return next(option.opts[0] for option in ctx.command.params if option.name == name)


def _out(ctx: click.Context, study: str | None, out: str | None) -> str | None:
    if study is not None and Path(study).is_dir() and out is not None:
        raise UsageError(
            "`--out` applies to a new study only", hint=f"leave it out: the study continues in its folder `{study}`"
        )
    return out


def _asked(ctx: click.Context, file: str | None, time_budget: float | None, asked: dict[str, Any]) -> Any:
    """The study described by a file and by options, which win over it."""
    from zoo.studies.study import Study
    from zoo_cli.main import plugins

    given = _given(ctx, asked)
    own = {entry.name for entry in dataclasses.fields(Study)}
    settings = {name: asked[name] for name in given if name not in own}
    if file is not None:
        if not Path(file).is_file():
            raise UsageError(f"there is no study `{file}`", hint="pass a study file, or the folder of a study")
        described = Study.from_file(Path(file), plugins(ctx))
        theirs = {name: asked[name] for name in given if name in own}
        theirs |= {} if time_budget is None else {"time_budget": time_budget}
        return dataclasses.replace(described, **theirs, settings={**described.settings, **settings})
    if asked["data"] is None:
        raise UsageError("missing option `--data`", hint="see `zoo study --help`")
    kept = {name: value for name, value in asked.items() if name in own and value not in (None, ())}
    return Study(**kept, settings=settings, time_budget=time_budget)
