"""`zoo compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from zoo_cli.figures import print_needed, print_settings
from zoo_cli.options import console, fits, json_option, percent, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.evaluation.file_scores import FileScores
    from zoo.evaluation.significance import Comparison
    from zoo.plugin import Plugins


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN|FILE...")
@json_option
@click.pass_context
def compare(ctx: click.Context, runs: tuple[str, ...], as_json: bool) -> None:
    """Compare finished runs, with significance tests.

    Prints metrics and training time of each run side by side, then the settings that differ, and tests which
    differences in accuracy are more than chance. Runs that differ by their seed alone count as one configuration.

    \b
    zoo compare runs/first runs/second runs/third
    zoo compare runs/second last-month.onnx

    An exported file is scored on the images of the first run; those of classes that it does not know are left out.
    The tests need runs that were scored on the same images; a warning is printed for others. `zoo diff` lists the
    photographs that only one of two runs classifies correctly.
    """
    from zoo.errors import ZooError
    from zoo.evaluation.file_scores import is_exported_file, no_run
    from zoo.evaluation.significance import compare as compare_runs
    from zoo.runs.run import Run
    from zoo.runs.setting_differences import differing_settings
    from zoo_cli.main import plugins

    files = [path for path in runs if is_exported_file(path)]
    opened = [Run.open(path) for path in runs if path not in files]
    if not opened:
        raise no_run(files)
    rows = [
        {
            "run": str(run.path),
            "status": run.status,
            "backbone": run.record["backbone"],
            "strategy": run.record["strategy"],
            "made": run.combined,
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
    split = opened[0].record["reported_split"]
    same = all(
        run.record["reported_split"] == split and opened[0].same_images(run, split) is not False for run in opened
    )
    screen = console()
    verdict = None
    if same and all(run.status == "finished" for run in opened):
        try:
            verdict = compare_runs([*opened, *files], plugins=plugins(ctx) if files else None)
        except ZooError as error:
            if files:
                raise
            # the table needs no test
            screen.print(
                f"[yellow]warning[/yellow]: differences cannot be tested for significance: {escape(error.message)}"
            )
    elif files:
        raise ZooError(
            f"`{files[0]}` cannot be compared with runs that are not finished or were scored on different images",
            hint="compare it with one run",
        )
    rows += [_row_of_file(one, plugins(ctx)) for one in (verdict.files if verdict is not None else ())]
    if as_json:
        told = verdict.to_json() if verdict is not None else None
        print_json({"runs": rows, "comparison": told, "settings": differing_settings(opened)})
        return
    cells = []
    for row in sorted(rows, key=lambda row: -_accuracy(row["metrics"])):
        metrics, interval = row["metrics"], row["accuracy_interval_95"]
        cells.append(
            {
                "run": row["run"] if row["status"] == "finished" else f"{row['run']} ({row['status']})",
                "backbone": row["backbone"],
                "strategy": row["strategy"] if row["made"] is None else f"{row['strategy']} ({row['made']})",
                "seed": "-" if row["seed"] is None else str(row["seed"]),
                "split": row["split"],
                "accuracy": percent(metrics.get("accuracy")),
                "95 %": f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-",
                "precision": percent(metrics.get("precision_macro")),
                "recall": percent(metrics.get("recall_macro")),
                "F1": percent(metrics.get("f1_macro")),
                "trains": "-" if row["trainable_parameters"] is None else f"{row['trainable_parameters']:,}",
                "seconds": f"{row['seconds']:.0f}" if row["seconds"] else "-",
            }
        )
    _print_side_by_side(screen, cells)
    print_settings(opened, screen, shown=("backbone", "strategy", "seed"))
    for text in (text for one in (verdict.files if verdict is not None else ()) for text in one.notes()):
        screen.print(f"[yellow]note[/yellow]: {escape(text)}")
    if verdict is not None and any(one.left_out for one in verdict.files):
        figures = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in verdict.accuracies.items())
        screen.print(f"accuracy on the images that are compared: {escape(figures)}")
    if verdict is not None:
        _print_verdict(screen, verdict)
    if not same:
        screen.print(
            "[yellow]warning[/yellow]: these runs were scored on different images, so their metrics are not comparable"
        )


def _row_of_file(scores: FileScores, plugins: Plugins) -> dict[str, Any]:
    """What is printed of an exported file: as of a run, as far as it is known."""
    from zoo.evaluation.evaluation import compute_metrics
    from zoo.evaluation.statistics import accuracy_interval

    return {
        "run": scores.file,
        "status": "finished",
        "backbone": "-",
        "strategy": "exported file",
        "made": None,
        "seed": None,
        "data": None,
        "split": scores.predictions.split,
        "metrics": compute_metrics(scores.predictions, plugins),
        "accuracy_interval_95": list(accuracy_interval(scores.predictions)),
        "trainable_parameters": None,
        "seconds": None,
    }


NARROW = 20  # characters, the least width of a run's column: two runs fit in 80, and no figure is wider


def _print_side_by_side(screen: Console, cells: list[dict[str, str]]) -> None:
    """Print one run a row if the rows fit; otherwise one run a column, with names wrapped and no figure truncated."""
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
        screen.print(f"not significantly different from the best, {escape(first)}: {escape(', '.join(others))}")
    else:
        screen.print(f"{escape(first)} is the only winner: all other configurations are significantly worse")
    print_needed(verdict.to_json(), screen)


def _accuracy(metrics: Mapping[str, float | None]) -> float:
    """The accuracy, below all others for a metric that failed or is not installed."""
    found = metrics.get("accuracy")
    return -1.0 if found is None else found
