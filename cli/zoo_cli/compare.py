"""`zoo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.options import console, json_option, percent, print_json

if TYPE_CHECKING:
    from zoo.run import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Print runs side by side: what was asked, what came out, how long it took.

    Figures of different data or splits stand side by side but are not comparable; a line says so.
    """
    from zoo.run import Run

    opened = [Run.open(Path(path)) for path in runs]
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
    if as_json:
        print_json(rows)
        return
    table = Table(
        "run",
        "backbone",
        "strategy",
        "seed",
        "split",
        "accuracy",
        "95 %",
        "precision",
        "recall",
        "F1",
        "trains",
        "seconds",
    )
    for row in sorted(rows, key=lambda row: -row["metrics"].get("accuracy", -1.0)):
        metrics, interval = row["metrics"], row["accuracy_interval_95"]
        table.add_row(
            escape(row["run"] if row["status"] == "finished" else f"{row['run']} ({row['status']})"),
            row["backbone"],
            row["strategy"],
            str(row["seed"]),
            row["split"],
            percent(metrics.get("accuracy")),
            f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-",
            percent(metrics.get("precision_macro")),
            percent(metrics.get("recall_macro")),
            percent(metrics.get("f1_macro")),
            f"{row['trainable_parameters']:,}",
            f"{row['seconds']:.0f}" if row["seconds"] else "-",
        )
    screen = console()
    screen.print(table)
    if len({(row["data"], row["split"], _scored(run)) for row, run in zip(rows, opened)}) > 1:
        screen.print(
            "[yellow]warning[/yellow]: these runs were not scored on the same images, so their figures do not compare"
        )


def _scored(run: Run) -> str:
    """The digest of the images that a run reports on."""
    data = run.record["data"]
    return str((data.get("reported") or data.get("choose") or {}).get("sha256"))
