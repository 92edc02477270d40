"""Ranking: how well the probability of a class orders its images before those of other classes.

scikit-learn's `roc_auc_score` and `average_precision_score` give the same numbers (a test compares them), but their
import takes longer than a head is solved, and each run computes them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def roc_areas(labels: npt.NDArray[np.int64], shares: Floats) -> Floats:
    """Area under the ROC curve of each class against all others, `(classes,)`; NaN where it is undefined.

    It is the probability that an image of the class has a higher share than one of another class, ties counted half
    (Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic curve"). A class
    without images, and one that all images are of, has none.

    Args:
        labels: class indices `(N,)`.
        shares: probabilities `(N, classes)`.
    """
    found = np.full(shares.shape[1], np.nan)
    for index in range(shares.shape[1]):
        of_class = labels == index
        count = int(of_class.sum())
        if not 0 < count < len(labels):
            continue
        others = np.sort(shares[~of_class, index])
        own = shares[of_class, index]
        below = np.searchsorted(others, own, side="left").sum() + np.searchsorted(others, own, side="right").sum()
        found[index] = below / (2 * count * len(others))
    return found


def average_precisions(labels: npt.NDArray[np.int64], shares: Floats) -> Floats:
    """Area under the precision-recall curve of each class, `(classes,)`; NaN where it is undefined.

    It is the average precision: the mean over the class's images of the precision among all images whose share is at
    least theirs (Davis and Goadrich 2006, "The relationship between precision-recall and ROC curves", say why points
    are not joined by lines). A class without images, and one that all images are of, has none.

    Args:
        labels: class indices `(N,)`.
        shares: probabilities `(N, classes)`.
    """
    found = np.full(shares.shape[1], np.nan)
    for index in range(shares.shape[1]):
        of_class = labels == index
        count = int(of_class.sum())
        if not 0 < count < len(labels):
            continue
        every, own = np.sort(shares[:, index]), np.sort(shares[of_class, index])
        called = len(every) - np.searchsorted(every, own, side="left")
        right = count - np.searchsorted(own, own, side="left")
        found[index] = (right / called).mean()
    return found


def class_log_losses(labels: npt.NDArray[np.int64], shares: Floats) -> Floats:
    """Mean log-loss of the images of each class in nats, `(classes,)`; NaN for a class without images.

    Args:
        labels: class indices `(N,)`.
        shares: probabilities `(N, classes)`; they count as at least the smallest step from 1, so that it is finite.
    """
    smallest = np.finfo(shares.dtype).eps
    losses = -np.log(np.clip(shares[np.arange(len(labels)), labels], smallest, 1 - smallest))
    counts = np.bincount(labels, minlength=shares.shape[1])
    sums = np.bincount(labels, losses, minlength=shares.shape[1])
    found: Floats = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return found
