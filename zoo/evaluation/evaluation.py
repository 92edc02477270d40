"""An evaluation: predictions of a model on one split, and the metrics that are computed from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import BadFile
from zoo.data.grey_levels import Levels
from zoo.errors import PluginWarning, ZooError, type_and_first_line
from zoo.evaluation.class_scores import class_scores
from zoo.evaluation.costs import Costs
from zoo.evaluation.operating_point import OperatingPoint
from zoo.evaluation.ranking import average_precisions, class_log_losses, roc_areas
from zoo.evaluation.statistics import accuracy_interval
from zoo.evaluation.unknown_images import UnknownImages
from zoo.metric import Undefined
from zoo.predictions import Predictions
from zoo.storage.files import SCHEMA
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one model on one split, with the predictions that they were computed from.

    Attributes:
        model: the run's folder, or the exported file.
        data: name of the data.
        metrics: by name; None where a metric is undefined, not finite or failed.
        undefined: the reason for each metric that is undefined on these images.
        split_seed: with which the data were split.
        fitted: number of the images that the model, or a run that it comes from, was fitted on, by their contents;
            None: unknown, because there is no run, or its `splits.json` is missing.
        changed: number of images with an id of the run, and another content than when it was trained.
        levels: grey levels that became black and white, in images of more than 8 bits; None: those of their type.
        bad: files that could not be decoded, or are no images.
        notes: what was decided when the data were opened.
        doubtful: images that are scored though something is wrong with them.
        unknown: figures of images of no class; None: none were given.
        points: the operating points that were asked for.
        costs: mean costs by a matrix of costs; None: none was given.
    """

    model: str
    data: str
    device: str
    predictions: Predictions
    metrics: dict[str, float | None]
    undefined: Mapping[str, str] = field(default_factory=dict)
    split_seed: int = 0
    fitted: int | None = None
    changed: int = 0
    excluded: Mapping[str, Any] | None = None
    levels: Levels | None = None
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    doubtful: tuple[BadFile, ...] = ()
    unknown: UnknownImages | None = None
    points: tuple[OperatingPoint, ...] = ()
    costs: Costs | None = None

    def per_class(self) -> list[dict[str, Any]]:
        """Precision, recall, F1, areas under the curves, log-loss and number of images of every class.

        An area is None for a class without images, and for one that all images are of; so is the log-loss for a class
        without images.
        """
        table = self.predictions
        ranked = {
            "roc_auc": roc_areas(table.labels, table.probabilities),
            "pr_auc": average_precisions(table.labels, table.probabilities),
            "log_loss": class_log_losses(table.labels, table.probabilities),
        }
        found = class_scores(table.labels, table.predicted, len(table.classes))
        return [
            {
                "class": name,
                "precision": float(found.precision[index]),
                "recall": float(found.recall[index]),
                "f1": float(found.f1[index]),
                **{key: None if np.isnan(of[index]) else float(of[index]) for key, of in ranked.items()},
                "images": int(found.images[index]),
            }
            for index, name in enumerate(table.classes)
        ]

    def confusion(self) -> npt.NDArray[np.int64]:
        """The confusion matrix `(classes, classes)`: images by true class (rows) and predicted class (columns)."""
        size = len(self.predictions.classes)
        counts: npt.NDArray[np.int64] = np.zeros((size, size), np.int64)
        np.add.at(counts, (self.predictions.labels, self.predictions.predicted), 1)
        return counts

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy, by Wilson's method; over groups, where the images have any."""
        return accuracy_interval(self.predictions)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "data": self.data,
            "split": self.predictions.split,
            "split_seed": self.split_seed,
            "fitted_on": self.fitted,
            "exclude": self.excluded,
            "device": self.device,
            "images": len(self.predictions),
            "levels": None if self.levels is None else list(self.levels),
            "metrics": self.metrics,
            "undefined": dict(self.undefined),
            "accuracy_interval_95": list(self.interval()),
            "per_class": self.per_class(),
            "classes": list(self.predictions.classes),
            "confusion": self.confusion().tolist(),
            "bad_images": [{"path": file.id, "reason": file.reason} for file in self.bad],
            "doubtful_images": [{"path": file.id, "reason": file.reason} for file in self.doubtful],
            "notes": list(self.notes),
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
            **({"operating_points": [point.to_json() for point in self.points]} if self.points else {}),
            **({} if self.costs is None else {"costs": self.costs.to_json()}),
        }


def compute_metrics(predictions: Predictions, plugins: Plugins) -> dict[str, float | None]:
    """Every registered metric, see `defined_metrics`; None where one is undefined or failed."""
    return defined_metrics(predictions, plugins)[0]


def defined_metrics(predictions: Predictions, plugins: Plugins) -> tuple[dict[str, float | None], dict[str, str]]:
    """Compute every registered metric; returns values by name, and the reasons for those that are undefined.

    The name is `provider/name` where providers share a name. A metric that raises, or is not finite, is None and gives
    a `PluginWarning`, so that it cannot end a training run.

    Raises:
        ZooError: the same, where plugins are loaded strictly (`ZOO_STRICT_PLUGINS`).
    """
    catalogue = plugins.metrics
    found: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    for entry in catalogue:
        name = entry.name if catalogue.find(entry.name) is entry else entry.qualified
        try:
            value = float(load_target(entry.value.compute)(predictions))
            reason = "" if math.isfinite(value) else f"it gave {value}"
        except KeyboardInterrupt:
            raise
        except Undefined as error:
            found[name], undefined[name] = None, " ".join(str(error).split()) or "it has no value"
            continue
        except BaseException as error:  # a plugin may raise anything
            reason = type_and_first_line(error)
        if reason:
            told = f"plugin `{entry.provider}`: metric `{name}` failed: {reason}"
            if plugins.strict:
                raise ZooError(told)
            warnings.warn(told, PluginWarning, stacklevel=2)
        found[name] = None if reason else value
    return found, undefined
