"""`zoo train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from zoo.data.prefetch import Prefetch, start_prefetch
from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo_cli.options import classes_from_option, console, echo, json_option, print_json, splits_option
from zoo_cli.settings import settings_options

# Options that may be given with `--resume`; all others are fixed by the run
RESUMABLE = ("resume", "device", "force", "as_json", "save_every")


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _check_options(ctx: click.Context, resume: str | None, settings: dict[str, Any]) -> None:
    if resume is None:
        missing = [name for name in ("data", "backbone", "strategy") if settings[name] is None]
        if missing:
            raise UsageError(
                f"missing option {' '.join(f'`--{name}`' for name in missing)}",
                hint="see `zoo train --help`; to continue a stopped run, use `zoo train --resume RUN`",
            )
        return
    fixed = [f"`--{name.replace('_', '-')}`" for name in ctx.params if name not in RESUMABLE and _given(ctx, name)]
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


@click.command()
@settings_options
@click.option(
    "--resume",
    metavar="RUN",
    help="Continue a stopped run in this folder, with the settings it was started with.",
)
@click.option("--out", metavar="DIR", help="Folder to write the run to.  [default: runs/<time>-<backbone>-<strategy>]")
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite the run in --out; with --resume: accept other versions of libraries or another device.",
)
@json_option
@splits_option
@classes_from_option
@click.pass_context
def train(
    ctx: click.Context, /, out: str | None, resume: str | None, force: bool, as_json: bool, **settings: Any
) -> None:
    """Fine-tune a backbone on your images.

    Trains the layers that --strategy names, scores the result, and writes weights, metrics and predictions to a
    folder, the run. `zoo plan` with the same options shows beforehand what would be trained.

    \b
    zoo train --data photos --backbone efficientnet_lite0 --strategy linear
    zoo train --data photos --backbone resnet50 --strategy linear,epochs=2+full,lr=0.1 --augment trivial
    zoo train --resume runs/first

    DATA is a folder with `train/CLASS/*.jpg`, `val/CLASS/*.jpg` and perhaps `test/CLASS/*.jpg`. A folder with
    `CLASS/*.jpg` alone is split at random, 70/15/15 per cent into train, val and test.
    """
    _check_options(ctx, resume, settings)
    experiment = Experiment(**settings) if resume is None else None
    ahead = start_prefetch(experiment) if experiment is not None else None
    try:
        _train(ctx, experiment, ahead, out, resume, force, as_json, settings)
    finally:
        if ahead is not None:
            ahead.stop()


def _train(
    ctx: click.Context,
    experiment: Experiment | None,
    ahead: Prefetch | None,
    out: str | None,
    resume: str | None,
    force: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    from zoo.progress import ProgressBar
    from zoo.training.session import resume as resume_training
    from zoo.training.session import train as run_training
    from zoo_cli.figures import print_run
    from zoo_cli.main import plugins

    # A scheduler sends SIGTERM before it kills. Handled like Ctrl-C, the run is saved as `interrupted`
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = console()
    if experiment is not None:
        run = run_training(
            experiment, out=out, force=force, plugins=plugins(ctx), progress=ProgressBar(screen), ahead=ahead
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
        )
    print_run(run, screen)
    if as_json:
        print_json({"run": str(run.path), **run.record})
    else:
        echo(str(run.path))
