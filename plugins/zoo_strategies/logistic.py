"""Solver of the strategy `linear`: logistic regression. Also a head with a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.networks.head import features_width, replace_head, start_layer
from zoo.solver import Task
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo.training.temperature_scaling import fit_temperature
from zoo_strategies.softmax_fit import Floats, SoftmaxFits, Standardisation, one_thread

Indices = npt.NDArray[np.int64]

# Inverse strengths of the L2 penalty on standardised features, as scikit-learn's C. The best one was between 1e-3 and
# 1e-1 on every data set that was tried
STRENGTHS = tuple(float(value) for value in np.logspace(-4, 0, 9))

# How far fits end from their minimum, relative to it: in cross-validation and at last. Where an iteration is cheap both
# are `SMALL`. The loss of the chosen strength is then within 1 % of the lowest (benchmarks/results/solve.md)
SEARCH, LAST, SMALL = 3e-4, 1e-5, 1e-6
CHEAP = 2e7  # multiplications of inputs by weights in one iteration

# Held-out images that are enough to choose a penalty. Of more images only as many folds are fitted as hold out these
ENOUGH_HELD_OUT = 5_000


def solve(task: Task) -> dict[str, Any]:
    """Fit a linear head, with the penalty of the lowest log-loss in cross-validation on the training images.

    Classes of one image are never held out. Where nothing can be held out, the strongest penalty is taken with which
    most training images are classified correctly.

    Features are standardised for the fit. The standardisation is folded into the weights, so that the head stays one
    linear layer.
    """
    head = task.head
    assert isinstance(head, nn.Linear)
    folds, note = held_out_folds(task.labels, task.seed, task.groups)
    folds = _enough(folds)
    scale = Standardisation.of(task.features)
    fits = _Fits(task, scale)
    search = _cross_validate(fits, folds) if folds else None
    strength = search.strength if search is not None else _strongest(fits)
    weight, bias = fits.head(strength, None if search is None else search.weights)
    weight /= scale.deviation
    with one_thread():
        bias -= weight @ scale.mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(bias))
    some = held_out(folds)
    found: dict[str, Any] = {"solver": "lbfgs", "strength": strength, "folds": len(folds)}
    if search is not None:
        found["cross_validated_loss"] = round(search.losses[strength], 6)
        found["temperature"] = fit_temperature(search.logits, task.labels[some])
    if len(some) < len(task.labels):
        found["held_out"] = len(some)
    if note is not None:
        how = "chosen on the others" if search is not None else "the strongest that classifies most of them correctly"
        found["note"] = f"{note}: the strength of the penalty is {how}"
    return found


def _enough(folds: list[tuple[Indices, Indices]]) -> list[tuple[Indices, Indices]]:
    """The first folds, as many as hold out enough images."""
    counts = np.cumsum([len(held) for _, held in folds])
    return folds[: int(np.searchsorted(counts, ENOUGH_HELD_OUT)) + 1]


class _Fits:
    """Fits on subsets of the training images, by the strength of the penalty.

    Where there are fewer images than features, `(N, D)` features are reduced to `(N, N)`: the weights of a penalised
    fit lie in the span of the inputs, and an orthonormal basis preserves lengths. So the solution is the same (Hastie
    and Tibshirani 2004, "Efficient quadratic regularization", section 3).
    """

    def __init__(self, task: Task, scale: Standardisation) -> None:
        self.labels, self.classes, self._threads = task.labels, task.classes, torch.get_num_threads()
        self._inputs, self._basis = task.features, None
        self._scale: Standardisation | None = scale
        if len(task.features) < task.features.shape[1]:
            with one_thread():
                self._basis, narrow = np.linalg.qr(scale.apply(task.features).T)
            self._inputs, self._scale = np.ascontiguousarray(narrow.T), None

    def on(self, subsets: npt.NDArray[np.bool_]) -> SoftmaxFits:
        """Fits on subsets `(subsets, N)`."""
        return SoftmaxFits(
            self._inputs, self.labels, subsets, classes=self.classes, scale=self._scale, threads=self._threads
        )

    def penalty(self, strength: float) -> float:
        """The factor of the squared weights for scikit-learn's C, which fits one vector for two classes, not two."""
        return (2 if self.classes == 2 else 1) / strength

    def tolerance(self, subsets: int, usual: float) -> float:
        """How far from the minimum fits on so many subsets end."""
        return SMALL if self._inputs.size * subsets * self.classes <= CHEAP else usual

    def on_all(self) -> SoftmaxFits:
        return self.on(np.ones((1, len(self.labels)), dtype=np.bool_))

    def head(self, strength: float, start: Floats | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weights `(classes, D)` and intercepts `(classes,)` for standardised features, fitted on all images."""
        with self.on_all() as fits:
            if start is not None:
                fits.weights[0] = start
            fits.fit(self.penalty(strength), self.tolerance(1, LAST))
            found = fits.weights[0].astype(np.float64)
            weight = found[:-1] if self._basis is None else self._basis @ found[:-1]
        return np.ascontiguousarray(weight.T), found[-1] - found[-1].mean()


@dataclass(frozen=True)
class _Search:
    """Result of a cross-validation.

    Attributes:
        losses: Log-loss of the images held out, by strength.
        strength: The one with the lowest loss.
        logits: `(held out, classes)`, with that strength, of all images that are held out, in order.
        weights: `(M + 1, classes)`, the mean of the folds' weights with that strength.
    """

    losses: dict[float, float]
    strength: float
    logits: npt.NDArray[np.float64]
    weights: Floats


def _cross_validate(fits: _Fits, folds: list[tuple[Indices, Indices]]) -> _Search:
    """Try strengths from the middle one to weaker penalties, then to stronger ones.

    Each way ends at a loss above the lowest: losses fall and then rise, and the weakest penalties, which are seldom the
    best, take most of the time.
    """
    subsets = np.ones((len(folds), len(fits.labels)), dtype=np.bool_)
    for number, (_, held) in enumerate(folds):
        subsets[number, held] = False
    some = held_out(folds)
    losses: dict[float, float] = {}
    best: _Search | None = None
    middle = len(STRENGTHS) // 2
    with fits.on(subsets) as folded:
        began = None
        for way in (STRENGTHS[middle:], STRENGTHS[:middle][::-1]):
            if began is not None:
                folded.weights = began
            for strength in way:
                folded.fit(fits.penalty(strength), fits.tolerance(len(folds), SEARCH))
                logits = np.concatenate([folded.logits(held, number) for number, (_, held) in enumerate(folds)])
                logits = logits[np.argsort(np.concatenate([held for _, held in folds]))]
                losses[strength] = _log_loss(logits, fits.labels[some])
                if losses[strength] == min(losses.values()):
                    best = _Search(losses, strength, logits, folded.weights.mean(0))
                if began is None:
                    began = folded.weights.copy()
                if losses[strength] > min(losses.values()):
                    break
    assert best is not None
    return best


def _log_loss(logits: npt.NDArray[np.float64], labels: Indices) -> float:
    highest = logits.max(1)
    totals = np.log(np.exp(logits - highest[:, None]).sum(1)) + highest
    return float((totals - logits[np.arange(len(labels)), labels]).mean())


def _strongest(fits: _Fits) -> float:
    """The strongest penalty with which most training images are classified correctly."""
    every = np.arange(len(fits.labels))
    right: dict[float, float] = {}
    with fits.on_all() as fit:
        for strength in STRENGTHS:
            fit.fit(fits.penalty(strength), fits.tolerance(1, LAST))
            right[strength] = float((fit.logits(every, 0).argmax(1) == fits.labels).mean())
    return max(right, key=right.__getitem__)


def adapt(network: Network, classes: int, width: int, dropout: float) -> Network:
    """Replace the head by one with a hidden layer of `width` units."""
    last = nn.Linear(width, classes)
    start_layer(last)
    head = nn.Sequential(nn.Linear(features_width(network), width), nn.GELU(), nn.Dropout(dropout), last)
    return replace_head(network, head)
