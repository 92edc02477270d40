"""`zoo train`."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from zoo.data.prefetch import Prefetch, start_prefetch
from zoo.errors import UsageError
from zoo.experiment import Experiment, option_of
from zoo.system.ranks import ALONE, Ranks, launched, leads, share_processors
from zoo_cli.options import (
    THREADS,
    classes_from_option,
    console,
    echo,
    json_option,
    print_json,
    splits_option,
    threads_option,
)
from zoo_cli.settings import settings_options, with_parent
from zoo_cli.settings_file import config_text, experiment_of, file_argument, print_config_option

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.runs.run import Run

# Options that may be given with `--resume`; all others are fixed by the run
RESUMABLE = ("resume", "device", "force", "as_json", "save_every", "exact")


# Options that may be given with `--final`
WITH_FINAL = ("final", "out", "device", "force", "as_json", "exact")


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _check_resumed(ctx: click.Context, resume: str, settings: dict[str, Any]) -> None:
    names = [*ctx.params, "threads"]  # sums are rounded differently with other threads
    fixed = [f"`{option_of(name)}`" for name in names if name not in RESUMABLE and _given(ctx, name)]
    if fixed:
        from zoo.runs.run import Run

        Run.open(resume)
        them = "it" if len(fixed) == 1 else "them"
        instead = "to change the settings, start a new run without `--resume`"
        if _given(ctx, "epochs"):
            instead = (
                f"to train longer, start a new run without `--resume`, with `--epochs {settings['epochs']}`, another "
                f"`--out` and the settings in `{Path(resume) / 'run.json'}`"
            )
        raise UsageError(
            f"{', '.join(fixed)} cannot be changed with `--resume`: run `{resume}` keeps the settings that it was "
            "started with",
            hint=f"{instead}; to continue `{resume}` as it was started, leave {them} out",
        )


def _check_new(resume: str | None, final: str | None, given: str) -> None:
    """Check that a new run is asked for, where settings are read from a file or printed as one.

    Raises:
        UsageError: `--resume` or `--final` is given.
    """
    for option, run in (("--resume", resume), ("--final", final)):
        if run is not None:
            raise UsageError(
                f"`{given}` cannot be given with `{option}`, which takes the settings of run `{run}`",
                hint=f"leave it out; `zoo rerun {run} --print-config` prints the settings of the run, and `--set` "
                "changes some of them in a new one",
            )


def _experiment(ctx: click.Context, settings: dict[str, Any]) -> Experiment:
    """The experiment; with what comes from the run of `--from`, which the process that decodes ahead needs, too."""
    experiment = experiment_of(ctx, with_parent(settings, "train", ("data", "backbone", "strategy")))
    if experiment.from_run is None:
        return experiment
    from zoo.runs.parent import inherited

    return inherited(experiment)


def _check_final(ctx: click.Context, final: str) -> None:
    """Check that nothing is given with `--final` that the run has settled.

    Raises:
        UsageError: something is.
    """
    fixed = [f"`{option_of(name)}`" for name in ctx.params if name not in WITH_FINAL and _given(ctx, name)]
    if fixed:
        raise UsageError(
            f"{', '.join(fixed)} cannot be given with `--final`: it trains with the settings of run `{final}`",
            hint="leave it out, or train another run first",
        )


def _run_of(final: str, screen: Console) -> Run | str:
    """The run that `--final` means: of a study, the cheapest winner's."""
    from zoo.runs.looks import STUDY_FILE

    if not (Path(final) / STUDY_FILE).is_file():
        return final
    from zoo.studies.results import Results

    chosen = Results.open(final).chosen
    name = f"{chosen.record['backbone']} {chosen.record['strategy']}"
    screen.print(escape(f"the cheapest winner of `{final}` is {name}: run `{chosen.path}`"))
    return chosen


