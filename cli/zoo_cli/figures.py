"""Tables of metrics for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo.errors import counted
from zoo_cli.options import percent

if TYPE_CHECKING:
    from zoo.evaluation.costs import Costs
    from zoo.evaluation.evaluation import Evaluation
    from zoo.evaluation.forgetting import Forgetting
    from zoo.evaluation.operating_point import OperatingPoint
    from zoo.evaluation.unknown_images import UnknownImages
    from zoo.predictions import Predictions
    from zoo.runs.run import Run

MOST_NEEDED = 5  # lines
MOST_ABSENT = 5  # names of classes
# The confusion matrix of more classes is in the JSON only
MOST_CLASSES = 15


def print_run(run: Run, console: Console) -> None:
    """Print the metrics of a finished run."""
    record = run.record
    low, high = record["accuracy_interval_95"]
    split = record["reported_split"]
    images = counted(len(run.predictions()), "image")
    console.print(
        f"[bold]{split} accuracy {_figure(run.metrics.get('accuracy'))}[/bold] (95 % interval {low:.3f} to {high:.3f}, "
        f"{images})  macro-F1 {_figure(run.metrics.get('f1_macro'))}  loss {_figure(run.metrics.get('loss'))}  "
        f"[dim]{record['seconds']['total']:.0f} s[/dim]"
    )
    _print_absent(run.predictions(), console)
    if run.is_final:
        trained = counted(record["data"]["fit"]["images"], "image")
        console.print(
            f"[dim]this is the accuracy of `{escape(record['final']['run'])}`; this run was trained on all {trained} "
            "that are not in the test split, and was scored on none of them[/dim]"
        )
    chooses = run.experiment.chooses or record.get("schedule", {}).get("follows_validation", False)
    if record["chosen_on"] == split and chooses:
        console.print(
            f"[dim]`{split}` was also used to choose the epoch, so this accuracy is optimistic; for an unbiased one, "
            f"run `zoo evaluate {run.path} --split test`[/dim]"
        )


def _print_absent(predictions: Predictions, console: Console) -> None:
    """Say which classes the macro figures leave out, since no image of the split is of them."""
    import numpy as np  # not at the top: help needs no numbers

    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    absent = np.flatnonzero(counts == 0)
    if not len(absent):
        return
    names = [f"`{escape(predictions.classes[one])}`" for one in absent[:MOST_ABSENT]]
    more = f" and {len(absent) - MOST_ABSENT} more" if len(absent) > MOST_ABSENT else ""
    called = int(np.isin(predictions.predicted, absent).sum())
    though = f", though {counted(called, 'image is', 'images are')} predicted as one" if called else ""
    console.print(
        f"[dim]macro figures are means over {counted(len(counts) - len(absent), 'class', 'classes')}: "
        f"`{escape(predictions.split)}` has no image of {', '.join(names)}{more}{though}[/dim]"
    )


def _figure(value: float | None) -> str:
    """A metric with four decimals; `-` for one that failed or is not installed."""
    return "-" if value is None else f"{value:.4f}"


def print_needed(comparison: Mapping[str, Any], console: Console) -> None:
    """Print what the winners hold for, and how many photographs would make the best one significantly better."""
    if comparison.get("caution"):
        console.print(f"[yellow]{escape(comparison['caution'])}[/yellow]")
    for run in comparison.get("repeated", ()):
        console.print(
            f"[dim]{escape(run)} repeats the settings and the seed of another run, so it is not counted[/dim]"
        )
    winners = comparison["winners"]
    pairs = [one for one in comparison["pairs"] if one["better"] == winners[0] and one["worse"] in winners]
    for pair in [one for one in pairs if one["needed"]][:MOST_NEEDED]:
        figures = (
            f"about {counted(pair['needed'], 'photograph')} would be needed to show that the best exceeds "
            f"{pair['worse']} by {pair['difference']:.3f}"
        )
        console.print(f"[dim]{escape(figures)}[/dim]")


def print_settings(runs: Sequence[Run], console: Console, shown: Sequence[str] = ()) -> None:
    """Print which settings and versions differ between runs, a line for each.

    Args:
        runs: The runs.
        console: Where to print.
        shown: Settings that are printed already.
    """
    from zoo.runs.setting_differences import differing_settings, differing_versions, value_text

    made = [run for run in runs if run.combined is not None]
    for run in made:
        console.print(escape(f"`{run.path}` is {run.in_words}; its settings are those of one of them"))
    found = differing_settings(runs)
    lines = {name: [value_text(name, value) for value in values] for name, values in found.items() if name not in shown}
    if len(runs) > 1 and not lines and not made:
        console.print(f"[dim]no {'other ' if shown else ''}setting differs[/dim]")
    for title, table in (("settings", lines), ("versions", differing_versions(runs))):
        if table:
            console.print(f"{title} that differ:")
        for name, texts in table.items():
            of = {text: [str(run.path) for run, one in zip(runs, texts) if one == text] for text in texts}
            told = "; ".join(f"{text} in {', '.join(names)}" for text, names in of.items())
            console.print(escape(f"  {name}: {told}"))


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the metrics, the table by class and, for up to `MOST_CLASSES` classes, the confusion matrix."""
    table = Table(
        "metric",
        "value",
        title=f"{escape(evaluation.model)} on {escape(evaluation.data)} {evaluation.predictions.split}",
    )
    low, high = evaluation.interval()
    for name, value in evaluation.metrics.items():
        extra = f" (95 % {low:.3f} to {high:.3f})" if name == "accuracy" else ""
        table.add_row(escape(name), f"{_figure(value)}{extra}")
    console.print(table)
    for name, reason in evaluation.undefined.items():
        console.print(f"[dim]{escape(name)} is undefined: {escape(reason)}[/dim]")
    _print_absent(evaluation.predictions, console)
    if evaluation.fitted:
        whole = counted(len(evaluation.predictions), "image")
        console.print(
            f"[dim]the model, or a run that it comes from, was fitted on {evaluation.fitted} of these {whole}, so its "
            "accuracy on new images is lower[/dim]"
        )
    classes = Table("class", "precision", "recall", "f1", "ROC AUC", "PR AUC", "loss", "images")
    for row in evaluation.per_class():
        figures = (percent(row[key]) for key in ("precision", "recall", "f1", "roc_auc", "pr_auc", "log_loss"))
        classes.add_row(escape(row["class"]), *figures, str(row["images"]))
    console.print(classes)
    names = evaluation.predictions.classes
    if len(names) <= MOST_CLASSES:
        matrix = Table("true \\ predicted", *(escape(name) for name in names))
        for name, counts in zip(names, evaluation.confusion().tolist()):
            matrix.add_row(escape(name), *(str(count) for count in counts))
        console.print(matrix)
    if evaluation.points:
        print_operating_points(evaluation.points, evaluation.predictions.split, console)
    if evaluation.costs is not None:
        print_costs(evaluation.costs, console)
    if evaluation.unknown is not None:
        print_unknown(evaluation.unknown, evaluation.predictions.split, console)


