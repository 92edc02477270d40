"""Metrics of single-label classification."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from zoo.evaluation.class_scores import class_scores
from zoo.evaluation.ranking import average_precisions, roc_areas
from zoo.metric import Undefined
from zoo.predictions import Predictions

# Guo et al. 2017, "On Calibration of Modern Neural Networks", use 15
CALIBRATION_BINS = 15

ONE_CLASS = "all images are of one class"


def _precision_recall_f1(predictions: Predictions, average: str) -> tuple[float, float, float]:
    """Averages over the classes that have images in this split; the precision of a class never predicted is 0."""
    found = class_scores(predictions.labels, predictions.predicted, len(predictions.classes))
    weights = found.images if average == "weighted" else (found.images > 0).astype(np.int64)
    precision, recall, f1 = (
        float(np.average(scores, weights=weights)) for scores in (found.precision, found.recall, found.f1)
    )
    return precision, recall, f1


def accuracy(predictions: Predictions) -> float:
    return float(predictions.correct.mean())


def precision_macro(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "macro")[0]


def recall_macro(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "macro")[1]


def f1_macro(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "macro")[2]


def precision_weighted(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "weighted")[0]


def recall_weighted(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "weighted")[1]


def f1_weighted(predictions: Predictions) -> float:
    return _precision_recall_f1(predictions, "weighted")[2]


def top5(predictions: Predictions) -> float:
    """Top-5 accuracy; 1.0 by definition if there are at most five classes."""
    best = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :5]
    return float((best == predictions.labels[:, None]).any(axis=1).mean())


def loss(predictions: Predictions) -> float:
    """Mean log-loss. Probabilities are at least the smallest step from 1, so that it is finite."""
    shares = predictions.probabilities[np.arange(len(predictions)), predictions.labels]
    smallest = np.finfo(shares.dtype).eps
    return float(-np.log(np.clip(shares, smallest, 1 - smallest)).mean())


def _mean_over_classes(areas: npt.NDArray[np.float64]) -> float:
    """The mean over the classes that have an area."""
    defined = areas[~np.isnan(areas)]
    if not len(defined):
        raise Undefined(ONE_CLASS)
    return float(defined.mean())


def roc_auc_macro(predictions: Predictions) -> float:
    """Area under the ROC curve (one against the others), mean over the classes that have images."""
    return _mean_over_classes(roc_areas(predictions.labels, predictions.probabilities))


def pr_auc_macro(predictions: Predictions) -> float:
    """Average precision (one against the others), mean over the classes that have images."""
    return _mean_over_classes(average_precisions(predictions.labels, predictions.probabilities))


def kappa(predictions: Predictions) -> float:
    """Cohen 1960, "A coefficient of agreement for nominal scales"."""
    true, guessed = _shares(predictions)
    if ((true == 1) & (guessed == 1)).any():
        raise Undefined(f"{ONE_CLASS}, and so are all predictions")
    expected = float(true @ guessed)
    return (accuracy(predictions) - expected) / (1 - expected)


def mcc(predictions: Predictions) -> float:
    """Matthews 1975, for several classes: Gorodkin 2004, "Comparing two K-category assignments by a K-category
    correlation coefficient". 0 where all predictions are of one class, the value of guessing.
    """
    true, guessed = _shares(predictions)
    if (true == 1).any():
        raise Undefined(ONE_CLASS)
    spread = (1 - float(true @ true)) * (1 - float(guessed @ guessed))
    return (accuracy(predictions) - float(true @ guessed)) / math.sqrt(spread) if spread > 0 else 0.0


def _shares(predictions: Predictions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The share of each class among the labels and among the predictions, `(classes,)` each."""
    size, classes = len(predictions), len(predictions.classes)
    true, guessed = predictions.labels, predictions.predicted
    return np.bincount(true, minlength=classes) / size, np.bincount(guessed, minlength=classes) / size


def ece(predictions: Predictions) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): |accuracy - confidence| per bin, weighted by its images."""
    confidence = predictions.probabilities.max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, predictions.correct, minlength=CALIBRATION_BINS)
    confident = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(right - confident)[counts > 0].sum() / counts.sum())