@click.command()
@file_argument
@settings_options
@click.option(
    "--resume",
    metavar="RUN",
    help="Continue a stopped run in this folder, with the settings it was started with.",
)
@click.option(
    "--final",
    metavar="RUN|STUDY",
    help="Train the configuration of this finished run, or the cheapest winner of this study, once more, on all images "
    "that are not in the test split; epochs and figures are those of the run.",
)
@click.option("--out", metavar="DIR", help="Folder to write the run to.  [default: runs/<time>-<backbone>-<strategy>]")
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite the run in --out; with --resume: accept other versions of libraries or another device.",
)
@click.option(
    "--exact/--fast",
    default=True,
    help="Where torchrun starts several processes: add up their gradients in a fixed order, so that the weights are "
    "those of one process; or in whatever order is fastest.  [default: exact]",
)
@print_config_option
@json_option
@splits_option
@threads_option
@classes_from_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    out: str | None,
    resume: str | None,
    final: str | None,
    force: bool,
    exact: bool,
    as_json: bool,
    print_config: bool,
    settings_file: str | None,
    **settings: Any,
) -> None:
    """Fine-tune a backbone on your images.

    Trains the layers that --strategy names, scores the result, and writes weights, metrics and predictions to a
    folder, the run. `zoo plan` with the same options shows beforehand what would be trained.

    \b
    zoo train --data photos --backbone efficientnet_lite0 --strategy linear
    zoo train --data photos --backbone resnet50 --strategy linear,epochs=2+full,lr=0.1 --augment trivial
    zoo train --data photos --backbone efficientnet_lite0 --strategy linear --folds 5 --out runs/folds
    zoo train --data more-photos --from runs/first --strategy partial:1
    zoo train --final runs/folds --out runs/final
    zoo train --final runs/first-study
    zoo train --resume runs/first
    zoo train run.toml --lr 0.01

    SETTINGS is a file in TOML with any of these options, such as `batch_size = 64`; --print-config writes one. Options
    that are given too win over it.

    DATA is a folder with `train/CLASS/*.jpg`, `val/CLASS/*.jpg` and perhaps `test/CLASS/*.jpg`. A folder with
    `CLASS/*.jpg` alone is split at random, 70/15/15 per cent into train, val and test.
    """
    if print_config or settings_file is not None:
        _check_new(resume, final, "--print-config" if settings_file is None else settings_file)
    if print_config:
        from zoo_cli.main import plugins

        threads = ctx.meta.get(THREADS)
        echo(config_text(ctx, settings, plugins(ctx), out=out, threads=threads, exact=exact), nl=False)
        return
    if final is not None:
        _check_final(ctx, final)
    elif resume is not None:
        _check_resumed(ctx, resume, settings)
    if _given(ctx, "exact") and not launched():
        raise UsageError(
            f"`{'--exact' if exact else '--fast'}` is about several processes, and this is one",
            hint="leave it out, or start them: `torchrun --nproc-per-node 2 -m zoo_cli.main train ...`",
        )
    experiment = _experiment(ctx, settings) if resume is None and final is None else None
    first = leads() and experiment is not None and experiment.folds is None
    ahead = start_prefetch(experiment) if experiment is not None and first else None
    try:
        if launched():
            _train_as_rank(ctx, experiment, ahead, out, resume, force, as_json, settings, final, exact)
        else:
            _train(ctx, experiment, ahead, out, resume, force, as_json, settings, final, ALONE)
    finally:
        if ahead is not None:
            ahead.stop()


def _train_as_rank(
    ctx: click.Context,
    experiment: Experiment | None,
    ahead: Prefetch | None,
    out: str | None,
    resume: str | None,
    force: bool,
    as_json: bool,
    settings: dict[str, Any],
    final: str | None,
    exact: bool,
) -> None:
    """Train as one of the processes that torchrun has started: rank 0 as ever, and the others as it tells them."""
    if ctx.meta.get(THREADS) is None:
        share_processors()
    from zoo.config.context import Context
    from zoo.system.ranks import join
    from zoo.training.cooperation import follow
    from zoo_cli.main import plugins

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if leads() and resume is not None and not _given(ctx, "exact"):
        from zoo.runs.run import Run

        exact = (Run.open(resume).record.get("ranks") or {}).get("exact", True)
    ranks = join(settings["device"] or "auto", exact=exact)
    if ranks.leads:
        _train(ctx, experiment, ahead, out, resume, force, as_json, settings, final, ranks)
    else:
        follow(replace(Context.of(plugins(ctx)), ranks=ranks))
    ranks.leave()


def _train(
    ctx: click.Context,
    experiment: Experiment | None,
    ahead: Prefetch | None,
    out: str | None,
    resume: str | None,
    force: bool,
    as_json: bool,
    settings: dict[str, Any],
    final: str | None,
    ranks: Ranks,
) -> None:
    from zoo.progress import ProgressBar
    from zoo.training.entry import resume as resume_training
    from zoo.training.entry import train as run_training
    from zoo.training.entry import train_final
    from zoo_cli.figures import print_run
    from zoo_cli.main import plugins

    # A scheduler sends SIGTERM before it kills. Handled like Ctrl-C, the run is saved as `interrupted`
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = console()
    if final is not None:
        run = train_final(
            _run_of(final, screen),
            out=out,
            force=force,
            device=settings["device"] if _given(ctx, "device") else None,
            plugins=plugins(ctx),
            progress=ProgressBar(screen),
            ranks=ranks,
        )
    elif experiment is not None:
        run = run_training(
            experiment,
            out=out,
            force=force,
            plugins=plugins(ctx),
            progress=ProgressBar(screen),
            ahead=ahead,
            ranks=ranks,
        )
    else:
        assert resume is not None
        run = resume_training(
            resume,
            device=settings["device"] if _given(ctx, "device") else None,
            save_every=settings["save_every"],
            force=force,
            plugins=plugins(ctx),
            progress=ProgressBar(screen),
            ranks=ranks,
        )
    print_run(run, screen)
    if as_json:
        print_json({"run": str(run.path), **run.record})
    else:
        echo(str(run.path))
