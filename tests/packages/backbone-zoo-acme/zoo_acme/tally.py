"""A command."""

import click

from zoo import Run


@click.command()
@click.argument("run", metavar="RUN")
def tally(run):
    """Count the right answers of a run: class, right ones, number of images."""
    table = Run.open(run).predictions()
    for place, name in enumerate(table.classes):
        mine = table.labels == place
        click.echo(f"{name}\t{table.correct[mine].sum()}\t{mine.sum()}")
