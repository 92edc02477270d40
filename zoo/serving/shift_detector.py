"""Shift detectors: sequential tests of whether the images of a stream are like those of a reference.

A value that is drawn like the K reference values lies between the k-th and the (k + m)-th of them with probability
m / (K + 1), whatever its distribution. Each further value is one more to lie between. So while nothing changes, the
cells between some reference values are filled like Polya's urn, exactly, and however small the reference is.

Bets are placed on other ways of filling them. A bet multiplies the chance of each cell by a number, and its stake grows
by that number over its expectation under the urn. A stake of 1 is added with every image, so that a change that comes
late is found as soon as one that comes early (the Shiryaev-Roberts statistic of Shin, Ramdas and Rinaldo 2024,
"E-detectors: a nonparametric framework for sequential change detection"). While nothing changes, the mean of all stakes
less the number of images is a martingale. So with the threshold c

- the first false alarm comes after c images on average, or later;
- the chance of one among the first T images is at most T / c, by Doob's inequality, and the mean number of them too.

This holds for images that are exchangeable: drawn independently, in any order. Many images of one thing in a row are
a change of the stream while they last, and may give an alarm.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zoo.exporting.reference import NAMES, Reference

Values = npt.NDArray[np.float64]

MOST = 1e200  # of a stake, so that it cannot overflow

# Bets on a value's rank u, from 0 to 1 in the reference: the chance of a cell is multiplied by exp of these
_SLOPES = (0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)  # larger or smaller values
_CURVES = (1.0, -1.0, 4.0)  # values further from the middle, or closer to it
_OUTSIDE = 4.0  # values below all or above all of the reference, each
_GAINS = (0.3, 1.5, 5.0)  # by which the chance of a class is multiplied


class ValueDetector:
    """Tests all continuous statistics of `zoo.exporting.reference.NAMES` at once."""

    def __init__(self, reference: Reference) -> None:
        self._edges = [reference.quantiles[name] for name in NAMES]
        borders = np.array([0, *reference.ranks, reference.images + 1], np.float64)
        weights = np.diff(borders)
        middles = 2 * (borders[:-1] + borders[1:]) / 2 / (reference.images + 1) - 1  # of the cells, from -1 to 1
        profiles = [np.exp(slope * middles) for slope in _SLOPES]
        profiles += [np.exp(curve * (2 * np.abs(middles) - 1)) for curve in _CURVES]
        for cell in (0, -1):
            outside = np.ones(len(weights))
            outside[cell] = np.exp(_OUTSIDE)
            profiles.append(outside)
        bets = np.stack(profiles)  # (bets, cells)
        self._by_cell = np.ascontiguousarray(bets.T)
        self._expected = np.repeat((bets @ weights)[None], len(NAMES), axis=0)  # times the number of balls in the urn
        self._balls = np.full((len(NAMES), 1), weights.sum())
        self._stakes = np.zeros((len(NAMES), len(bets)))

    def observe(self, values: Sequence[float], ignored: npt.NDArray[np.bool_] | None = None) -> Values:
        """Take in the statistics of an image, with their noise; returns the evidence for a change of each, `(7,)`.

        Statistics that are `ignored` stay as they were.
        """
        cells = [bisect_left(edges, value) for edges, value in zip(self._edges, values)]
        won = self._by_cell[cells]
        if ignored is None:
            self._stakes = np.minimum((self._stakes + 1) * won * self._balls / self._expected, MOST)
            self._expected += won
            self._balls += 1
        else:
            taken = ~ignored
            grown = (self._stakes[taken] + 1) * won[taken] * self._balls[taken] / self._expected[taken]
            self._stakes[taken] = np.minimum(grown, MOST)
            self._expected[taken] += won[taken]
            self._balls[taken] += 1
        found: Values = self._stakes.mean(axis=1)
        return found

    def restart(self, index: int) -> None:
        """Take all stakes on a statistic away; the urn stays."""
        self._stakes[index] = 0


class ClassDetector:
    """Tests the shares of the predicted classes.

    Classes become values by their number, with noise of one: class 2 is drawn from 2 to 3. The cells lie between the
    smallest and the largest value of each class in the reference, whose noise is drawn anew.
    """

    def __init__(self, reference: Reference, random: np.random.Generator) -> None:
        edges: list[float] = []
        weights: list[int] = []
        for index, count in enumerate(reference.predicted):
            drawn = np.sort(random.random(count))
            if count:
                edges.append(index + drawn[0])
                weights.append(1)
            if count > 1:
                edges.append(index + drawn[-1])
                weights.append(count - 1)
        self._edges = edges
        self._weights = np.array([*weights, 1], np.float64)
        self._gains = np.array(_GAINS)[:, None]
        self._balls = self._weights.sum()
        self._stakes = np.zeros((len(_GAINS), len(self._weights)))

    def observe(self, value: float) -> float:
        """Take in the predicted class of an image, with its noise; returns the evidence for a change."""
        cell = bisect_left(self._edges, value)
        grown = (self._stakes + 1) * (self._balls / (self._balls + (self._gains - 1) * self._weights))
        grown[:, cell] *= _GAINS
        self._stakes = np.minimum(grown, MOST)
        self._weights[cell] += 1
        self._balls += 1
        return float(self._stakes.mean())

    def restart(self) -> None:
        """Take all stakes away; the urn stays."""
        self._stakes[:] = 0
