"""`zoo card`."""

from __future__ import annotations

import click

from zoo_cli.options import echo, force_option


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FILE", help="File to write, such as README.md.  [default: standard output]")
@force_option
def card(run: str, out: str | None, force: bool) -> None:
    """Write the model card of a finished run as Markdown.

    The card says what the run was trained on, its classes, figures with their intervals, settings, limits and licence,
    and begins with the metadata that model hubs read: saved as README.md, it is the page of a model there. Exported
    files hold it, too, as `zoo.card`.

    \b
    zoo card runs/first
    zoo card runs/first --out hub/README.md
    """
    from zoo.exporting.model_card import card as text_of
    from zoo.exporting.model_card import write_card

    if out is None:
        echo(text_of(run), nl=False)
    else:
        echo(str(write_card(run, out, force=force)))
