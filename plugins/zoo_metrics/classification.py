"""Metrics of single-label classification, by scikit-learn where it has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import log_loss, precision_recall_fscore_support

from zoo.predictions import Predictions

# Guo et al. 2017, "On Calibration of Modern Neural Networks", use 15
CALIBRATION_BINS = 15


def _precision_recall_f1(predictions: Predictions, average: str) -> tuple[float, float, float]:
    """Averages over the classes that have images in this split; the precision of a class never predicted is 0."""
    present = np.unique(predictions.labels)
    found: Any = precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=present, average=average, zero_division=0.0
    )
    return float(found[0]), float(found[1]), float(found[2])


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
    return float(log_loss(predictions.labels, predictions.probabilities, labels=range(len(predictions.classes))))


def ece(predictions: Predictions) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): |accuracy - confidence| per bin, weighted by its images."""
    confidence = predictions.probabilities.max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, predictions.correct, minlength=CALIBRATION_BINS)
    confident = np.bincount(bins, confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(right - confident)[counts > 0].sum() / counts.sum())
