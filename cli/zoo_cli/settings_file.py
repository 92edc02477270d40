"""Settings files on the command line: `zoo train run.toml`, `--print-config`, and values given as `--set KEY=VALUE`.

Keys, types and comments are those of the options of `zoo train`, so that each is written once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import zoo
from zoo.config.arguments import as_list
from zoo.data.data_argument import check_no_secret
from zoo.errors import UsageError, at_once, did_you_mean
from zoo.experiment import Experiment, option_of
from zoo.preprocess import pixels_text

if TYPE_CHECKING:
    from zoo.plugin import Plugins

F = TypeVar("F", bound=Callable[..., Any])

# Parameters of `zoo train` that ask for something once and are no settings
NO_SETTINGS = ("settings_file", "resume", "final", "force", "as_json", "print_config", "help")

# Words in the metavar of an option whose value is or holds a path; relative ones begin at the folder of the file
PATHS = re.compile(r"\b(DATA|CSV|DIR|FILE|RUN|SPEC|STUDY)\b")

LONGEST = 60  # characters of a wrong value in a message

file_argument: Callable[[F], F] = click.argument(
    "settings_file",
    metavar="[SETTINGS]",
    required=False,
    is_eager=True,
    expose_value=True,
    callback=lambda ctx, parameter, file: _use_file(ctx, file),
)

print_config_option: Callable[[F], F] = click.option(
    "--print-config",
    is_flag=True,
    help="Print the settings of this run as a file in TOML, with a comment for each, and exit: `zoo train FILE` then "
    "trains the same.",
)


def options() -> dict[str, click.Option]:
    """What may stand in a settings file: the options of `zoo train` by their keys, in the order of its help."""
    from zoo_cli.train import train

    return {str(one.name): one for one in train.params if isinstance(one, click.Option) and one.name not in NO_SETTINGS}


def _use_file(ctx: click.Context, file: str | None) -> str | None:
    """Make the values of a settings file the defaults of the options that are not given."""
    if file is None or ctx.resilient_parsing:
        return file
    from zoo.runs.settings_file import read_settings
    from zoo_cli.main import plugins

    ctx.default_map = dict(checked(ctx, read_settings(file), file, plugins(ctx)))
    return file


def checked(ctx: click.Context, found: Mapping[str, Any], file: str, plugins: Plugins) -> dict[str, Any]:
    """The values of a settings file, of the right types, with absolute paths.

    Raises:
        UsageError: a key is unknown, or a value has a wrong type or is not known; all are reported together.
    """
    from zoo.runs.settings_file import beside
    from zoo.storage.paths import user_path

    known, problems, values = options(), [], {}
    folder = user_path(file).absolute().parent
    for key, value in found.items():
        try:
            if key not in known:
                raise _unknown(key, known, file, value)
            _check_type(known[key], key, value, file)
            values[key] = value
            if PATHS.search(known[key].metavar or ""):
                paths = [beside(key, one, folder, plugins) if one else one for one in as_list(value)]
                values[key] = paths if isinstance(value, list) else paths[0]
            converted(ctx, known[key], values[key], f"`{file}`: `{key}`")
        except UsageError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else at_once(problems)
    return values


def _unknown(key: str, known: Iterable[str], file: str, value: Any) -> UsageError:
    if key in NO_SETTINGS or key == "json":
        return UsageError(
            f"`{file}`: `{key}` is no setting of a run and cannot stand in the file",
            hint=f"leave it out, and pass `--{key.replace('_', '-')}` on the command line",
        )
    if isinstance(value, dict):
        return UsageError(
            f"`{file}`: `[{key}]` is a table, and settings stand in none",
            hint="write the settings as `key = value` without a table; a study file is for `zoo study`",
        )
    return UsageError(
        f"`{file}`: unknown setting `{key}`",
        hint=did_you_mean(key.replace("-", "_"), known, "`zoo train --print-config` prints all settings"),
    )


def _check_type(option: click.Option, key: str, value: Any, file: str) -> None:
    """Check the type of a value in a file: click itself would read `2.5` as 2, and `"yes"` as true.

    Raises:
        UsageError: it is another.
    """
    kind = option.type
    if option.multiple:
        right = isinstance(value, list) and all(_fits(kind, one) for one in value)
        what = f"a list, each of it {_called(kind)}"
    elif isinstance(kind, click.Tuple):
        count = len(kind.types)
        right = isinstance(value, list) and len(value) == count and all(map(_fits, kind.types, value))
        what = f"a list of {count} {'whole numbers' if kind.types[0] is click.INT else 'numbers'}"
    else:
        right = type(value) is bool if option.is_flag else _fits(kind, value)
        what = "true or false" if option.is_flag else _called(kind)
    if not right:
        raise UsageError(f"`{file}`: `{key}` is {_shown(value)}, not {what}", hint=_example(option, key, value, file))


def _fits(kind: click.ParamType[Any], value: Any) -> bool:
    if hasattr(kind, "accepts"):
        return bool(kind.accepts(value))
    if isinstance(kind, type(click.INT)):
        return type(value) is int
    if isinstance(kind, type(click.FLOAT)):
        return type(value) in (int, float)
    return isinstance(value, str)


def _called(kind: click.ParamType[Any]) -> str:
    if hasattr(kind, "in_file"):
        return str(kind.in_file)
    if isinstance(kind, type(click.INT)):
        return "a whole number"
    return "a number" if isinstance(kind, type(click.FLOAT)) else "a text in quotes"


def _shown(value: Any) -> str:
    """A value as the file has it, shortened."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return f"`{text if len(text) <= LONGEST else text[:LONGEST] + '...'}`"


