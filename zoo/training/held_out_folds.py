"""Held-out folds: how a solver chooses its settings on the training images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_FOLDS = 5

Indices = npt.NDArray[np.int64]


def held_out_folds(labels: Indices, seed: int) -> tuple[list[tuple[Indices, Indices]], str | None]:
    """Stratified folds of the training images, and a line for the user where not all of them can be held out.

    There are as many folds as the rarest class has images, up to five. A class of one image is never held out: its
    image is among those to fit on in every fold. Where fewer than two classes have two images there are no folds, since
    nothing that could be held out tells classes apart.

    Args:
        labels: class indices `(N,)`.
        seed: of the division.

    Returns:
        Pairs of indices, to fit on and held out; and the line.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels)
    single, several = int((counts == 1).sum()), int((counts > 1).sum())
    lacking = f"{single} of {single + several} classes {'has' if single == 1 else 'have'} one training image"
    if several < 2:
        return [], f"{lacking}, so none can be held out"
    can, alone = np.flatnonzero(counts[labels] > 1), np.flatnonzero(counts[labels] == 1)
    folds = StratifiedKFold(min(MOST_FOLDS, int(counts[counts > 1].min())), shuffle=True, random_state=seed)
    pairs = [(np.sort(np.concatenate([can[fit], alone])), can[held]) for fit, held in folds.split(can, labels[can])]
    if not single:
        return pairs, None
    return pairs, f"{lacking}, which is never held out"


def held_out(folds: list[tuple[Indices, Indices]]) -> Indices:
    """Indices of all images that are held out in one of the folds, in order."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(held for _, held in folds)]))
