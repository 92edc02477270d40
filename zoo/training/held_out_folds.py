"""Held-out folds: how a solver chooses its settings on the training images."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

MOST_FOLDS = 5

Indices = npt.NDArray[np.int64]


def held_out_folds(
    labels: Indices, seed: int, groups: Indices | None = None
) -> tuple[list[tuple[Indices, Indices]], str | None]:
    """Stratified folds of the training images, and a line for the user where not all of them can be held out.

    There are as many folds as the rarest class has images, up to five. A class of one image is never held out: its
    image is among those to fit on in every fold. Where fewer than two classes have two images there are no folds, since
    nothing that could be held out tells classes apart.

    With groups, no group is both fitted and held out, and what is said of images above holds for groups: there are as
    many folds as the class in the fewest groups has, and the groups of a class of one group are never held out.

    Args:
        labels: class indices `(N,)`.
        seed: of the division.
        groups: numbers `(N,)`; images of one group are held out together. None: each image is alone.

    Returns:
        Pairs of indices, to fit on and held out; and the line.
    """
    if groups is not None:
        return _of_groups(labels, seed, groups)
    counts = np.bincount(labels)
    single, several = int((counts == 1).sum()), int((counts > 1).sum())
    lacking = f"{single} of {single + several} classes {'has' if single == 1 else 'have'} one training image"
    if several < 2:
        return [], f"{lacking}, so none can be held out"
    can, alone = np.flatnonzero(counts[labels] > 1), np.flatnonzero(counts[labels] == 1)
    fold = _stratified(labels[can], min(MOST_FOLDS, int(counts[counts > 1].min())), seed)
    pairs = [
        (np.sort(np.concatenate([can[fold != number], alone])), can[fold == number]) for number in range(fold.max() + 1)
    ]
    if not single:
        return pairs, None
    return pairs, f"{lacking}, which is never held out"


def _stratified(labels: Indices, count: int, seed: int) -> Indices:
    """The fold `(N,)` of each image, as by scikit-learn's `StratifiedKFold(count, shuffle=True, random_state=seed)`.

    Without its import, which takes a second.
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[inverse]  # classes in the order of their first images
    arranged = np.sort(order)
    generator = np.random.RandomState(seed)
    fold = np.zeros(len(labels), dtype=np.int64)
    shares = np.array([np.bincount(arranged[number::count], minlength=len(first)) for number in range(count)])
    for name in range(len(first)):
        ours = np.arange(count).repeat(shares[:, name])
        generator.shuffle(ours)
        fold[order == name] = ours
    return fold


def _of_groups(labels: Indices, seed: int, groups: Indices) -> tuple[list[tuple[Indices, Indices]], str | None]:
    """See `held_out_folds`."""
    from sklearn.model_selection import StratifiedGroupKFold

    known = np.unique(labels)
    of_class = {int(name): set(groups[labels == name].tolist()) for name in known}
    alone = [name for name, some in of_class.items() if len(some) == 1]
    lacking = (
        f"{len(alone)} of {len(known)} classes {'has' if len(alone) == 1 else 'have'} one group of training images"
    )
    kept = np.isin(groups, [group for name in alone for group in of_class[name]])
    can = np.flatnonzero(~kept)
    left = {name: len(set(groups[can][labels[can] == name].tolist())) for name in of_class if name not in alone}
    several = [count for count in left.values() if count > 1]
    if len(several) < 2:
        return [], f"{lacking if alone else 'the classes share their groups'}, so none can be held out"
    count = min(MOST_FOLDS, min(several))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with fewer images than folds
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(can, labels[can], groups[can])
        found = [(np.sort(np.concatenate([can[fit], np.flatnonzero(kept)])), can[held]) for fit, held in folds]
    # a fold that nothing is in, or without which a class is unknown, is left out
    pairs = [(fit, held) for fit, held in found if len(held) and len(np.unique(labels[fit])) == len(known)]
    if not pairs:
        return [], "the groups of the training images cannot be divided, so none can be held out"
    if sum(len(held) for _, held in pairs) == len(labels):
        return pairs, None
    why = lacking if alone else "a class is in too few groups"
    return pairs, f"{why}, so {len(labels) - sum(len(held) for _, held in pairs)} training images are never held out"


def held_out(folds: list[tuple[Indices, Indices]]) -> Indices:
    """Indices of all images that are held out in one of the folds, in order."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(held for _, held in folds)]))