def print_operating_points(points: Sequence[OperatingPoint], split: str, console: Console) -> None:
    """Print the thresholds of operating points, and what they do on the images that are reported."""

    def share(value: float | None, interval: tuple[float, float] | None) -> str:
        return (
            "-" if value is None or interval is None else f"{value:.3f} (95 % {interval[0]:.3f} to {interval[1]:.3f})"
        )

    table = Table("operating point", "threshold", "precision", "recall", "called", "of class", "images")
    for one in points:
        table.add_row(
            escape(str(one.goal)),
            "-" if one.threshold is None else f"{one.threshold:.4f}",
            share(one.precision, one.precision_interval),
            share(one.recall, one.recall_interval),
            *("-" if count is None else str(count) for count in (one.called, one.of_class, one.images)),
        )
    console.print(table)
    on = points[0]
    console.print(
        f"[dim]thresholds are chosen on {counted(on.chosen_images, 'image')}, {on.chosen_on}, and reported on "
        f"{counted(on.images, 'other image')} of {split}[/dim]"
    )
    for one in points:
        if one.threshold is None:
            why = (
                f"there is no image of `{one.goal.name}` among them"
                if one.best is None
                else f"the highest {one.goal.figure} among them is {one.best:.3f}"
            )
            console.print(f"[yellow]no threshold reaches {escape(str(one.goal))}: {escape(why)}[/yellow]")
        elif one.precision is None or one.recall is None:
            missing = "is called so" if one.precision is None else "is of the class"
            console.print(f"[dim]{escape(str(one.goal))}: none of the reported images {missing}[/dim]")


