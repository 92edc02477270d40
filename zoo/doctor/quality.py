"""Quality of images: blank, dark, overexposed and blurred ones, and those of odd size or shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.data.alignment import Thumbnails
from zoo.data.near_duplicates import FLAT

DARK = 51.0  # grey level, a fifth of white, that hardly any pixel of a dark image exceeds
BRIGHT = 235.0  # grey level that hardly any pixel of an overexposed image falls below
FINE = 1.0  # pixels of the thumbnail: detail that blur removes first
COARSE = 3.0
BLURRED = 4.5  # robust standard deviations below the usual share of fine detail
LEAST_BLUR = 0.5  # a blurred image has less than this part of the usual share, however alike the others are
TIMES = 4.0  # odd: by this factor smaller or larger than the median
ODD = 5.0  # robust standard deviations of the logarithm, besides
ROWS = 512


class Quality(NamedTuple):
    """Per image `(N,)`: what it suffers from, with a score from 0 to 1; 0 where nothing is wrong."""

    blank: npt.NDArray[np.float64]
    dark: npt.NDArray[np.float64]
    bright: npt.NDArray[np.float64]
    blurred: npt.NDArray[np.float64]


def judge_quality(thumbnails: Thumbnails) -> Quality:
    """Find images of bad quality by their thumbnails."""
    count = len(thumbnails.grey)
    zero = np.zeros(count)
    if not count:
        return Quality(zero, zero, zero, zero)
    flat = thumbnails.grey.reshape(count, -1)
    ends = np.percentile(flat, (1, 99), axis=1)
    spread = flat.std(1)
    blank = np.where(spread < FLAT, 1.0, 0.0)
    usable = blank == 0
    dark = np.where(usable & (ends[1] < DARK), 1 - ends[1] / 255, 0.0)
    bright = np.where(usable & (ends[0] > BRIGHT), ends[0] / 255, 0.0)
    return Quality(blank, dark, bright, _blurred(thumbnails, usable & (dark == 0) & (bright == 0)))


def _blurred(thumbnails: Thumbnails, usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Scores of blur: by how much the share of fine detail is below the usual one."""
    from scipy.ndimage import gaussian_filter

    found = np.zeros(len(usable))
    indices = np.flatnonzero(usable)
    if len(indices) < 2:
        return found
    share = np.empty(len(indices))
    for start in range(0, len(indices), ROWS):
        part = thumbnails.grey[indices[start : start + ROWS]].astype(np.float32)
        fine = gaussian_filter(part, (0, FINE, FINE), truncate=3)
        coarse = gaussian_filter(fine, (0, COARSE, COARSE), truncate=2)
        energies = [((one - other) ** 2).mean((1, 2)) for one, other in ((part, fine), (fine, coarse))]
        share[start : start + ROWS] = np.log(np.maximum(energies[0], 1e-3) / np.maximum(energies[1], 1e-3)) / 2
    middle, spread = robust(share)
    below = (middle - share) / spread
    blurred = (below > BLURRED) & (share < middle + np.log(LEAST_BLUR))
    found[indices] = np.where(blurred, 1 - np.exp(share - middle), 0.0)
    return found


def robust(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the standard deviation that the median deviation from it stands for."""
    middle = float(np.median(values))
    return middle, max(1.4826 * float(np.median(np.abs(values - middle))), 1e-6)


def odd_sizes(sizes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Factors `(N,)` by which size and shape differ from the median; 1 where that is nothing unusual.

    Args:
        sizes: `(N, 2)`, height and width in pixels.
    """
    if not len(sizes):
        return np.zeros(0), np.zeros(0)
    logs = np.log(np.maximum(sizes.astype(np.float64), 1))
    found = []
    for values in (logs.mean(1), logs[:, 1] - logs[:, 0]):
        middle, spread = robust(values)
        away = np.abs(values - middle)
        odd = (away > ODD * spread) & (away > np.log(TIMES))
        found.append(np.where(odd, np.exp(away), 1.0))
    return found[0], found[1]
