"""`zoo list`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.options import console, json_option, print_json
from zoo_cli.plain_table import plain_table

if TYPE_CHECKING:
    from zoo.catalogue import Entry
    from zoo.plugin import Plugins

KINDS = (
    "backbones",
    "strategies",
    "datasets",
    "augmentations",
    "losses",
    "optimizers",
    "schedules",
    "callbacks",
    "metrics",
    "exporters",
    "runtimes",
)

# Kinds whose rows have `zoo.Option`s
WITH_OPTIONS = ("augmentations", "losses", "optimizers", "schedules", "callbacks")


@click.command(name="list")
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("pattern", required=False)
@click.option(
    "--stages",
    is_flag=True,
    help="Show the stages of each backbone and their number of parameters; with KIND backbones only.",
)
@click.option(
    "--options",
    is_flag=True,
    help="Show the options, with types, defaults and help; with KIND strategies, augmentations, losses, optimizers, "
    "schedules or callbacks.",
)
@json_option
@click.pass_context
def list_(ctx: click.Context, kind: str, pattern: str | None, stages: bool, options: bool, as_json: bool) -> None:
    """List backbones, strategies, datasets and everything else that plugins provide.

    KIND is backbones, strategies, datasets, augmentations, losses, optimizers, schedules, callbacks, metrics, exporters
    or runtimes. PATTERN is a shell pattern such as 'inception*'; only names that match are listed.

    \b
    zoo list strategies --options
    zoo list backbones 'inception*'
    zoo list backbones resnet18 --stages
    """
    from zoo.errors import UsageError, did_you_mean
    from zoo_cli.main import plugins

    loaded = plugins(ctx)
    catalogue = getattr(loaded, kind)
    entries = catalogue.match(pattern)
    if pattern is not None and not entries:
        names = [entry.name for entry in catalogue]
        raise UsageError(
            f"no {catalogue.noun} matches `{pattern}`",
            hint=did_you_mean(pattern.strip("*"), names, f"see `zoo list {kind}`"),
        )
    if stages and kind != "backbones":
        raise UsageError("`--stages` applies to backbones only", hint="see `zoo list backbones --stages`")
    if options and kind not in ("strategies", *WITH_OPTIONS):
        raise UsageError(
            "`--options` applies to strategies, augmentations, losses, optimizers, schedules and callbacks only",
            hint="see `zoo list strategies --options`",
        )
    if kind == "backbones":
        from zoo_cli.backbones import print_backbones, print_stages

        (print_stages if stages else print_backbones)(entries, loaded, as_json)
        return
    if options and kind in WITH_OPTIONS:
        if not as_json and not any(entry.value.options for entry in entries):
            click.echo(f"no {catalogue.noun} that matches has options", err=True)
            return
        _print_options(entries, as_json)
        return
    if options:
        from zoo_cli.strategies import print_options

        print_options(entries, as_json)
        return
    rows = [_row(kind, entry, loaded) for entry in entries]
    if as_json:
        print_json(rows)
        return
    more = [name for name in ("options", "better") if rows and name in rows[0]]
    titles = ("name", "provider", *more, "summary")
    cells = [[row[title] for title in titles] for row in rows]
    plain = plain_table(titles, cells)
    if plain is not None:
        click.echo(plain, err=True)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(*titles)
    for line in cells:
        table.add_row(*map(escape, line))
    console().print(table)


def _print_options(entries: Sequence[Entry[Any]], as_json: bool) -> None:
    """Print a row for each option of rows that have `zoo.Option`s."""
    rows = [
        {
            "name": entry.qualified,
            "option": option.name,
            "type": type(option.default).__name__,
            "default": option.default,
            "low": option.low,
            "high": option.high,
            "help": option.summary,
        }
        for entry in entries
        for option in entry.value.options
    ]
    if as_json:
        print_json({"options": rows})
        return
    from rich.markup import escape
    from rich.table import Table

    from zoo.config.grammar import write_value

    table = Table("name", "option", "type", "default", "bounds", "help", title="The first option: NAME:VALUE")
    for row in rows:
        low, high = row["low"], row["high"]
        bounds = f"{low} to {high}" if None not in (low, high) else ""
        bounds = bounds or (f"from {low}" if low is not None else f"up to {high}" if high is not None else "")
        texts = (row["name"], row["option"], row["type"], write_value(row["default"]), bounds, row["help"])
        table.add_row(*map(escape, texts))
    console().print(table)


def _row(kind: str, entry: Any, loaded: Plugins) -> dict[str, Any]:
    row = {"name": entry.name, "provider": entry.provider, "qualified": entry.qualified, "summary": entry.value.summary}
    if kind == "strategies":
        row["options"] = " ".join(
            f"{field.name}={'' if field.default is dataclasses.MISSING else field.default}"
            for field in dataclasses.fields(entry.value)
        )
    if kind in WITH_OPTIONS:
        row["options"] = " ".join(f"{option.name}={option.default}" for option in entry.value.options)
    if kind == "metrics":
        row["better"] = "higher" if entry.value.higher_is_better else "lower"
    return row
