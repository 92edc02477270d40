"""`zoo rerun`."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UsageError, did_you_mean
from zoo.experiment import Experiment, option_of
from zoo_cli.options import THREADS, console, echo, json_option, print_json, threads_option
from zoo_cli.settings_file import config_text, converted, options, print_config_option

if TYPE_CHECKING:
    from zoo.runs.run import Run


class _Rerun(click.Command):
    """The command, which says how a setting is changed where one is given as an option of `zoo train`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            option = next((one for one in options().values() if error.option_name in one.opts), None)
            if option is None or option.name not in Experiment.__dataclass_fields__:
                raise
            raise UsageError(
                f"`zoo rerun` has no option `{error.option_name}`",
                hint=f"settings are changed by `--set {option.name}={_given_value(given, option)}`",
            ) from error


def _given_value(words: Sequence[str], option: click.Option) -> str:
    """The value behind an option of `zoo train` among the words of a command; `VALUE` where there is none."""
    if option.is_flag:
        return "true"
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in option.opts:
            found = [value] if equals else words[number + 1 : number + 1 + option.nargs]
            return " ".join(found) if found and not found[0].startswith("-") else "VALUE"
    return "VALUE"


@click.command(cls=_Rerun)
@click.argument("run", metavar="RUN")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting that differs in the new run, such as `lr=0.01`; nothing behind `=` means its default. May be given "
    "several times.",
)
@click.option("--out", metavar="DIR", help="Folder to write the run to.  [default: runs/<time>-<backbone>-<strategy>]")
@click.option("--force", is_flag=True, help="Overwrite the run in --out.")
@print_config_option
@json_option
@threads_option
@click.pass_context
def rerun(
    ctx: click.Context,
    /,
    run: str,
    given: tuple[str, ...],
    out: str | None,
    force: bool,
    print_config: bool,
    as_json: bool,
) -> None:
    """Train again with the settings of a run, or with some changed.

    The new run has a folder of its own. Says which settings differ, whether the run was made with other versions, and
    whether its images have changed since.

    \b
    zoo rerun runs/first
    zoo rerun runs/first --set lr=0.01 --set seed=1 --out runs/second
    zoo rerun runs/first --set augment=trivial --set epochs=
    zoo rerun runs/first --print-config > run.toml

    Settings are those of `zoo train`, which documents them. The run may be unfinished, or a trial of a study.
    """
    from zoo.runs.run import Run
    from zoo.training.rerun import rerun_experiment
    from zoo_cli.main import plugins

    opened = Run.open(run)
    changes = _changes(ctx, given)
    experiment = rerun_experiment(opened, changes)
    if print_config:
        threads, exact = ctx.meta.get(THREADS), (opened.record.get("ranks") or {}).get("exact", True)
        echo(config_text(ctx, experiment.to_json(), plugins(ctx), out=out, threads=threads, exact=exact), nl=False)
        return
    _rerun(ctx, opened, changes, out, force, as_json)


def _rerun(ctx: click.Context, run: Run, changes: dict[str, Any], out: str | None, force: bool, as_json: bool) -> None:
    from zoo.progress import ProgressBar
    from zoo.training.rerun import rerun as run_again
    from zoo_cli.figures import print_run
    from zoo_cli.main import plugins

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as in `zoo train`
    screen = console()
    made = run_again(run, changes=changes, out=out, force=force, plugins=plugins(ctx), progress=ProgressBar(screen))
    print_run(made, screen)
    if as_json:
        print_json({"run": str(made.path), **made.record})
    else:
        echo(str(made.path))


def _changes(ctx: click.Context, given: Sequence[str]) -> dict[str, Any]:
    """The settings of `--set` by name, with the values that `zoo train` would have.

    Raises:
        UsageError: one is not written KEY=VALUE, is unknown or given twice, or its value is wrong.
    """
    known, fields = options(), Experiment.__dataclass_fields__
    changes: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        name = key.strip().removeprefix("--").replace("-", "_")
        if not equals:
            raise UsageError(f"`--set {text}` is not written KEY=VALUE", hint=f"such as `--set {name or 'lr'}=...`")
        if name in changes and not (name in known and known[name].multiple):
            raise UsageError(f"`{name}` is given twice with `--set`")
        if name not in fields:
            raise _unknown(name, known)
        found = _value(ctx, known[name], name, value.strip())
        changes[name] = (*changes.get(name, ()), *found) if known[name].multiple else found
    return changes


def _unknown(name: str, known: dict[str, click.Option]) -> UsageError:
    if name in ("out", "threads"):
        return UsageError(f"`{name}` is no setting that a run keeps", hint=f"pass `--{name}`")
    if name in known:
        return UsageError(
            f"`--set {name}=...` cannot change how the data of a run are divided",
            hint=f"print the settings with `--print-config`, and pass the file to `zoo train` with `--data` and "
            f"`{option_of(name)}`",
        )
    near = did_you_mean(name, Experiment.__dataclass_fields__, "see `zoo train --help`")
    return UsageError(f"unknown setting `{name}`", hint=near)


def _value(ctx: click.Context, option: click.Option, name: str, text: str) -> Any:
    """The value of a setting, from its text; an empty one is the default."""
    if not text:
        default = Experiment.__dataclass_fields__[name].default
        if not isinstance(default, (str, int, float, tuple, type(None))):
            raise UsageError(f"`--set {name}=` has no value, and `{name}` has no default")
        return default
    if isinstance(option.type, click.Tuple):
        words = re.split(r"[\s,]+", text)
        if len(words) != len(option.type.types):
            raise UsageError(f"`--set {name}={text}` is not {len(option.type.types)} numbers")
        return converted(ctx, option, tuple(words), f"`--set {name}`")
    return converted(ctx, option, [text] if option.multiple else text, f"`--set {name}`")
