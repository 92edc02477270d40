"""Solver of the strategy `linear`: logistic regression. Also a head with a hidden layer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import features_width, replace_head, start_layer
from zoo.solver import Task
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo.training.temperature_scaling import fit_temperature

# Values of scikit-learn's C, the inverse strength of the L2 penalty on standardised features. The best one was between
# 1e-3 and 1e-1 on every data set that was tried
STRENGTHS = tuple(float(value) for value in np.logspace(-4, 0, 9))
RISES = 2
MOST_ITERATIONS = 200


def solve(task: Task) -> dict[str, Any]:
    """Fit a linear head by L-BFGS, with the penalty of the lowest log-loss in cross-validation on the training images.

    Classes of one image are never held out. Where nothing can be held out, the strongest penalty is taken with which
    most training images are classified correctly.

    Features are standardised for the fit. The standardisation is folded into the weights, so that the head stays one
    linear layer.
    """
    head = task.head
    assert isinstance(head, nn.Linear)
    mean, spread = task.features.mean(0), task.features.std(0)
    spread[spread == 0] = 1.0  # a constant feature carries no information
    standard = ((task.features - mean) / spread).astype(np.float64)
    folds, note = held_out_folds(task.labels, task.seed, task.groups)
    losses: dict[float, float] = {}
    held: dict[float, Any] = {}
    # One thread: on such small matrices the synchronisation of threads costs more than they gain. With two threads on
    # two cores, one of them busy, the fit took 5.6 s instead of 0.2 s
    with threadpool_limits(1, user_api="blas"):
        inputs, basis = _narrow(standard)
        if folds:
            losses, held = _cross_validate(inputs, task, folds)
        strength = min(losses, key=losses.__getitem__) if losses else _strongest(inputs, task.labels)
        model = _fit(inputs, task.labels, strength)
        weight, bias = model.coef_ @ basis.T, model.intercept_
    if task.classes == 2:  # scikit-learn returns one row, for the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    bias = bias - weight @ mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(bias))
    some = held_out(folds)
    found: dict[str, Any] = {"solver": "lbfgs", "strength": strength, "folds": len(folds)}
    if losses:
        found["cross_validated_loss"] = round(losses[strength], 6)
        found["temperature"] = fit_temperature(held[strength][some], task.labels[some])
    if note is not None:
        found["held_out"] = len(some)
        how = "chosen on the others" if losses else "the strongest that classifies most of them correctly"
        found["note"] = f"{note}: the strength of the penalty is {how}"
    return found


def _strongest(inputs: Any, labels: Any) -> float:
    """The strongest penalty with which most training images are classified correctly."""
    right = {
        strength: float((_fit(inputs, labels, strength).predict(inputs) == labels).mean()) for strength in STRENGTHS
    }
    return max(right, key=right.__getitem__)


def _narrow(inputs: Any) -> tuple[Any, Any]:
    """Reduce inputs `(N, D)` to `(N, M)` with M = min(N, D); also return the basis `(D, M)` that maps weights back.

    The weights of a penalised fit lie in the span of the inputs, and an orthonormal basis preserves lengths. So the
    solution is the same (Hastie and Tibshirani 2004, "Efficient quadratic regularization", section 3).
    """
    if len(inputs) >= inputs.shape[1]:
        return inputs, np.eye(inputs.shape[1])
    basis, narrow = np.linalg.qr(inputs.T)
    return np.ascontiguousarray(narrow.T), basis


def _cross_validate(inputs: Any, task: Task, folds: list[Any]) -> tuple[dict[float, float], dict[float, Any]]:
    """Log-loss and held-out logits `(N, classes)` by C, from the strongest penalty to the weakest.

    Logits of images that are in no fold are NaN.

    Stops after `RISES` values of C in a row with a loss above the lowest: losses fall and then rise, and the weakest
    penalties, which are seldom the best, take most of the time.
    """
    losses: dict[float, float] = {}
    logits: dict[float, Any] = {}
    every = np.arange(task.classes)
    count = sum(len(held) for _, held in folds)
    starts: list[LogisticRegression | None] = [None] * len(folds)
    for strength in STRENGTHS:
        loss = 0.0
        logits[strength] = np.full((len(inputs), task.classes), np.nan)
        for number, (fit, held) in enumerate(folds):
            model = starts[number] = _fit(inputs[fit], task.labels[fit], strength, starts[number])
            share = model.predict_proba(inputs[held])
            logits[strength][held] = np.log(np.maximum(share, np.finfo(share.dtype).tiny))
            loss += log_loss(task.labels[held], share, labels=every) * len(held) / count
        losses[strength] = loss
        if min(list(losses.values())[-RISES:]) > min(losses.values()):
            break
    return losses, logits


def _fit(inputs: Any, labels: Any, strength: float, start: LogisticRegression | None = None) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS, warm_start=start is not None)
    if start is not None:
        model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
    with warnings.catch_warnings():
        # With a weak penalty and separable classes the weights grow without end. Such a fit is not chosen
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # many, with one image of most
        return model.fit(inputs, labels)


def adapt(network: Network, classes: int, width: int, dropout: float) -> Network:
    """Replace the head by one with a hidden layer of `width` units."""
    last = nn.Linear(width, classes)
    start_layer(last)
    head = nn.Sequential(nn.Linear(features_width(network), width), nn.GELU(), nn.Dropout(dropout), last)
    return replace_head(network, head)
