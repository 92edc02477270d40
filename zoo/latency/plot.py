"""Plots of a latency report: latency against batch size, and accuracy against latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.inference.opening import find_exporter, recorded_by
from zoo.latency.report import LatencyReport, Outcome
from zoo.plugin import Plugins
from zoo.runs.run import RUN_FILE
from zoo.storage.files import read_json, unwritable

SUFFIXES = (".svg", ".png", ".pdf")


def check_plot(file: Path) -> None:
    """Check that a plot can be drawn, before minutes are spent on the measurement.

    Raises:
        UsageError: the suffix is not that of a format that can be drawn.
        ZooError: the plotting library is not installed.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`{file}` does not end in a format that can be drawn", hint=f"use {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ZooError("matplotlib is not installed", hint="`pip install 'backbone-zoo[plot]'`") from error


def draw(report: LatencyReport, file: Path, plugins: Plugins) -> None:
    """Draw medians with their 95 per cent intervals into a file.

    The first panel shows p50 against batch size. The second shows accuracy against p50 at the smallest batch size, and
    is drawn where the accuracy of a target is known.

    Raises:
        ZooError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    accuracies = {outcome.target: accuracy_of(Path(outcome.target), plugins) for outcome in report.measured}
    known = any(value is not None for value in accuracies.values())
    figure = Figure(figsize=(11 if known else 6, 4.5), layout="constrained")
    panels: Any = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
    for outcome in report.measured:
        sizes = [found.batch_size for found in outcome.measurements]
        _points(panels[0], sizes, outcome)
    panels[0].set(xlabel="batch size", ylabel="p50, milliseconds a call", xscale="log", yscale="log")
    panels[0].set_xticks(report.batch_sizes, [str(size) for size in report.batch_sizes])
    panels[0].minorticks_off()
    panels[0].legend(fontsize=7)
    if known:
        size = report.batch_sizes[0]
        for outcome in report.measured:
            accuracy, found = accuracies[outcome.target], outcome.measurements[0]
            if accuracy is not None:
                p50 = found.p50
                away = [[(p50.value - p50.low) * 1000], [(p50.high - p50.value) * 1000]]
                panels[1].errorbar(p50.value * 1000, accuracy, xerr=away, marker="o", capsize=3, label=_name(outcome))
        panels[1].set(xlabel=f"p50 at batch {size}, milliseconds", ylabel="accuracy on the reported split")
        panels[1].legend(fontsize=7)
    figure.suptitle(f"{report.machine['processor']}, {report.threads} threads; {report.timed}", fontsize=8)
    try:
        figure.savefig(file)
    except OSError as error:
        raise unwritable(file, error) from error


def accuracy_of(target: Path, plugins: Plugins) -> float | None:
    """The accuracy that a run, or an exported file, records of itself; None where it records none."""
    try:
        if target.is_dir():
            return float(read_json(target / RUN_FILE)["metrics"]["accuracy"])
        exporter = find_exporter(target, plugins)
        if exporter.inspect is None:
            return None
        return float(recorded_by(exporter, target)["parity"]["accuracy"])
    except (ZooError, KeyError, TypeError, ValueError):
        return None


def _points(panel: Any, sizes: list[int], outcome: Outcome) -> None:
    middles = [found.p50.value * 1000 for found in outcome.measurements]
    low = [(found.p50.value - found.p50.low) * 1000 for found in outcome.measurements]
    high = [(found.p50.high - found.p50.value) * 1000 for found in outcome.measurements]
    panel.errorbar(sizes, middles, yerr=[low, high], marker="o", capsize=3, label=_name(outcome))


def _name(outcome: Outcome) -> str:
    return f"{outcome.label} on {outcome.name}"