def print_costs(costs: Costs, console: Console) -> None:
    """Print mean costs by decisions of the lowest expected cost, and by the most probable classes."""
    table = Table("decision", "mean cost", title=f"costs of {escape(costs.file)}")
    for name, value, (low, high) in (
        ("lowest expected cost", costs.mean, costs.interval),
        ("most probable class", costs.argmax, costs.argmax_interval),
        ("difference", costs.difference, costs.difference_interval),
    ):
        table.add_row(name, f"{value:.4f} (95 % {low:.4f} to {high:.4f})")
    console.print(table)
    console.print(
        f"[dim]the decision is not the most probable class for {counted(costs.changed, 'image')} of "
        f"{len(costs.decisions):,}[/dim]"
    )


def print_unknown(found: UnknownImages, split: str, console: Console) -> None:
    """Print how well images of no class are told from those of a split."""
    figures = found.to_json()
    table = Table("unknown images", "value", title=f"{counted(found.images, 'image')} of {escape(found.data)}")
    for name, key in (
        ("AUROC", "auroc"),
        ("accepted where 95 % of the known images are", "fpr_at_95"),
        ("called unknown", "flagged"),
        (f"false alarms on {split}, asked for {found.rate:g}", "false_alarms"),
    ):
        low, high = figures[f"{key}_interval_95"]
        table.add_row(escape(name), f"{figures[key]:.4f} (95 % {low:.3f} to {high:.3f})")
    console.print(table)
    if found.trained_on:
        console.print(
            f"[yellow]the model was trained on {found.trained_on} of these {counted(found.images, 'image')}, so they "
            "are not unknown to it[/yellow]"
        )
    if found.in_split:
        console.print(
            f"[yellow]{found.in_split} of these {counted(found.images, 'image')} are images of {split}, too, so no "
            "score can tell them from these[/yellow]"
        )
    if found.threshold_images:
        console.print(
            f"[dim]the threshold was set on {found.threshold_images} of the {counted(found.known, 'image')} of "
            f"{split}, so false alarms among them say nothing about new images; `--split test` where there is one[/dim]"
        )


def print_forgetting(found: Forgetting, console: Console) -> None:
    """Print how much a run has forgotten of what the run could do that it goes on from."""
    low, high = found.interval
    console.print(
        f"on {counted(found.images, 'image')} of {escape(found.split)} of `{escape(found.parent)}`: accuracy "
        f"{found.before:.4f} before, {found.after:.4f} after [bold]({found.change:+.4f}[/bold], 95 % {low:+.3f} to "
        f"{high:+.3f}, p {found.p_value:.3g})"
    )
    console.print(
        f"[dim]both among {counted(len(found.classes), 'class', 'classes')} that both have; among all its classes "
        f"`{escape(found.run)}` has {found.after_all_classes:.4f} right[/dim]"
    )
    if len(found.classes) == 1:
        console.print(
            f"[yellow]`{escape(found.classes[0])}` is the only class of both, and among one class every answer is "
            "right: this says nothing of what was forgotten[/yellow]"
        )
    for count, why in (
        (found.dropped, "of classes that the run no longer has"),
        (found.changed, "with another content than then"),
        (found.gone, "no longer there, or not readable"),
    ):
        if count:
            console.print(f"[yellow]{counted(count, 'image')} left out: {why}[/yellow]")
    if found.trained_on:
        console.print(
            f"[yellow]`{escape(found.run)}` was trained on {found.trained_on} of these images, so it has forgotten "
            "more than this says[/yellow]"
        )
