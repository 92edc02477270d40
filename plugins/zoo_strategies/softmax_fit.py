"""Penalised logistic regression with several classes, fitted on several subsets of the same images at once.

The subsets are the folds of a cross-validation. Their weights are columns of one matrix, so that an iteration
multiplies the inputs with all of them together.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

Floats = npt.NDArray[np.float32]

MOST_ITERATIONS = 200
MOST_TRIALS = 15  # step lengths tried in one iteration
LEAST_DECREASE = 1e-4  # of the decrease that the slope promises (Nocedal and Wright 2006, section 3.1)
ROUNDING = 3e-7  # relative error of a loss computed in float32
LEAST_DEVIATION = 1e-35  # of a feature: a weight divided by less is infinite in float32
BLOCK = 512  # images that one thread multiplies at a time. The results depend on it, so it is the same everywhere
MOST_KEPT = 2**30  # bytes of standardised inputs in memory; where they need more, each use standardises them again
MOST_HISTORY, LEAST_HISTORY = 8, 3
HISTORY_NUMBERS = 64_000_000  # numbers in all histories together
MOST_PRECONDITIONED = 8_192  # columns; with more, the matrix of the preconditioner takes too much memory
MOST_SAMPLED = 20_000  # images that the preconditioner is computed from


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation `(M,)` of features.

    That of a constant feature, which tells nothing, is set to 1, or to its mean where that is more.
    """

    mean: Floats
    deviation: Floats

    @staticmethod
    def of(features: Floats) -> Standardisation:
        """That of features `(N, M)`, read in blocks and summed in float64."""
        rows = blocks_of_rows(len(features))
        mean = sum(features[some].sum(0, dtype=np.float64) for some in rows) / len(features)
        squares = sum(np.square(features[some] - mean).sum(0) for some in rows) / len(features)
        deviation = np.sqrt(squares).astype(np.float32)
        size = np.abs(mean)
        constant = (deviation <= 1e-6 * size) | (deviation < LEAST_DEVIATION)  # a mean of equal numbers may be rounded
        return Standardisation(
            mean.astype(np.float32), np.where(constant, np.maximum(size, 1), deviation).astype(np.float32)
        )

    def apply(self, features: Floats) -> Floats:
        """Features `(N, M)` with mean 0 and deviation 1."""
        found: Floats = features - self.mean
        found /= self.deviation
        return found


def one_thread() -> Any:
    """A context in which libraries for linear algebra use one thread."""
    import scipy.linalg.blas  # noqa: F401 - it brings a library of its own, which is limited only once it is loaded

    return threadpool_limits(1, user_api="blas")


def blocks_of_rows(count: int) -> list[slice]:
    """An even number of blocks of at most `BLOCK` rows, or one for each row where there are fewer than two."""
    ends = np.linspace(0, count, 2 * math.ceil(count / BLOCK / 2) + 1).astype(int)
    return [slice(int(start), int(end)) for start, end in itertools.pairwise(ends) if end > start]


@dataclass(frozen=True)
class _Sums:
    """What a block of images adds to the losses of the subsets and to their gradients."""

    losses: npt.NDArray[np.float64]
    gradient: Floats
    curvature: Floats


