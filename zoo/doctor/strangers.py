"""Strangers: images unlike all others by their features, alone or in a small cluster of their own.

Foreign images come in numbers and are each other's nearest neighbours, so the distance to the nearest ones hides them.
The distance to neighbours farther than a small cluster is large reaches beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLUSTER = 20  # most images of a cluster of strangers
REACH = 60  # neighbours, from the nearest, whose distance counts from the `CLUSTER`-th on
FEWEST = 24  # images; among fewer, a neighbour beyond a cluster may be of another class
ROWS = 512  # images that are compared at once
FAR = 2.5  # robust standard deviations of the logarithm of the distance from which an image is a stranger
MOST = 0.02  # share of images that are told, at most, but a cluster always can be

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Strangers:
    """What was found.

    Attributes:
        distance: `(N,)`, robust standard deviations above the median distance.
        order: Indices of strangers, the farthest first.
        cluster: Number of the cluster of each stranger, and -1 for one that is alone, in the order of `order`.
    """

    distance: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]


def find_strangers(features: Floats) -> Strangers | None:
    """Find strangers by features `(N, D)`; None for too few images. Time grows with the square of their number."""
    count = len(features)
    if count < FEWEST:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    near, far = min(CLUSTER, count // 4), min(REACH, count // 2)
    distance, nearest = np.empty(count), np.empty(count)
    for start in range(0, count, ROWS):
        similar = unit[start : start + ROWS] @ unit.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -2
        part = -np.partition(-similar, far, axis=1)[:, :far]
        part = np.sort(part, 1)[:, ::-1]
        distance[start : start + ROWS] = 1 - part[:, near:far].mean(1)
        nearest[start : start + ROWS] = 1 - part[:, 0]
    logarithm = np.log(np.maximum(distance, 1e-6))
    middle = np.median(logarithm)
    spread = max(1.4826 * float(np.median(np.abs(logarithm - middle))), 1e-6)
    sigma = (logarithm - middle) / spread
    order = np.argsort(-sigma, kind="stable")[: max(CLUSTER, round(MOST * count))]
    order = order[sigma[order] > FAR]
    return Strangers(sigma, order, _clusters(unit[order], float(np.median(nearest))))


def _clusters(unit: Floats, close: float) -> npt.NDArray[np.int64]:
    """Numbers of clusters: strangers that are closer than neighbours usually are, linked into groups; -1 if alone."""
    number = np.full(len(unit), -1, np.int64)
    if not len(unit):
        return number
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    linked = (1 - unit @ unit.T) <= close
    _, labels = connected_components(csr_matrix(linked), directed=False)
    sizes = np.bincount(labels)
    place: dict[int, int] = {}
    for index, label in enumerate(labels):
        if sizes[label] > 1:
            number[index] = place.setdefault(int(label), len(place))
    return number
