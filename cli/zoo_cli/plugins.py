"""`zoo plugins`."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.options import console, json_option, print_json


@click.command()
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """Show installed plugins, what they provide and their errors.

    Two environment variables help with a broken plugin. ZOO_DISABLE_PLUGINS=a,b does not load the plugins a and b.
    ZOO_STRICT_PLUGINS=1 turns the warning about a broken plugin into an error with its traceback.
    """
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