def _example(option: click.Option, key: str, value: Any, file: str) -> str:
    if isinstance(value, str) and not option.is_flag and _fits(option.type, _number(value)):
        return f"write `{key} = {value}`, without quotes"
    return f"correct it in `{file}`; `zoo train --print-config` prints all settings"


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def converted(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    """The value of an option as its command gets it.

    Raises:
        UsageError: the option does not take the value; the message begins with `where`.
    """
    from zoo_cli.main import message_of

    try:
        return option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        text = message_of(click.ClickException(error.message))
        raise UsageError(f"{where}: {text}", hint="see `zoo train --help`") from error


def with_name_of_file(ctx: click.Context, error: UsageError) -> UsageError:
    """The error of a setting, beginning with the settings file if the setting is from there."""
    file = ctx.params.get("settings_file")
    theirs = ctx.default_map or {}
    named = {f"`{option_of(name)}" for name in theirs if not _on_the_command_line(ctx, name)}
    if file is None or not any(re.search(re.escape(name) + r"\b", error.message) for name in named):
        return error
    return UsageError(f"`{file}`: {error.message}", hint=error.hint)


def _on_the_command_line(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def experiment_of(ctx: click.Context, settings: Mapping[str, Any]) -> Experiment:
    """The experiment that the options and the settings file ask for.

    Raises:
        UsageError: a value is not valid; the message names the option, and the file if it is from there.
    """
    for name, value in settings.items():
        check_no_secret(str(value), f"`{option_of(name)}`")
    try:
        return Experiment(**settings)
    except UsageError as error:
        raise with_name_of_file(ctx, error) from error


def config_text(ctx: click.Context, settings: Mapping[str, Any], plugins: Plugins, **others: Any) -> str:
    """The settings of a run as a file in TOML that gives the same run from any folder.

    Args:
        ctx: The context of the command.
        settings: The settings; `data`, `backbone` and `strategy` may be missing.
        plugins: Loaded plugins.
        others: Other options of `zoo train`, such as `out`.

    Raises:
        UsageError: a value is not valid, or holds a password.
    """
    from zoo.runs.settings_file import Line, beside, settings_text

    needed = ("data", "backbone", "strategy")
    missing = [name for name in needed if settings.get(name) is None]
    asked = experiment_of(ctx, {**settings, **dict.fromkeys(missing, "none")}).to_json()
    values = {**asked, **others, **dict.fromkeys(missing)}
    lines = []
    for key, option in options().items():
        value = values.get(key)
        if value and PATHS.search(option.metavar or ""):
            paths = [beside(key, one, Path(), plugins) for one in as_list(value)]
            value = paths[0] if isinstance(value, str) else paths
        elif key == "image_size" and isinstance(value, tuple):
            value = pixels_text(value)
        lines.append(Line(key=key, value=value, text=_meaning(option)))
    title = (
        f"Settings of one run of zoo {zoo.__version__}: `zoo train FILE` trains it. Options on the command line win "
        "over the file. Relative paths begin at the folder of this file. A key behind `#` is not set: its default holds"
    )
    return settings_text(lines, title)


def _meaning(option: click.Option) -> str:
    """What an option means, with the words that it knows and its default."""
    text, bracket, default = " ".join((option.help or "").split()).partition(" [default: ")
    if isinstance(option.type, click.Choice):
        text += f" Known are {' '.join(option.type.choices)}."
    if bracket:
        return f"{text} [default: {default}"
    if option.is_flag:
        return f"{text} [default: false]"
    return f"{text} [default: {option.default}]" if option.show_default else text
