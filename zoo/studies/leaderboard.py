"""Leaderboard: the ways to train of a study side by side, those that cannot be told apart, and the cheapest of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.evaluation.significance import Comparison, compare_configurations
from zoo.evaluation.statistics import bootstrap_interval, correct
from zoo.predictions import Predictions
from zoo.studies.deployment_cost import DeploymentCost

ENSEMBLE = "ensemble of the winners"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to train: its figures on the split that is chosen on, averaged over seeds, and what it costs."""

    way: str
    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    images: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, over images and, with several seeds, over seeds
    precision: float | None
    recall: float | None
    f1: float | None
    winner: bool
    cheapest: bool
    latency: tuple[float, float, float] | None  # seconds, with interval
    size: int | None
    license: str
    seconds: float  # of training, the mean of the seeds
    core_seconds: float
    test: dict[str, Any] | None = None  # accuracy and interval on the locked split, of winners


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Rows from best to worst on the split that is chosen on; `comparison` holds every pair."""

    split: str
    rows: tuple[Row, ...]
    comparison: Comparison
    notes: tuple[str, ...] = ()

    @property
    def winners(self) -> tuple[str, ...]:
        return tuple(row.way for row in self.rows if row.winner)

    @property
    def cheapest(self) -> str | None:
        return next((row.way for row in self.rows if row.cheapest), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "winners": list(self.winners),
            "cheapest": self.cheapest,
            "rows": [asdict(row) for row in self.rows],
            "comparison": self.comparison.to_json(),
            "notes": list(self.notes),
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
    """The content of `leaderboard.json`, which can be had as a table."""

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
    """A way to train before it is compared: a table of predictions, metrics and times for each seed."""

    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    tables: tuple[Predictions, ...]
    metrics: tuple[Mapping[str, float | None], ...]
    seconds: tuple[float, ...]
    core_seconds: tuple[float, ...]
    trained: int  # parameters that train, at most at once
    cost: DeploymentCost

    @property
    def way(self) -> str:
        return f"{self.backbone} {self.strategy}"


def rank(entries: Sequence[ConfigurationResults]) -> Leaderboard:
    """Compare ways to train that were scored on the same photographs.

    The winners are those that cannot be told apart from the best; the cheapest of them is the one with the least
    latency, and among those of one network, the one that trains the fewest parameters: seconds of training differ from
    time to time.
    """
    tables = {entry.way: correct(entry.tables) for entry in entries}
    comparison = compare_configurations(tables)
    by_way = {entry.way: entry for entry in entries}
    winners = [by_way[way] for way in comparison.winners]
    cheapest = min(winners, key=_price).way if winners else None
    rows = []
    for way, accuracy in comparison.accuracies.items():
        entry = by_way[way]
        low, high = bootstrap_interval(tables[way])
        rows.append(
            Row(
                way=way,
                backbone=entry.backbone,
                strategy=entry.strategy,
                seeds=entry.seeds,
                images=tables[way].shape[1],
                accuracy=accuracy,
                interval=(low, high),
                precision=_mean(entry.metrics, "precision_macro"),
                recall=_mean(entry.metrics, "recall_macro"),
                f1=_mean(entry.metrics, "f1_macro"),
                winner=way in comparison.winners,
                cheapest=way == cheapest,
                latency=entry.cost.latency,
                size=entry.cost.size,
                license=entry.cost.license,
                seconds=round(float(np.mean(entry.seconds)), 2),
                core_seconds=round(float(np.mean(entry.core_seconds)), 2),
            )
        )
    split = entries[0].tables[0].split
    return Leaderboard(split=split, rows=tuple(rows), comparison=comparison, notes=_notes(entries, rows, split))


def _price(entry: ConfigurationResults) -> tuple[float, int, str]:
    latency = entry.cost.latency
    return (latency[0] if latency else np.inf, entry.trained, entry.strategy)


def _mean(metrics: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    values = [one.get(name) for one in metrics]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _notes(entries: Sequence[ConfigurationResults], rows: Sequence[Row], split: str) -> tuple[str, ...]:
    notes = []
    fewest = min(len(entry.seeds) for entry in entries)
    if fewest == 1:
        notes.append("one seed: intervals are over photographs alone, and say nothing about another seed")
    if len({entry.seeds for entry in entries}) > 1:
        notes.append("not every way to train has the same seeds")
    half = max((row.interval[1] - row.interval[0]) / 2 for row in rows)
    if half > 0.05:
        notes.append(
            f"`{split}` has {rows[0].images} photographs, so an accuracy is known to {100 * half:.0f} points at worst: "
            "what cannot be told apart here may differ by as much"
        )
    return tuple(notes)


def ensemble(tables: Sequence[Predictions]) -> Predictions:
    """One table whose probabilities are the mean of several, of the same photographs.

    Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation using deep ensembles".
    """
    first = tables[0]
    order = np.argsort(first.ids)
    mean = np.mean([table.probabilities[np.argsort(table.ids)] for table in tables], axis=0)
    return Predictions(
        split=first.split,
        classes=first.classes,
        ids=tuple(first.ids[place] for place in order),
        labels=first.labels[order],
        logits=np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32),
    )
