"""`zoo report`."""

from __future__ import annotations

import click

from zoo_cli.options import echo, json_option


@click.command()
@click.argument("of", metavar="RUN|STUDY")
@click.option(
    "--out", metavar="FILE", help="HTML file to write.  [default: report.html in the folder of the run or study]"
)
@click.option(
    "--photographs/--no-photographs",
    default=True,
    show_default=True,
    help="Whether to embed the photographs of the worst mistakes, or list their names only.",
)
@click.option(
    "--heat-maps",
    is_flag=True,
    help="Show below each of the worst mistakes which parts of it the prediction rests on, by occlusion. It executes "
    "the network some 80 times a photograph.",
)
@json_option
@click.pass_context
def report(ctx: click.Context, of: str, out: str | None, photographs: bool, heat_maps: bool, as_json: bool) -> None:
    """Write the results of a run or a study as one HTML file.

    The file opens in any browser without a network. The same figures are written beside it as JSON and CSV.

    \b
    zoo report runs/first
    zoo report runs/study --out study.html
    """
    from zoo.reports.html import report as write
    from zoo_cli.main import plugins

    found = write(of, out=out, photographs=photographs, heat_maps=heat_maps, plugins=plugins(ctx))
    echo(found.json.read_text(encoding="utf-8").rstrip() if as_json else str(found.html))
