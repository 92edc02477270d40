"""`zoo plugins`, and its subcommands `check` and `new`."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from zoo.errors import UsageError, counted, did_you_mean
from zoo_cli.options import console, json_option, print_json


class PluginsGroup(click.Group):
    """A group whose unknown subcommand is one line with a hint."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            hint = did_you_mean(args[0], self.commands, f"`zoo plugins check {args[0]}` checks a plugin")
            raise UsageError(f"unknown command `plugins {args[0]}`", hint=hint)
        return super().resolve_command(ctx, args)


@click.group(cls=PluginsGroup, invoke_without_command=True)
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """Show installed plugins, what they provide and their errors; check one, or begin one.

    Two environment variables help with a broken plugin. ZOO_DISABLE_PLUGINS=a,b does not load the plugins a and b.
    ZOO_STRICT_PLUGINS=1 turns the warning about a broken plugin into an error with its traceback.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            word = ctx.invoked_subcommand
            raise UsageError(f"`--json` stands before `{word}`", hint=f"write `zoo plugins {word} ... --json`")
        return
    from zoo_cli.main import plugins as load

    loaded = load(ctx)
    loaded.load_everything()
    if as_json:
        print_json(
            [
                {
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "status": plugin.status,
                    "provides": plugin.provides,
                    "failures": plugin.failures,
                    "notes": plugin.notes,
                }
                for plugin in loaded.plugins
            ]
        )
        return
    table = Table("plugin", "distribution", "version", "status", "provides", "errors and notes")
    for plugin in loaded.plugins:
        provides = [_summary(plural, names) for plural, names in plugin.provides.items() if names]
        wrong = [f"{where}: {reason}" for where, reason in plugin.failures.items()] + plugin.notes
        colour = {"ok": "green", "disabled": "dim"}.get(plugin.status, "red")
        table.add_row(
            plugin.name,
            plugin.distribution,
            plugin.version,
            f"[{colour}]{plugin.status}[/{colour}]",
            escape("; ".join(provides)) or "-",
            escape("\n".join(wrong)),
        )
    console().print(table)


def _summary(plural: str, names: list[str]) -> str:
    return f"{len(names)} {plural}" if len(names) > 6 else f"{plural}: {' '.join(names)}"


@plugins.command()
@click.argument("plugin", metavar="NAME|FOLDER")
@click.option(
    "--only",
    multiple=True,
    metavar="KIND[/NAME]",
    help="Check only this kind, or what a shell pattern names, such as `metric/a*`; can be repeated.  [default: "
    "everything]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME:ARGUMENT",
    help="Data that a dataset of the plugin is checked on; can be repeated.  [default: no argument]",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME[:VALUE]...",
    help="Text of a strategy of the plugin, for one that needs a value; can be repeated.  [default: its defaults]",
)
@click.option(
    "--backbone",
    default="timm/test_efficientnet",
    show_default=True,
    help="The network that strategies are checked on, with images of 32 pixels.",
)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    plugin: str,
    only: tuple[str, ...],
    data: tuple[str, ...],
    strategies: tuple[str, ...],
    backbone: str,
    as_json: bool,
) -> None:
    """Check an installed plugin, or a package in a folder: the laws of everything that it registers.

    The laws are those of zoo.testing, on small networks and noise. Each row of the plugin is one line: that it passed,
    or the law that it violates and how to mend it. The exit code is 1 if a law is violated. What cannot be checked
    here, such as a runtime of a device that is missing, is told and does not count.
    """
    from zoo.plugin import Plugins, installed_candidates
    from zoo.testing.plugin import RowCheck, check_plugin
    from zoo.testing.plugin_folder import beside, candidates_in, start_failure
    from zoo_cli.main import plugins as load

    names, loaded = [plugin], load(ctx)
    failed: list[RowCheck] = []
    known = {word for one in loaded.plugins for word in (one.name, one.distribution)}
    if plugin not in known and ("/" in plugin or Path(plugin).is_dir()):
        mine = candidates_in(Path(plugin))
        rest = beside(mine, installed_candidates())
        failed = [failure for failure in map(start_failure, mine) if failure is not None]
        dead = {failure.name for failure in failed}
        names = [candidate.name for candidate in mine if candidate.name not in dead]
        loaded = Plugins([*rest, *(candidate for candidate in mine if candidate.name not in dead)])
    screen = console()
    results = []
    checks = (
        check_plugin(name, plugins=loaded, data=data, strategies=strategies, backbone=backbone, only=only)
        for name in names
    )
    for result in itertools.chain(failed, itertools.chain.from_iterable(checks)):
        results.append(result)
        if not as_json:
            colour = {"passed": "green", "violated": "red"}.get(result.status, "yellow")
            reason = f": {result.reason}" if result.reason else ""
            screen.print(
                f"[{colour}]{result.status:11}[/{colour}] {escape(f'{result.kind} {result.name}{reason}')}",
                soft_wrap=True,
            )
            if result.hint:
                screen.print(f"            [cyan]hint[/cyan]: {escape(result.hint)}", soft_wrap=True)
    violated = [result for result in results if result.status == "violated"]
    if as_json:
        print_json({"passed": not violated, "rows": [result.to_json() for result in results]})
    else:
        others = len([result for result in results if result.status == "not checked"])
        more = f", {counted(others, 'row')} not checked" if others else ""
        screen.print(f"{counted(len(results), 'row')}, {counted(len(violated), 'law')} violated{more}")
    if violated:
        ctx.exit(1)


@plugins.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    default=("strategy",),
    show_default=True,
    metavar="KIND",
    help="What it registers: backbone, strategy, dataset, augmentation, loss, optimizer, schedule, callback, metric, "
    "exporter, runtime or command; can be repeated, and `all` is each of them.",
)
@click.option("--out", metavar="DIR", default=None, help="The folder to be made.  [default: backbone-zoo-NAME]")
@json_option
@click.pass_context
def new(ctx: click.Context, name: str, kinds: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Write a plugin package with a working example of each kind, and with tests.

    \b
    zoo plugins new acme --kind strategy --kind metric
    pip install -e './backbone-zoo-acme[dev]'
    zoo plugins check acme
    """
    from zoo.scaffolding.package import new_plugin
    from zoo_cli.main import plugins as load

    made = new_plugin(name, kinds, out, plugins=load(ctx))
    if as_json:
        print_json({"name": made.name, "folder": str(made.folder), "files": made.files, "commands": made.uses})
        return
    screen = console()
    screen.print(escape(f"wrote {made.folder}: {' '.join(made.files)}"), soft_wrap=True)
    path = str(made.folder) if made.folder.is_absolute() else f"./{made.folder}"
    folder = shlex.quote(path)
    install = f"pip install -e {shlex.quote(f'{path}[dev]')}"
    for line in (install, f"zoo plugins check {name}", f"python -m pytest {folder}", *made.uses):
        screen.print(f"  {escape(line)}", soft_wrap=True)
