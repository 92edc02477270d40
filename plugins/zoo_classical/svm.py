"""Solver of the strategy `svm`: a linear support vector machine."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import nn

from zoo.solver import Task
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo.training.temperature_scaling import fit_temperature

STRENGTHS = (1e-2, 1e-1, 1.0, 1e1, 1e2)


def solve(task: Task) -> dict[str, Any]:
    """Fit the head, with the C of the highest accuracy in five-fold cross-validation on the training images.

    Features are centred and scaled to a root-mean-square length of one for the fit; the scaling is folded into the
    weights. Margins are not probabilities, so they are scaled by a temperature fitted on the held-out images.
    """
    head = task.head
    assert isinstance(head, nn.Linear)
    mean = task.features.mean(0, dtype=np.float64)
    inputs = task.features - mean
    scale = max(float(np.sqrt((inputs**2).sum(axis=1).mean())), 1e-12)
    inputs /= scale
    folds, note = held_out_folds(task.labels, task.seed, task.groups)
    some = held_out(folds) if folds else np.arange(len(inputs))
    margins: dict[float, Any] = {}  # of images that are held out, or of the fitted ones where none can be
    for strength in STRENGTHS:
        margins[strength] = np.full((len(inputs), task.classes), np.nan)
        for fit, out in folds or [(some, some)]:
            margins[strength][out] = _margins(*_fit(inputs[fit], task.labels[fit], strength, task), inputs[out])
    right = {
        strength: float((values[some].argmax(1) == task.labels[some]).mean()) for strength, values in margins.items()
    }
    strength = max(right, key=right.__getitem__)  # the first of equal ones has the strongest penalty
    weight, bias = _fit(inputs, task.labels, strength, task)
    weight = weight / scale
    bias = bias - weight @ mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    found: dict[str, Any] = {"solver": "linear svm", "strength": strength, "folds": len(folds)}
    if folds:
        found["cross_validated_accuracy"] = round(right[strength], 6)
        found["temperature"] = fit_temperature(margins[strength][some], task.labels[some])
    if note is not None:
        found["held_out"] = len(some) if folds else 0
        how = "chosen on the others" if folds else "the strongest that classifies most of them correctly"
        found["note"] = f"{note}: the strength of the penalty is {how}"
    return found


def _fit(inputs: Any, labels: Any, strength: float, task: Task) -> tuple[Any, Any]:
    model = LinearSVC(C=strength, random_state=task.seed, dual="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # many, with one image of most
        model.fit(inputs, labels)
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if task.classes == 2:  # scikit-learn returns one row, for the second class against the first
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return weight, bias


def _margins(weight: Any, bias: Any, inputs: Any) -> Any:
    return inputs @ weight.T + bias
