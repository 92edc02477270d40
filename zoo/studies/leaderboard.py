"""Leaderboard: the configurations of a study side by side, its winners, and the cheapest of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoo.errors import ZooError, counted
from zoo.evaluation.power import too_few
from zoo.evaluation.significance import Comparison, compare_configurations
from zoo.evaluation.statistics import correct, groups_of, seeds_interval
from zoo.predictions import Predictions
from zoo.studies.deployment_cost import DeploymentCost

ENSEMBLE = "ensemble of the winners"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: its figures on the compared split, averaged over seeds, and its costs.

    Attributes:
        way: The configuration: backbone and strategy.
        backbone: Qualified name of the backbone.
        strategy: The strategy in its canonical form.
        seeds: Seeds of the finished trials.
        images: Images of the split.
        accuracy: Share of images classified correctly.
        interval: 95 % interval of the accuracy, over images and, with several seeds, over seeds.
        precision: Macro precision. None: a seed has none.
        recall: Macro recall. None: a seed has none.
        f1: Macro F1. None: a seed has none.
        winner: Whether no other configuration is significantly better.
        cheapest: Whether it is the cheapest winner.
        latency: Seconds for one image: p50 with its 95 % interval. None: not known.
        size: Bytes of the exported network. None: not known.
        license: Licence of the weights.
        seconds: Seconds of training, the mean over seeds.
        core_seconds: Processor seconds of training, the mean over seeds.
        test: Accuracy and interval on the locked split, where it was evaluated there.
    """

    way: str
    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    images: int
    accuracy: float
    interval: tuple[float, float]
    precision: float | None
    recall: float | None
    f1: float | None
    winner: bool
    cheapest: bool
    latency: tuple[float, float, float] | None
    size: int | None
    license: str
    seconds: float
    core_seconds: float
    test: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Rows from best to worst accuracy on `split`; `comparison` holds every pair of configurations.

    `too_few` says why `split` is too small to choose a winner by; None: it is not.
    """

    split: str
    rows: tuple[Row, ...]
    comparison: Comparison
    notes: tuple[str, ...] = ()
    too_few: str | None = None

    @property
    def winners(self) -> tuple[str, ...]:
        """Configurations that are not significantly worse than any other, best first."""
        return tuple(row.way for row in self.rows if row.winner)

    @property
    def cheapest(self) -> str | None:
        """The cheapest winner."""
        return next((row.way for row in self.rows if row.cheapest), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "winners": list(self.winners),
            "cheapest": self.cheapest,
            "rows": [asdict(row) for row in self.rows],
            "comparison": self.comparison.to_json(),
            "notes": list(self.notes),
            "too_few": self.too_few,
        }

    def to_csv(self) -> str:
        """The rows as CSV, with a header."""
        text = io.StringIO()
        names = [
            "backbone", "strategy", "seeds", "images", "accuracy", "low_95", "high_95", "precision_macro",
            "recall_macro", "f1_macro", "winner", "cheapest", "latency_ms", "bytes", "license", "seconds",
            "core_seconds", "test_accuracy",
        ]  # fmt: skip
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        for row in self.rows:
            table.writerow(
                {
                    "backbone": row.backbone,
                    "strategy": row.strategy,
                    "seeds": " ".join(map(str, row.seeds)),
                    "images": row.images,
                    "accuracy": row.accuracy,
                    "low_95": row.interval[0],
                    "high_95": row.interval[1],
                    "precision_macro": row.precision,
                    "recall_macro": row.recall,
                    "f1_macro": row.f1,
                    "winner": row.winner,
                    "cheapest": row.cheapest,
                    "latency_ms": row.latency[0] * 1000 if row.latency else None,
                    "bytes": row.size,
                    "license": row.license,
                    "seconds": row.seconds,
                    "core_seconds": row.core_seconds,
                    "test_accuracy": row.test["accuracy"] if row.test else None,
                }
            )
        return text.getvalue()


class LeaderboardContent(dict[str, Any]):
    """The content of `leaderboard.json`; `to_frame` gives its rows as a table."""

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame, best configuration first; intervals in two columns, times in seconds.

        Raises:
            ZooError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ZooError("`to_frame` needs pandas", hint="`pip install pandas`") from error
        rows = []
        for row in self["rows"]:
            low, high = row["interval"]
            flat = {name: value for name, value in row.items() if name not in ("way", "interval", "latency", "test")}
            flat |= {"accuracy_low_95": low, "accuracy_high_95": high}
            flat["latency"] = row["latency"][0] if row["latency"] else None
            flat["test_accuracy"] = row["test"]["accuracy"] if row["test"] else None
            rows.append(flat)
        return pandas.DataFrame(rows)


@dataclass(frozen=True, kw_only=True)
class ConfigurationResults:
    """The finished trials of one configuration, before it is compared; one item of each tuple for each seed."""

    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    tables: tuple[Predictions, ...]
    metrics: tuple[Mapping[str, float | None], ...]
    seconds: tuple[float, ...]
    core_seconds: tuple[float, ...]
    trained: int  # trainable parameters, in the phase that has most
    cost: DeploymentCost

    @property
    def configuration(self) -> str:
        return f"{self.backbone} {self.strategy}"


def rank(results: Sequence[ConfigurationResults]) -> Leaderboard:
    """Compare configurations that were evaluated on the same images.

    The winners are those that are not significantly worse than any other. The cheapest winner is the one with the
    lowest latency and, among winners with the same network, the one with the fewest trainable parameters. Seconds of
    training do not count, because they vary from run to run.
    """
    tables = {one.configuration: correct(one.tables) for one in results}
    groups = groups_of([table for one in results for table in one.tables])
    comparison = compare_configurations(tables, groups)
    by_name = {one.configuration: one for one in results}
    winners = [by_name[name] for name in comparison.winners]
    cheapest = min(winners, key=_price).configuration if winners else None
    rows = []
    for name, accuracy in comparison.accuracies.items():
        one = by_name[name]
        low, high = seeds_interval(one.tables)
        rows.append(
            Row(
                way=name,
                backbone=one.backbone,
                strategy=one.strategy,
                seeds=one.seeds,
                images=tables[name].shape[1],
                accuracy=accuracy,
                interval=(low, high),
                precision=_mean(one.metrics, "precision_macro"),
                recall=_mean(one.metrics, "recall_macro"),
                f1=_mean(one.metrics, "f1_macro"),
                winner=name in comparison.winners,
                cheapest=name == cheapest,
                latency=one.cost.latency,
                size=one.cost.size,
                license=one.cost.license,
                seconds=round(float(np.mean(one.seconds)), 2),
                core_seconds=round(float(np.mean(one.core_seconds)), 2),
            )
        )
    split = results[0].tables[0].split
    return Leaderboard(
        split=split,
        rows=tuple(rows),
        comparison=comparison,
        notes=_notes(results, rows, split),
        too_few=too_few(split, rows[0].images, None if groups is None else len(np.unique(groups))),
    )


def _price(one: ConfigurationResults) -> tuple[float, int, str]:
    """Sort key of winners, the cheapest first."""
    latency = one.cost.latency
    return (latency[0] if latency else np.inf, one.trained, one.strategy)


def _mean(metrics: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    """The mean of a metric over seeds; None where a seed has no value."""
    values = [one.get(name) for one in metrics]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _notes(results: Sequence[ConfigurationResults], rows: Sequence[Row], split: str) -> tuple[str, ...]:
    """Limitations of the comparison, one sentence each."""
    notes = []
    fewest = min(len(one.seeds) for one in results)
    if fewest == 1:
        notes.append("one seed: intervals are over photographs alone and say nothing about other seeds")
    if len({one.seeds for one in results}) > 1:
        notes.append("not all configurations have the same seeds")
    half = max((row.interval[1] - row.interval[0]) / 2 for row in rows)
    if half > 0.05:
        notes.append(
            f"`{split}` has {counted(rows[0].images, 'photograph')}, so accuracies are known to within "
            f"{100 * half:.0f} points at worst: configurations may differ by as much without a significant difference"
        )
    return tuple(notes)


def ensemble(tables: Sequence[Predictions]) -> Predictions:
    """Predictions whose probabilities are the mean of those of several tables, for the same images in any order.

    Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles".
    """
    first = tables[0]
    order = np.argsort(first.ids)
    mean = np.mean([table.probabilities[np.argsort(table.ids)] for table in tables], axis=0)
    return Predictions(
        split=first.split,
        classes=first.classes,
        ids=tuple(first.ids[index] for index in order),
        labels=first.labels[order],
        logits=np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32),
        groups=tuple(first.groups[index] for index in order) if first.groups is not None else None,
    )
