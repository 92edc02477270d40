"""Near duplicates: copies of one photograph that differ in size, cut, compression, side, turn, brightness or colour.

One rule for all data. Coarse thumbnails propose pairs: each image is compared, as it is, turned, mirrored and cut, with
all others, and the most similar ones of each split are candidates. Each candidate is then aligned and judged by its
fine detail (`zoo.data.alignment`). What counts as agreement follows from the data themselves: candidates without it are
photographs that only look alike, and a pair is reported where its agreement would be expected among as many of them
less than once in a hundred data sets. (An a contrario test: Desolneux, Moisan and Morel 2000.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from zoo.data.alignment import SIDE, Affine, Floats, Thumbnails, agreement, align
from zoo.data.image import Pixels, canvas
from zoo.preprocess import Preprocess

COARSE = 8  # rows and columns that candidates are found by: few enough to bear a small shift
CUTS = (0.92, 0.84, 0.76)  # shares of the side that an image is cut to when it is compared
PLACES = (0.0, 0.5, 1.0)  # of the cut, from the top or left to the bottom or right
NEIGHBOURS = 2  # candidates for an image in each split
ROWS = 256  # images that are compared at once
BATCH = 256  # candidates that are aligned at once
FALSE_ALARMS = 0.01  # expected in the whole data set, if no two images are near duplicates
# Bounds of the least correlation of detail, whatever the data: less than the first is no copy even among photographs
# that have nothing in common; JPEG at quality 25 leaves 0.97. More is a copy even in data that consist of copies
BOUNDS = (0.93, 0.97)
LEAST_NULL = 30  # candidates that the data's own distribution is taken from
CLIPPED = 252  # level from which a colour is overexposed
_OVEREXPOSED = [0] * CLIPPED + [255] * (256 - CLIPPED)
FLAT = 2.0  # standard deviation in grey levels: an image of one colour has no duplicates

_SQUARE = Preprocess(resize=4 * SIDE, crop=4 * SIDE)


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two images that are near duplicates, as indices, with the correlation of their detail and how they differ."""

    first: int
    second: int
    agreement: float
    how: str


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What was found.

    Attributes:
        pairs: Pairs, best agreement first.
        least: The least correlation of detail that counts in these data.
        compared: Number of candidates that were aligned.
    """

    pairs: tuple[NearPair, ...]
    least: float
    compared: int


@dataclass(frozen=True)
class _View:
    """How an image is changed before it is compared: cut at `(top, left)`, turned and mirrored."""

    turns: int
    mirrored: bool
    top: float = 0.0
    left: float = 0.0
    share: float = 1.0


VIEWS = (
    *(_View(turns, mirrored) for turns, mirrored in product(range(4), (False, True))),
    *(
        _View(0, mirrored, down * (1 - share), right * (1 - share), share)
        for share, down, right, mirrored in product(CUTS, PLACES, PLACES, (False, True))
    ),
)


def thumbnail(image: Pixels) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The grey thumbnail `(64, 64)` of a square image `(S, S, 3)` uint8, and where it is overexposed."""
    opened = Image.fromarray(np.ascontiguousarray(image))
    if min(image.shape[:2]) >= 4 * SIDE:
        opened = opened.reduce(min(image.shape[:2]) // (2 * SIDE))
    red, green, blue = opened.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    small = opened.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    lost = brightest.point(_OVEREXPOSED).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small), np.asarray(lost) > 12


def whole_square(image: Pixels) -> Pixels:
    """The middle square `(256, 256, 3)` of an image `(H, W, 3)` uint8, as the networks see it."""
    return canvas(image, _SQUARE)


def find_near_duplicates(
    thumbnails: Thumbnails,
    splits: Sequence[int] | npt.NDArray[np.int64],
    advance: Callable[[int], None] = lambda count: None,
) -> NearDuplicates:
    """Find near duplicates among images.

    Time grows with the square of the number of images, memory with the number.

    Args:
        thumbnails: Of images with different contents.
        splits: Number of the split of each image `(N,)`.
        advance: Receives the number of images as they are compared.
    """
    count = len(thumbnails.grey)
    usable = np.flatnonzero(thumbnails.grey.reshape(count, -1).std(1) >= FLAT) if count else np.zeros(0, np.int64)
    advance(count - len(usable))
    if len(usable) < 2:
        return NearDuplicates(pairs=(), least=BOUNDS[0], compared=0)
    kept = Thumbnails(thumbnails.grey[usable], thumbnails.clipped[usable])
    moving, fixed, view = _candidates(kept.grey, np.asarray(splits)[usable], advance)
    maps, scores = _judge(kept, moving, fixed, view)
    moving, fixed = moving[: len(scores)], fixed[: len(scores)]
    least = _least(scores)
    found = sorted(np.flatnonzero(scores >= least).tolist(), key=lambda index: -scores[index])
    pairs = tuple(
        NearPair(
            first=int(usable[min(moving[index], fixed[index])]),
            second=int(usable[max(moving[index], fixed[index])]),
            agreement=float(np.tanh(scores[index])),
            how=_how(maps[index]),
        )
        for index in found
    )
    return NearDuplicates(pairs=pairs, least=float(np.tanh(least)), compared=len(scores))


