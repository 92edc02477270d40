"""`zoo diff`."""

from __future__ import annotations

import click
from rich.markup import escape

from zoo.errors import counted
from zoo_cli.figures import print_settings
from zoo_cli.options import console, echo, json_option, print_json


@click.command()
@click.argument("first", metavar="RUN|FILE")
@click.argument("second", metavar="RUN|FILE")
@click.option(
    "--split", metavar="train|val|test", help="Split to compare on.  [default: the split that the first run reports]"
)
@json_option
@click.pass_context
def diff(ctx: click.Context, first: str, second: str, split: str | None, as_json: bool) -> None:
    """List the photographs that only one of two runs classifies correctly.

    Use it to see what a change of settings gained and lost. Both runs must have been scored on the same photographs.
    One of the two may be an exported file, such as last month's: it is scored on those of the run.

    \b
    zoo diff runs/first runs/second
    zoo diff last-month.onnx runs/second

    Says which settings differ. Then it prints a line for each such photograph, separated by tabs: `fixed` or `broken`,
    its path, its true label, and the prediction and probability of the first and of the second run. The p-value is from
    the exact McNemar test.
    """
    from zoo.evaluation.file_scores import is_exported_file
    from zoo.evaluation.paired_diff import diff as compare
    from zoo.runs.run import Run
    from zoo.runs.setting_differences import differing_settings
    from zoo_cli.main import plugins

    files = [one for one in (first, second) if is_exported_file(one)]
    found = compare(first, second, split=split, plugins=plugins(ctx) if files else None)
    runs = [] if files else [Run.open(first), Run.open(second)]
    if as_json:
        print_json({**found.to_json(), "settings": differing_settings(runs)})
        return
    screen = console()
    if runs:
        print_settings(runs, screen)
    for text in (text for one in found.files for text in one.notes()):
        screen.print(f"[dim]{escape(text)}[/dim]")
    screen.print(
        f"{counted(found.images, 'photograph')} of {found.split}: accuracy {found.before:.4f}, then {found.after:.4f}; "
        f"{len(found.fixed)} fixed, {len(found.broken)} broken, p {found.p_value:.3g}"
    )
    for name, (fixed, broken) in found.per_class().items():
        screen.print(f"[dim]{escape(name)}: {fixed} fixed, {broken} broken[/dim]")
    for what, changes in (("fixed", found.fixed), ("broken", found.broken)):
        for change in changes:
            said = [f"{label} {share:.4f}" for label, share in (change.before, change.after)]
            echo("\t".join([what, change.id, change.label, *said]))
