"""Selection: which unlabelled images to label next, from features alone.

Where nothing is labelled, the images nearest to the centres of k-means on the features are chosen (as the first step
of TypiClust does; Hacohen et al. 2022, "Active learning on a budget"): k-centre alone begins with outliers, and was
worse than chance. Else one of three published algorithms:

- `margin`: margin sampling, the images whose two most probable classes are closest (Scheffer et al. 2001, "Active
  hidden Markov models for information extraction").
- `k-centre`: k-centre greedy, each image the one farthest from all that are labelled or chosen (Gonzalez 1985; Sener
  and Savarese 2018, "Active learning for convolutional neural networks: a core-set approach").
- `combined`: k-centre greedy among the `POOL` times as many images of the smallest margins. Zhdanov 2019, "Diverse
  mini-batch active learning", does so with k-means in place of k-centre.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.solver import Task

if TYPE_CHECKING:
    from torch import nn

Method = Literal["combined", "margin", "k-centre"]
METHODS: tuple[Method, ...] = ("combined", "margin", "k-centre")

POOL = 10  # Zhdanov's beta

BLOCK = 8192  # rows whose distances are computed at once

Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """Images to label next.

    Attributes:
        indices: `(K,)` rows of the unlabelled features, the first to be labelled first.
        distances: `(K,)`, cosine distance of each from the nearest image that was labelled or chosen before it; NaN for
            the first of all.
    """

    indices: Indices
    distances: npt.NDArray[np.float64]


def choose(
    unlabelled: Features,
    labelled: Features,
    count: int,
    *,
    margins: npt.NDArray[np.float64] | None,
    method: Method = "combined",
) -> Choice:
    """Choose `count` rows of `unlabelled`.

    Args:
        unlabelled: Features `(N, D)`, N at least `count`.
        labelled: Features `(M, D)` of images that have labels; M may be 0.
        count: Number of images to choose.
        margins: `(N,)`, difference of the two largest probabilities. None: there is no head yet, and all images are
            equally uncertain.
        method: The algorithm.
    """
    rows, others = normalised(unlabelled), normalised(labelled)
    if margins is None and method != "k-centre" and not len(others):
        chosen = k_means(rows, count)
        return Choice(chosen, _distances(rows, others, chosen))
    if margins is None or method == "k-centre":
        return k_centre(rows, others, count)
    order = np.argsort(margins, kind="stable")
    if method == "margin":
        chosen = order[:count]
        return Choice(chosen, _distances(rows, others, chosen))
    pool = order[: POOL * count]
    found = k_centre(rows[pool], others, count)
    return Choice(pool[found.indices], found.distances)


def k_centre(rows: Features, others: Features, count: int) -> Choice:
    """Choose rows greedily, each the farthest from the nearest of `others` and of those chosen before.

    The first, where there are no others, is the most central row: that of the largest mean similarity to all.

    Args:
        rows: Features of length 1, `(N, D)`.
        others: Features of length 1, `(M, D)`.
        count: Number of rows to choose.
    """
    nearest = np.full(len(rows), np.inf)
    for start in range(0, len(others), BLOCK):
        for at in range(0, len(rows), BLOCK):
            similar = rows[at : at + BLOCK] @ others[start : start + BLOCK].T
            np.minimum(nearest[at : at + BLOCK], 1 - similar.max(1), out=nearest[at : at + BLOCK])
    chosen: list[int] = []
    distances: list[float] = []
    for _ in range(count):
        if np.isinf(nearest).all():
            index = int(np.argmax(rows @ rows.mean(0)))
        else:
            index = int(np.argmax(nearest))
        chosen.append(index)
        distances.append(float(nearest[index]) if np.isfinite(nearest[index]) else np.nan)
        np.minimum(nearest, 1 - rows @ rows[index], out=nearest)
        nearest[chosen] = -np.inf
    return Choice(np.array(chosen, np.int64), np.array(distances))


def k_means(rows: Features, count: int) -> Indices:
    """Choose the row nearest to the centre of each of `count` clusters, that of the largest cluster first."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fewer different rows than clusters
        fitted = KMeans(count, n_init=1, random_state=0).fit(rows)
    sizes = np.bincount(fitted.labels_, minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero(fitted.labels_ == cluster)
        if len(members):
            far = ((rows[members] - fitted.cluster_centers_[cluster]) ** 2).sum(1)
            chosen.append(int(members[np.argmin(far)]))
    left = np.setdiff1d(np.arange(len(rows)), chosen)  # for clusters without a member
    return np.array([*chosen, *left[: count - len(chosen)]], np.int64)


def _distances(rows: Features, others: Features, chosen: Indices) -> npt.NDArray[np.float64]:
    """The distance of each chosen row from the nearest of `others` and of those chosen before it."""
    found = []
    for position, index in enumerate(chosen.tolist()):
        before = np.concatenate([others, rows[chosen[:position]]])
        found.append(float(1 - (before @ rows[index]).max()) if len(before) else np.nan)
    return np.array(found, np.float64)


def normalised(features: Features) -> Features:
    """Features of length 1; one that is zero throughout stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    found: Features = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found


def margins_of(
    solve: Callable[[Task], dict[str, Any]],
    labelled: Features,
    labels: Indices,
    unlabelled: Features,
    *,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], Indices]:
    """Margins `(N,)` and most probable classes `(N,)` of unlabelled images, by a head solved on the labelled ones.

    Args:
        solve: Solver of a linear head, such as that of the strategy `linear`.
        labelled: Features `(M, D)`.
        labels: Their classes `(M,)`, 0 and up; two at least.
        unlabelled: Features `(N, D)`.
        seed: Of the folds by which the solver chooses its penalty.
    """
    from torch import nn

    classes = int(labels.max()) + 1
    head = nn.Linear(labelled.shape[1], classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes of few images, which is what labelling begins with
        solve(Task(head=head, features=labelled, labels=labels, classes=classes, seed=seed))
    return margins_by(head, unlabelled)


def margins_by(head: nn.Module, unlabelled: Features) -> tuple[npt.NDArray[np.float64], Indices]:
    """What `margins_of` gives, by a head that is known, such as that of a run."""
    import torch

    from zoo.networks.head import place_of
    from zoo.system.accelerator import to_double

    place = place_of(head)
    found: list[npt.NDArray[np.float64]] = []
    with torch.no_grad():
        for start in range(0, len(unlabelled), BLOCK):
            logits = to_double(head(torch.from_numpy(unlabelled[start : start + BLOCK]).to(place)))
            found.append(logits.softmax(1).cpu().numpy())
    shares = np.concatenate(found) if found else np.zeros((0, 2))
    top = np.sort(shares, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0], shares.argmax(1)