def _averaging(start: float, end: float) -> Floats:
    """Weights `(8, 64)` that average the pixels from `start` to `end` in eight equal parts."""
    edges = np.linspace(start, end, COARSE + 1)
    pixel = np.arange(SIDE)
    share = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    share = np.clip(share, 0, None)
    weights: Floats = (share / share.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _turned(images: npt.NDArray[np.generic], view: _View) -> npt.NDArray[np.generic]:
    images = np.rot90(images, view.turns, (1, 2))
    return images[:, :, ::-1] if view.mirrored else images


def _coarse(grey: Floats, view: _View) -> Floats:
    """Descriptors `(N, 64)` of a view of images `(N, 64, 64)`: coarse, without mean, of length 1."""
    down, right = (_averaging(SIDE * start, SIDE * (start + view.share)) for start in (view.top, view.left))
    small = _turned(down @ grey @ right.T, view).reshape(len(grey), -1)
    small = small - small.mean(1, keepdims=True)
    descriptors: Floats = small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    return descriptors


def _candidates(
    grey: npt.NDArray[np.uint8], splits: npt.NDArray[np.int64], advance: Callable[[int], None]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of images that may be near duplicates, most similar first: the viewed image, the other, and the view."""
    count = len(grey)
    base = _coarse(grey.astype(np.float32), VIEWS[0]).T.copy()
    members = [np.flatnonzero(splits == split) for split in np.unique(splits)]
    best: dict[tuple[int, int], tuple[float, int, int, int]] = {}
    for start in range(0, count, ROWS):
        rows = np.arange(start, min(start + ROWS, count))
        images = grey[rows].astype(np.float32)
        similar = np.full((len(rows), count), -1, np.float32)
        which = np.zeros((len(rows), count), np.uint8)
        for number, view in enumerate(VIEWS):
            now = _coarse(images, view) @ base
            np.putmask(which, now > similar, number)
            np.maximum(similar, now, out=similar)
        similar[np.arange(len(rows)), rows] = -2
        for group in members:
            part = similar[:, group]
            most = min(NEIGHBOURS, len(group))
            places = np.argpartition(-part, most - 1, axis=1)[:, :most]
            for row, one, place in zip(np.repeat(np.arange(len(rows)), most), np.repeat(rows, most), places.ravel()):
                other, value = int(group[place]), float(part[row, place])
                pair = (min(int(one), other), max(int(one), other))
                if other != one and (pair not in best or best[pair][0] < value):
                    best[pair] = (value, int(one), other, int(which[row, other]))
        advance(len(rows))
    ranked = np.array(sorted(best.values(), key=lambda one: (-one[0], one[1:])) or np.zeros((0, 4)), np.float64)
    moving, fixed, chosen = ranked[:, 1:].astype(np.int64).T
    return moving, fixed, chosen


def _judge(
    kept: Thumbnails, moving: npt.NDArray[np.int64], fixed: npt.NDArray[np.int64], view: npt.NDArray[np.int64]
) -> tuple[Affine, npt.NDArray[np.float64]]:
    """Maps and scores of candidates, batch after batch, until one has no near duplicate."""
    from scipy.ndimage import gaussian_filter

    guesses = np.stack([_map_of(one) for one in VIEWS])
    maps: list[Affine] = []
    scores: list[npt.NDArray[np.float64]] = []
    for start in range(0, len(moving), BATCH):
        part = slice(start, start + BATCH)
        needed, places = np.unique(np.stack([moving[part], fixed[part]]), return_inverse=True)
        ours, theirs = places.reshape(2, -1)
        few = Thumbnails(kept.grey[needed], kept.clipped[needed])  # floats of all images would take much memory
        smooth = gaussian_filter(few.grey.astype(np.float32), (0, 1, 1), truncate=3)
        maps.append(align(smooth, ours, theirs, guesses[view[part]]))
        scores.append(agreement(few, ours, theirs, maps[-1]))
        if start >= 2 * BATCH and scores[-1].max() < np.arctanh(BOUNDS[0]):
            break
    return np.concatenate(maps), np.concatenate(scores)


def _map_of(view: _View) -> Affine:
    """The affine map `(2, 3)` from pixels of a view to pixels of the image, from the centre."""
    line = np.arange(3.0) - 1
    rows, columns = (_turned(one[None], view)[0] for one in np.meshgrid(line, line, indexing="ij"))
    turn = np.array(
        [[one[2, 1] - one[1, 1], one[1, 2] - one[1, 1]] for one in (np.asarray(rows), np.asarray(columns))], np.float64
    )
    centre = [[SIDE * (start + view.share / 2 - 0.5)] for start in (view.top, view.left)]
    return np.concatenate([view.share * turn, np.array(centre)], 1)


def _least(scores: npt.NDArray[np.float64]) -> np.float64:
    """The least score of a near duplicate, from the candidates that are certainly none."""
    from scipy.stats import norm

    low, high = np.arctanh(BOUNDS)
    null = scores[(scores < low) & np.isfinite(scores)]
    if len(null) < LEAST_NULL:
        return np.float64(low)
    middle = np.median(null)
    spread = np.median(np.abs(null - middle)) / norm.ppf(0.75)
    return np.float64(np.clip(middle + spread * norm.isf(FALSE_ALARMS / len(scores)), low, high))


def _how(found: Affine) -> str:
    """In words, how two near duplicates differ, by the map from one to the other."""
    turn = found[:, :2]
    size = float(np.sqrt(abs(np.linalg.det(turn))))
    mirrored = np.linalg.det(turn) < 0
    if mirrored:
        turn = turn * np.array([1.0, -1.0])
    angle = round(float(np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))))
    words = ["mirrored"] if mirrored else []
    if abs(angle) >= 3:
        words.append(f"turned by {abs(angle)}°")
    if not 0.97 < size < 1.03:
        words.append(f"cut to {min(size, 1 / size):.2f}")
    return ", ".join(words) or "same view"
