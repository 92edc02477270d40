"""`zoo compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.figures import print_needed
from zoo_cli.options import console, fits, json_option, percent, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.evaluation.significance import Comparison
    from zoo.runs.run import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Print runs side by side: what was asked, what came out, how long it took.

    Runs that differ by their seed alone are one way to train; of several ways, those are named that cannot be told
    apart from the best. Figures of different data or splits stand side by side but are not comparable; a line says so.
    """
    from zoo.errors import ZooError
    from zoo.evaluation.significance import compare as compare_runs
    from zoo.runs.run import Run

    opened = [Run.open(path) for path in runs]
    rows = [
        {
            "run": str(run.path),
            "status": run.status,
            "backbone": run.record["backbone"],
            "strategy": run.record["strategy"],
            "seed": run.experiment.seed,
            "data": run.record["data_name"],
            "split": run.record["reported_split"],
            "metrics": run.metrics,
            "accuracy_interval_95": run.record.get("accuracy_interval_95"),
            "trainable_parameters": max(phase["trainable_parameters"] for phase in run.record["phases"]),
            "seconds": (run.record.get("seconds") or {}).get("total"),
        }
        for run in opened
    ]
    same = len({(row["data"], row["split"], _scored(run)) for row, run in zip(rows, opened)}) == 1
    screen = console()
    verdict = None
    if same and all(run.status == "finished" for run in opened):
        try:
            verdict = compare_runs(opened)
        except ZooError as error:  # the figures stand without it
            screen.print(f"[yellow]warning[/yellow]: which can be told apart is not known: {escape(error.message)}")
    if as_json:
        print_json({"runs": rows, "comparison": verdict.to_json() if verdict is not None else None})
        return
    cells = []
    for row in sorted(rows, key=lambda row: -row["metrics"].get("accuracy", -1.0)):
        metrics, interval = row["metrics"], row["accuracy_interval_95"]
        cells.append(
            {
                "run": row["run"] if row["status"] == "finished" else f"{row['run']} ({row['status']})",
                "backbone": row["backbone"],
                "strategy": row["strategy"],
                "seed": str(row["seed"]),
                "split": row["split"],
                "accuracy": percent(metrics.get("accuracy")),
                "95 %": f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-",
                "precision": percent(metrics.get("precision_macro")),
                "recall": percent(metrics.get("recall_macro")),
                "F1": percent(metrics.get("f1_macro")),
                "trains": f"{row['trainable_parameters']:,}",
                "seconds": f"{row['seconds']:.0f}" if row["seconds"] else "-",
            }
        )
    _print_side_by_side(screen, cells)
    if verdict is not None:
        _print_verdict(screen, verdict)
    if not same:
        screen.print(
            "[yellow]warning[/yellow]: these runs were not scored on the same images, so their figures do not compare"
        )


NARROW = 20  # characters that a run's column gets at least: two runs in 80, and no figure is wider


def _print_side_by_side(screen: Console, cells: list[dict[str, str]]) -> None:
    """A run a row where they fit; else a run a column, names folded and no figure cut."""
    titles = list(cells[0])
    table = Table(*titles)
    for run in cells:
        table.add_row(*(escape(cell) for cell in run.values()))
    if fits(screen, table):
        screen.print(table)
        return
    most = max(1, (screen.width - max(map(len, titles)) - 4) // (NARROW + 3))
    for start in range(0, len(cells), most):
        screen.print(_columns(titles, cells[start : start + most]))


def _columns(titles: list[str], cells: list[dict[str, str]]) -> Table:
    table = Table(show_header=False)
    table.add_column(no_wrap=True, min_width=max(map(len, titles)), style="bold")
    for _ in cells:
        table.add_column(overflow="fold", min_width=NARROW)
    for title in titles:
        table.add_row(title, *(escape(run[title]) for run in cells), end_section=title == "split")
    return table


def _print_verdict(screen: Console, verdict: Comparison) -> None:
    first, *others = verdict.winners
    if others:
        screen.print(f"cannot be told apart from the best, {escape(first)}: {escape(', '.join(others))}")
    else:
        screen.print(f"nothing is known to be as good as {escape(first)}")
    print_needed(verdict.to_json(), screen)


def _scored(run: Run) -> str:
    """The digest of the images that a run reports on."""
    data = run.record["data"]
    return str((data.get("reported") or data.get("choose") or {}).get("sha256"))
