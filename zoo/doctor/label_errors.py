"""Label errors: confident learning on leave-one-out scores of a kernel classifier over frozen features.

The classifier is kernel ridge regression on one-hot labels. Its prediction for an image without that image follows from
one factorisation (Allen 1974, the PRESS residual), so no fold is fitted. Images are ranked by the margin of their own
class. How many labels are wrong is estimated by confident learning (Northcutt, Jiang and Chuang 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PENALTY = (
    0.3  # chosen together with the width on both data sets of benchmarks/doctor.py; 0.1 to 0.3 and 1 to 2 are alike
)
WIDTH = 2.0  # of the kernel: the median squared distance is this many times its squared scale
EXACT = 3000  # images up to which the kernel matrix is inverted itself: two seconds
LANDMARKS = 2048  # images that span the kernel's space where there are more (Nyström's method)
ROWS = 1024  # images whose scores are computed at once

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelScores:
    """Leave-one-out scores of the labels.

    Attributes:
        margin: `(N,)`, score of the own class minus the highest other one; negative where another class is preferred.
        suggested: `(N,)`, the other class with the highest score.
        wrong: `(N,)` bool, labels that are probably wrong.
        accuracy: Share of images whose own class has the highest score.
    """

    margin: npt.NDArray[np.float64]
    suggested: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.bool_]
    accuracy: float


def prepared(features: Floats) -> Floats:
    """Features with their range compressed, of length 1 and then standardised `(N, D)`; constant ones are left out."""
    values = np.sign(features) * np.sqrt(np.abs(features))
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    spread = values.std(0)
    kept = spread > 1e-6  # less is the rounding of float32
    found: Floats = ((values[:, kept] - values[:, kept].mean(0)) / spread[kept]).astype(np.float32)
    return found


def label_scores(features: Floats, labels: npt.NDArray[np.int64], classes: int) -> LabelScores | None:
    """Score the labels of images; None where no two classes have two images, so that nothing can be said.

    Classes of one image are not scored: their images get margin 1.

    Args:
        features: `(N, D)`.
        labels: class indices `(N,)`.
        classes: number of classes.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts > 1).sum() < 2:
        return None
    values = prepared(features)
    if not values.shape[1]:
        return None
    space, exact = _space(values)
    margin, suggested = np.ones(len(labels)), np.zeros(len(labels), np.int64)
    scores = _LeaveOneOut(space, labels, counts, exact)
    temperature = _temperature(scores, labels)
    total = np.zeros(classes)
    for rows, block in scores.blocks():
        own, best, other = _split(block, labels[rows])
        margin[rows], suggested[rows] = own - best, other
        share = _softmax(block * temperature)
        total += np.bincount(labels[rows], share[np.arange(len(rows)), labels[rows]], classes)
    threshold = total / np.maximum(counts, 1)
    joint_own = np.zeros(classes)
    joint_all = np.zeros(classes)
    off = 0
    for rows, block in scores.blocks():
        share = _softmax(block * temperature)
        above = np.where((share >= threshold - 1e-9) & (counts > 1), share, -1.0)
        chosen, sure = above.argmax(1), above.max(1) > 0
        right = sure & (chosen == labels[rows])
        joint_own += np.bincount(labels[rows][right], minlength=classes)
        joint_all += np.bincount(labels[rows][sure], minlength=classes)
        off += int((sure & ~right).sum())
    single = counts[labels] < 2
    margin[single] = 1.0
    # The count of those that are confidently of another class leaves out images that are confidently of none; scaled to
    # all images, it takes these to be as often wrong. The truth lies between
    share_right = joint_own / np.maximum(joint_all, 1)
    scaled = float(np.where((joint_all > 0) & (counts > 1), counts * (1 - share_right), 0).sum())
    number = min(round((off + scaled) / 2), int((margin < 0).sum()))
    wrong = np.zeros(len(labels), bool)
    wrong[np.argsort(margin, kind="stable")[:number]] = True
    return LabelScores(margin, suggested, wrong, float((margin[~single] > 0).mean()))


