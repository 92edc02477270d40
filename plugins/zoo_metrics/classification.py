"""Metrics of single-label classification."""

from __future__ import annotations

import numpy as np

from zoo.evaluation.class_scores import class_scores
from zoo.predictions import Predictions

# Guo et al. 2017, "On Calibration of Modern Neural Networks", use 15
CALIBRATION_BINS = 15


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


def ece(predictions: Predictions) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): |accuracy - confidence| per bin, weighted by its images."""
    confidence = predictions.probabilities.max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, predictions.correct, minlength=CALIBRATION_BINS)
    confident = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(right - confident)[counts > 0].sum() / counts.sum())