class SoftmaxFits:
    """Fits of penalised logistic regression on subsets of the same images, at one penalty after the other.

    The objective of a subset is the sum of its images' log-losses plus `penalty / 2` times the sum of squared weights.
    The intercept is not penalised. It is minimised by L-BFGS (Nocedal and Wright 2006, algorithm 7.4), preconditioned
    by the inverse of the Hessian's mean over classes and subsets. Every fit starts from the one before.

    Inputs are multiplied in float32, in blocks of a fixed size. So the results are the same with any number of threads.
    Threads of our own wait without using a processor, unlike those of the libraries for linear algebra, which made a
    fit 30 times as slow where another process was busy.

    Use as a context manager, which ends its threads.

    Attributes:
        weights: `(subsets, M + 1, classes)`; the last row are the intercepts.
    """

    def __init__(
        self,
        inputs: Floats,
        labels: npt.NDArray[np.int64],
        subsets: npt.NDArray[np.bool_],
        *,
        classes: int,
        scale: Standardisation | None = None,
        threads: int = 1,
    ) -> None:
        """Prepare the fits.

        Args:
            inputs: `(N, M)`. May be a memory map: it is read in blocks.
            labels: `(N,)`, class indices.
            subsets: `(subsets, N)`, whether an image is in a subset.
            classes: Number of classes.
            scale: How inputs are standardised. None: they are already.
            threads: Threads to compute with.
        """
        self._inputs, self._scale, self._labels, self._subsets = inputs, scale, labels, subsets
        self._rows = blocks_of_rows(len(inputs))
        self._kept = [self._read(rows) for rows in self._rows] if 4 * inputs.size <= MOST_KEPT else None
        counts = np.array([np.bincount(labels[inside], minlength=classes) for inside in subsets], dtype=np.float64)
        self.weights = np.zeros((len(subsets), inputs.shape[1] + 1, classes), dtype=np.float32)
        self.weights[:, -1] = np.log(np.maximum(counts, 0.5) / counts.sum(1, keepdims=True))
        self._threads = ThreadPoolExecutor(min(threads, len(self._rows)))
        self._limits = one_thread()  # last: who is told of an error above has nothing to end

    def __enter__(self) -> SoftmaxFits:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._threads.shutdown()
        finally:  # also where it is interrupted
            self._limits.restore_original_limits()

    def _read(self, rows: slice) -> Floats:
        if self._scale is None:
            return np.ascontiguousarray(self._inputs[rows], dtype=np.float32)
        return self._scale.apply(self._inputs[rows])

    def _block(self, number: int) -> Floats:
        return self._kept[number] if self._kept is not None else self._read(self._rows[number])

    def fit(self, penalty: float, tolerance: float) -> None:
        """Minimise the objectives with `penalty`, until each is within about `tolerance` of its minimum.

        The distance is estimated by the slope along the step, relative to the objective. The fit also ends after
        `MOST_ITERATIONS`, or where a shorter step no longer helps in float32.
        """
        going = np.arange(len(self.weights))
        values, slopes, curvature = self._objective(self.weights, going, penalty)
        condition = self._preconditioner(curvature, penalty)
        size = int(np.clip(HISTORY_NUMBERS // (2 * self.weights.size), LEAST_HISTORY, MOST_HISTORY))
        histories = [_History(size) for _ in going]
        for _ in range(MOST_ITERATIONS):
            steps = _directions(slopes[going], [histories[number] for number in going], condition)
            promised = np.array([np.vdot(step, slopes[number]) for number, step in zip(going, steps)], dtype=np.float64)
            left = -promised / 2 > tolerance * np.abs(values[going])
            going, steps, promised = going[left], steps[left], promised[left]
            if not len(going):
                return
            found, new_values, new_slopes = self._search(going, steps, promised, values, penalty)
            moved = np.flatnonzero(~np.isnan(new_values))
            for place in moved:
                number = going[place]
                histories[number].add(found[place] - self.weights[number], new_slopes[place] - slopes[number])
                self.weights[number] = found[place]
                values[number], slopes[number] = new_values[place], new_slopes[place]
            going = going[moved]

    def logits(self, rows: npt.NDArray[np.int64], subset: int) -> npt.NDArray[np.float64]:
        """Logits `(len(rows), classes)` of images by the fit on a subset."""
        weights = self.weights[subset].astype(np.float64)
        found = np.empty((len(rows), weights.shape[1]))
        for number, place in enumerate(self._rows):
            ours = (rows >= place.start) & (rows < place.stop)
            if ours.any():
                found[ours] = self._block(number)[rows[ours] - place.start] @ weights[:-1] + weights[-1]
        return found

    def _search(
        self, going: npt.NDArray[np.int64], steps: Floats, promised: Any, values: Any, penalty: float
    ) -> tuple[Floats, Any, Floats]:
        """Weights, objectives and gradients after a step that is short enough; NaN for objectives where none is."""
        found, slopes = np.empty_like(steps), np.empty_like(steps)
        result = np.full(len(going), np.nan)
        lengths, trying = np.ones(len(going)), np.arange(len(going))
        for _ in range(MOST_TRIALS):
            tried = self.weights[going[trying]] + lengths[trying, None, None].astype(np.float32) * steps[trying]
            new, gradients, _ = self._objective(tried, going[trying], penalty)
            before, hoped = values[going[trying]], promised[trying] * lengths[trying]
            fine = new <= before + LEAST_DECREASE * hoped + ROUNDING * np.abs(before)
            accepted = trying[fine]
            found[accepted], slopes[accepted], result[accepted] = tried[fine], gradients[fine], new[fine]
            trying = trying[~fine]
            if not len(trying):
                break
            gained, hoped = (new - before)[~fine], hoped[~fine]
            # the minimum of the parabola through both values and the slope
            lengths[trying] *= np.clip(-hoped / (2 * (gained - hoped)), 0.1, 0.5)
        return found, result, slopes

    def _objective(
        self, weights: Floats, subsets: npt.NDArray[np.int64], penalty: float
    ) -> tuple[npt.NDArray[np.float64], Floats, Floats]:
        """Objectives `(subsets,)`, their gradients `(subsets, M + 1, classes)`, and the curvature `(N,)`."""
        count, width, classes = weights.shape
        flat = np.ascontiguousarray(weights.transpose(1, 0, 2)).reshape(width, count * classes)
        kept = self._subsets[subsets]
        gradient = np.zeros(flat.shape)
        each, curvature = [], []
        for block in self._threads.map(
            lambda number: self._residuals(number, flat, kept, classes), range(len(self._rows))
        ):
            gradient += block.gradient  # one by one: those of all blocks at once would take gigabytes
            each.append(block.losses)
            curvature.append(block.curvature)
        losses = np.sum(each, 0)
        slopes = gradient.reshape(width, count, classes).transpose(1, 0, 2).astype(np.float32)
        penalised = weights[:, :-1]
        losses += penalty / 2 * np.array([np.vdot(some, some) for some in penalised], dtype=np.float64)
        slopes[:, :-1] += np.float32(penalty) * penalised
        return losses, slopes, np.concatenate(curvature)

    def _residuals(self, number: int, weights: Floats, kept: npt.NDArray[np.bool_], classes: int) -> _Sums:
        inputs, labels = self._block(number), self._labels[self._rows[number]]
        inside = kept[:, self._rows[number]].T
        scores = inputs @ weights[:-1]
        scores += weights[-1]
        scores = scores.reshape(len(inputs), len(kept), classes)
        scores -= scores.max(2, keepdims=True)
        images = np.arange(len(inputs))
        of_label = scores[images, :, labels]
        np.exp(scores, out=scores)
        totals = scores.sum(2)
        losses = np.where(inside, np.log(totals) - of_label, 0).sum(0, dtype=np.float64)
        scores /= totals[:, :, None]
        curvature = (1 - np.square(scores).sum(2)).mean(1) / classes
        scores[images, :, labels] -= 1
        scores *= inside[:, :, None]
        residuals = scores.reshape(len(inputs), -1)
        return _Sums(losses, np.concatenate([inputs.T @ residuals, residuals.sum(0, keepdims=True)]), curvature)

    def _preconditioner(self, curvature: Floats, penalty: float) -> Callable[[Floats], Floats]:
        """Multiply `(M + 1, columns)` by the inverse of the Hessian's mean over classes and subsets, about.

        Of many images the Hessian is computed from every second, every third and so on.
        """
        from scipy.linalg.blas import ssymm
        from scipy.linalg.lapack import spotrf, spotri

        width = self.weights.shape[1] - 1
        weight = np.maximum(curvature, 1e-8) * np.float32(self._subsets.mean())
        intercept = np.float32(weight.sum())
        every = math.ceil(len(weight) / MOST_SAMPLED)

        def diagonal() -> Callable[[Floats], Floats]:
            squares = np.sum([np.square(self._block(n)).T @ weight[rows] for n, rows in enumerate(self._rows)], 0)
            scale = np.append(squares + penalty, intercept)[:, None].astype(np.float32)
            return lambda values: values / scale

        def part(number: int) -> Floats:
            rows = self._rows[number]
            some = self._block(number)[::every] * np.sqrt(weight[rows][::every] * np.float32(every))[:, None]
            product: Floats = some.T @ some
            return product

        if width > MOST_PRECONDITIONED:
            return diagonal()
        hessian = np.zeros((width, width), dtype=np.float32)
        for product in self._threads.map(part, range(len(self._rows))):
            hessian += product
        hessian[np.arange(width), np.arange(width)] += np.float32(penalty)
        factor, failed = spotrf(hessian, lower=1)
        if failed:  # rounding made it singular: a penalty below what float32 can add
            return diagonal()
        inverse, _ = spotri(factor, lower=1)
        return lambda values: np.concatenate([ssymm(1.0, inverse, values[:-1], lower=1), values[-1:] / intercept])


class _History:
    """The last steps of one fit, and how the gradient changed with each."""

    def __init__(self, size: int) -> None:
        self.pairs: deque[tuple[Floats, Floats, float]] = deque(maxlen=size)

    def add(self, step: Floats, change: Floats) -> None:
        product = float(np.vdot(step, change))
        if product > 1e-10 * math.sqrt(float(np.vdot(step, step)) * float(np.vdot(change, change))):
            self.pairs.append((step, change, 1 / product))


def _directions(slopes: Floats, histories: list[_History], condition: Callable[[Floats], Floats]) -> Floats:
    """Steps `(fits, M + 1, classes)` towards the minimum: the two loops of L-BFGS."""
    wanted = -slopes
    shares: list[list[float]] = []
    for values, history in zip(wanted, histories):
        ours = []
        for step, change, inverse in reversed(history.pairs):
            ours.append(inverse * float(np.vdot(step, values)))
            values -= np.float32(ours[-1]) * change
        shares.append(ours[::-1])
    count, width, classes = wanted.shape
    flat = condition(np.ascontiguousarray(wanted.transpose(1, 0, 2)).reshape(width, -1))
    found = np.ascontiguousarray(flat.reshape(width, count, classes).transpose(1, 0, 2))
    for values, history, ours in zip(found, histories, shares):
        for (step, change, inverse), share in zip(history.pairs, ours):
            values += np.float32(share - inverse * float(np.vdot(change, values))) * step
    return found