def _space(values: Floats) -> tuple[npt.NDArray[Any], bool]:
    """The kernel matrix `(N, N)`, and True; or, for many images, features `(N, M)` that approximate it, and False."""
    squares = (values * values).sum(1)
    if len(values) <= EXACT:
        distances = np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0)
        middle = float(np.median(distances)) or 1.0
        return np.exp(-WIDTH / middle * distances).astype(np.float64), True
    chosen = np.random.default_rng(0).choice(len(values), LANDMARKS, replace=False)
    marks, sizes = values[chosen], squares[chosen]
    among = np.maximum(sizes[:, None] + sizes - 2 * marks @ marks.T, 0)
    middle = float(np.median(among)) or 1.0
    weights, vectors = np.linalg.eigh(np.exp(-WIDTH / middle * among).astype(np.float64))
    kept = weights > 1e-6
    whiten = (vectors[:, kept] / np.sqrt(weights[kept])).astype(np.float32)
    space = np.empty((len(values), int(kept.sum())), np.float32)
    for start in range(0, len(values), ROWS):
        part = slice(start, start + ROWS)
        distances = np.maximum(squares[part, None] + sizes - 2 * values[part] @ marks.T, 0)
        space[part] = np.exp(-WIDTH / middle * distances) @ whiten
    return space, False


class _LeaveOneOut:
    """Leave-one-out predictions `(N, classes)`, computed block by block: all at once may not fit into memory."""

    def __init__(
        self, space: npt.NDArray[Any], labels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], exact: bool
    ) -> None:
        self.labels, self.exact = labels, exact
        self.mean = counts / len(labels)
        if exact:
            self.inverse = np.linalg.inv(space + PENALTY * np.eye(len(space)))
            self.sums = self._by_class(self.inverse)
            self.rest = self.inverse.sum(1)
            self.diagonal = self.inverse.diagonal()
            return
        self.space = space
        gram = (space.T @ space).astype(np.float64) + PENALTY * np.eye(space.shape[1])
        self.inverse = np.linalg.inv(gram).astype(np.float32)
        sums = np.zeros((space.shape[1], len(counts)))
        np.add.at(sums.T, labels, space)
        self.weights = self.inverse @ (sums - space.sum(0)[:, None] * self.mean)

    def _by_class(self, matrix: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Sums of a matrix's columns by class `(N, classes)`."""
        sums = np.zeros((len(self.mean), len(matrix)))
        order = np.argsort(self.labels, kind="stable")
        present, starts = np.unique(self.labels[order], return_index=True)
        sums[present] = np.add.reduceat(matrix[order], starts, axis=0)  # the matrix is symmetric
        return sums.T

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Indices and predictions of images, block by block."""
        count = len(self.labels)
        for start in range(0, count, ROWS):
            rows = np.arange(start, min(start + ROWS, count))
            target = -np.tile(self.mean, (len(rows), 1))
            target[np.arange(len(rows)), self.labels[rows]] += 1
            if self.exact:
                dual = self.sums[rows] - self.rest[rows, None] * self.mean
                residual = dual / self.diagonal[rows, None]
            else:
                part = self.space[rows]
                leverage = ((part @ self.inverse) * part).sum(1)
                residual = (target - part @ self.weights) / np.maximum(1 - leverage, 1e-3)[:, None]
            yield rows, target - residual + self.mean


def _split(
    block: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Score of the own class, the highest other score, and whose it is."""
    every = np.arange(len(block))
    own = block[every, labels].copy()
    others = block.copy()
    others[every, labels] = -np.inf
    other = others.argmax(1)
    return own, others[every, other], other


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = np.exp(values - values.max(1, keepdims=True))
    found: npt.NDArray[np.float64] = values / values.sum(1, keepdims=True)
    return found


def _temperature(scores: _LeaveOneOut, labels: npt.NDArray[np.int64]) -> float:
    """The factor with which the softmax of the scores has the lowest log-loss, on the first block of a random order."""
    from scipy.optimize import minimize_scalar

    rows, block = next(iter(scores.blocks())) if len(labels) <= ROWS else _spread(scores, len(labels))

    def loss(exponent: float) -> float:
        share = _softmax(block * np.exp(exponent))[np.arange(len(rows)), labels[rows]]
        return float(-np.log(np.maximum(share, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(0, 6), method="bounded").x))


def _spread(scores: _LeaveOneOut, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Every so-many-th image and its scores, about `ROWS` of them."""
    step = -(-count // ROWS)
    picked = [(rows[rows % step == 0], block[rows % step == 0]) for rows, block in scores.blocks()]
    return np.concatenate([rows for rows, _ in picked]), np.concatenate([block for _, block in picked])
