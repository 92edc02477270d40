"""Plots of a report, as SVG whose text and lines have the page's text colour: readable on light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.predictions import Predictions
from zoo.studies.learning_curve import Point

INK = "#010203"  # a placeholder that is replaced by the page's text colour
SERIES = ("#4c78a8", "#e4803a", "#4f9e5b", "#d1545a", "#8d6bb3", "#3f9fa6", "#b58b2f", "#9c7a62")
MARKERS = "osD^vPX*"
BINS = 10  # bins of confidence
LINE = 0.19  # height of a line of the legend, in inches

STYLE = {
    "svg.fonttype": "none",  # text stays text, so that it scales, can be searched and is read aloud
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def check_plots() -> None:
    """Check that plots can be drawn, before anything is computed.

    Raises:
        ZooError: the plotting library is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ZooError("a report needs matplotlib", hint="`pip install 'backbone-zoo[plot]'`") from error


def _figure(height: float = 3.1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.7, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any, title: str) -> str:
    """A figure as an SVG element that fits the width of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # ids of clip paths and glyphs must be unique within a page
    salt = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _drawn(draw: Any, title: str, height: float = 3.1) -> str:
    """The SVG of what `draw` draws on its axes, with a legend where there are labels; `height` in inches."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _figure(height)
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:  # below the plot, where the legend covers nothing
            figure.set_figheight(height + LINE * len(labels))
            figure.legend(handles, labels, loc="outside lower left")
        return _svg(figure, title)


def accuracy_against_latency(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Each configuration as a point with its interval, and the Pareto front; None where no latency is known."""
    timed = [row for row in rows if row["latency"]]
    if not timed:
        return None
    backbones = list(dict.fromkeys(row["backbone"] for row in timed))

    def draw(axes: Any) -> None:
        for row in timed:
            number = backbones.index(row["backbone"])
            low, high = row["interval"]
            value = row["accuracy"]
            axes.errorbar(
                row["latency"][0] * 1000,
                value,
                yerr=[[max(value - low, 0)], [max(high - value, 0)]],
                marker=MARKERS[number % len(MARKERS)],
                color=SERIES[number % len(SERIES)],
                mfc=SERIES[number % len(SERIES)] if row["winner"] else "none",
                lw=0.7,
                alpha=0.9,
                ls="none",
            )
        front, best = [], -1.0
        for row in sorted(timed, key=lambda row: (row["latency"][0], -row["accuracy"])):
            if row["accuracy"] > best:
                best = row["accuracy"]
                front.append(row)
        axes.step([row["latency"][0] * 1000 for row in front], [row["accuracy"] for row in front], where="post", lw=1,
                  ls="--", color=INK, alpha=0.6)  # fmt: skip
        for number, name in enumerate(backbones):
            axes.plot([], [], MARKERS[number % len(MARKERS)], color=SERIES[number % len(SERIES)], label=name)
        axes.set(xlabel="latency of one image, ms", ylabel="accuracy")

    return _drawn(draw, "accuracy against latency")


def learning_curves(curves: Mapping[str, Sequence[float]]) -> str | None:
    """Loss by epoch, a curve for each name that has several epochs; None where none has."""
    shown = {name: values for name, values in curves.items() if len(values) > 1}
    if not shown:
        return None

    def draw(axes: Any) -> None:
        for number, (name, values) in enumerate(shown.items()):
            axes.plot(
                range(1, len(values) + 1), values, marker=".", color=SERIES[number % len(SERIES)],
                ls="-" if number < len(SERIES) else "--", label=name,
            )  # fmt: skip
        axes.set(xlabel="epoch", ylabel="loss")
        if min(min(values) for values in shown.values()) >= 0:  # a loss of a plugin may be negative
            axes.set(ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _drawn(draw, "learning curves")


def fraction_curves(curves: Mapping[str, Sequence[Point]]) -> str | None:
    """Accuracy with its interval against the number of training images; None where no curve has several points."""
    shown = {name: points for name, points in curves.items() if len(points) > 1}
    if not shown:
        return None

    def draw(axes: Any) -> None:
        for number, (name, points) in enumerate(shown.items()):
            images, accuracy, low, high, *_ = (np.array(values) for values in zip(*sorted(points)))
            colour = SERIES[number % len(SERIES)]
            axes.plot(images, accuracy, marker=".", color=colour, label=name)
            axes.fill_between(images, low, high, color=colour, alpha=0.12, lw=0)
        axes.set(xlabel="training images", ylabel="accuracy", xscale="log")
        counts = sorted({int(point[0]) for points in shown.values() for point in points})
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()

    return _drawn(draw, "accuracy against training images")


def calibration(table: Predictions) -> str:
    """Reliability diagram: accuracy by confidence; the area of a dot shows the number of images.

    Guo et al. 2017, "On calibration of modern neural networks", section 2.
    """
    confidence = table.probabilities.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, alpha=0.5)
        for number in range(BINS):
            held = bins == number
            if held.any():
                area = 12 + 300 * held.mean()
                axes.scatter(confidence[held].mean(), table.correct[held].mean(), s=area, color=SERIES[0], alpha=0.8)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.06))

    return _drawn(draw, "calibration")


def depth_profile(profiles: Mapping[str, Sequence[Mapping[str, Any]]], key: str, label: str) -> str | None:
    """A figure of each stage against its depth, a curve for each backbone; None where there are no stages.

    Args:
        profiles: stages of each backbone, from input to output, as in `advice.json`.
        key: name of the figure: `accuracy` (drawn with its interval) or `distance`.
        label: label of the vertical axis.
    """
    if not any(profiles.values()):
        return None

    def draw(axes: Any) -> None:
        for number, (name, stages) in enumerate(profiles.items()):
            known = [stage for stage in stages if stage.get(key) is not None]
            if not known:
                continue
            colour = SERIES[number % len(SERIES)]
            depth = [stage["depth"] for stage in known]
            axes.plot(depth, [stage[key] for stage in known], marker=MARKERS[number % len(MARKERS)], color=colour, ms=4,
                      label=name)  # fmt: skip
            if all("interval" in stage for stage in known) and key == "accuracy":
                low, high = zip(*(stage["interval"] for stage in known))
                axes.fill_between(depth, low, high, color=colour, alpha=0.12, lw=0)
        axes.set(xlabel="depth, share of the stages", ylabel=label)

    return _drawn(draw, label)
