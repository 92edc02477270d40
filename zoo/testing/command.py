"""The laws of commands."""

from __future__ import annotations

import re

import click

from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.system.fresh_import import frameworks_after
from zoo.target import load_target
from zoo.testing.law import Violation, require


def check_command(command: str, *, plugins: Plugins | None = None) -> None:
    """Check a command.

    `zoo NAME` reaches it. Its target is a `click.Command` with a help text, and each of its options has one. Importing
    it, which `zoo NAME --help` does, imports none of torch, torchvision, timm and onnxruntime.

    Args:
        command: Its name.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: there is no such command.
    """
    plugins = plugins or Plugins()
    entry = plugins.commands.find(command)
    row, first = entry.value, plugins.commands.shadowed(entry)
    require(
        first is None,
        f"`zoo {row.name}` runs `{first.qualified if first else ''}`, not `{entry.qualified}`",
        hint="choose another name; no plugin replaces a command that is there",
    )
    require(
        re.fullmatch(r"[a-z][a-z0-9-]*", row.name) is not None,
        f"`{row.name}` is no name of a command",
        hint="write small letters, digits and hyphens, such as `label-next`",
    )
    try:
        found = load_target(row.target)
    except SystemExit as error:
        raise Violation(f"`{row.target}` ends the program when it is imported") from error
    require(
        isinstance(found, click.Command),
        f"`{row.target}` is a `{type(found).__name__}`, not a `click.Command`",
        hint="decorate the function with `@click.command()`",
    )
    assert isinstance(found, click.Command)
    _check_help(row.name, found)
    try:
        frameworks = frameworks_after(row.target)
    except ZooError as error:
        raise Violation(f"`{row.target}` cannot be imported in a process of its own: {error.message}") from error
    require(
        frameworks == [],
        f"`zoo {row.name} --help` imports {' and '.join(frameworks)}",
        hint="import it in the function that needs it, not at the top of the module",
    )


def _check_help(name: str, command: click.Command) -> None:
    """Check the help of a command, and of the commands of a group."""
    context = click.Context(command, info_name=f"zoo {name}")
    require(
        bool((command.help or "").strip()),
        f"`zoo {name}` has no help",
        hint="write a docstring under the command's function",
    )
    command.get_help(context)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            require(
                bool((parameter.help or "").strip()),
                f"`zoo {name}`: the option `{parameter.opts[-1]}` has no help",
                hint="pass `help=` to `click.option`",
            )
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            _check_help(f"{name} {word}", inner)
