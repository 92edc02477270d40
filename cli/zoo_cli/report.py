"""`zoo report`."""

from __future__ import annotations

import click

from zoo_cli.options import json_option


@click.command()
@click.argument("of", metavar="RUN|STUDY")
@click.option("--out", metavar="FILE", help="An HTML file.  [default: report.html in the folder]")
@click.option("--photographs/--no-photographs", default=True, show_default=True, help="The worst mistakes as pictures.")
@json_option
@click.pass_context
def report(ctx: click.Context, of: str, out: str | None, photographs: bool, as_json: bool) -> None:
    """Write what a run or a study found as one HTML file that needs no network, with JSON and CSV beside it.

    \b
    zoo report runs/first
    zoo report runs/study --out study.html
    """
    from zoo.reports.html import report as write
    from zoo_cli.main import plugins

    found = write(of, out=out, photographs=photographs, plugins=plugins(ctx))
    click.echo(found.json.read_text(encoding="utf-8").rstrip() if as_json else str(found.html))
