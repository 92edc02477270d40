"""Precision, recall and F1 of each class.

scikit-learn's `precision_recall_fscore_support` gives the same numbers (a test compares them), but its import takes a
second, which is a third of a short run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class, `(classes,)` each; 0 where they would be 0 / 0.

    Attributes:
        precision: Share of the images predicted as the class that are of it.
        recall: Share of the class's images that are predicted as it.
        f1: Harmonic mean of both.
        images: Number of images of the class.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    images: npt.NDArray[np.int64]


def class_scores(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> ClassScores:
    """Scores of predictions `(N,)`, class indices as `labels` `(N,)` are."""
    images = np.bincount(labels, minlength=classes)
    guessed = np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return ClassScores(_share(right, guessed), _share(right, images), _share(2 * right, images + guessed), images)


def _share(some: npt.NDArray[np.int64], every: npt.NDArray[np.int64]) -> Floats:
    return np.divide(some, every, out=np.zeros(len(every)), where=every > 0)
