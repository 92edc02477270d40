"""Alignment of two small grey images: an affine map, and how well the detail of one then explains that of the other.

Two photographs of one motif agree in their coarse shape; only two copies of one photograph agree in fine detail. So the
score is the correlation of a narrow band of fine detail, after the images are aligned and without the pixels that are
overexposed in either. It does not depend on brightness or contrast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SIDE = 64  # rows and columns of a thumbnail
STEPS = 4  # of Gauss-Newton; more change no score by more than 0.02
BAND = (0.7, 2.0)  # standard deviations in pixels of the two Gaussians whose difference is the detail that is compared
LEAST_OVERLAP = 0.5  # share of the thumbnail that both images must show
LEAST_USABLE = 0.12  # share of it that is not overexposed in either; with less, overexposed parts are compared as well
LEAST_DETAIL = 0.75  # grey levels, root mean square: less is the noise of rounding
MOST_SCORE = 0.9999  # correlations beyond it are equal for `arctanh`

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

_CENTRE = (SIDE - 1) / 2


class Thumbnails(NamedTuple):
    """Small grey versions of images.

    Attributes:
        grey: `(N, 64, 64)` uint8.
        clipped: `(N, 64, 64)` bool: where a colour is overexposed, so that detail is lost.
    """

    grey: npt.NDArray[np.uint8]
    clipped: npt.NDArray[np.bool_]


def _grid(step: int) -> Floats:
    """Coordinates `(3, P)` of every `step`-th pixel: row and column from the centre, and 1."""
    line = np.arange(step // 2, SIDE, step) - _CENTRE
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)]).astype(np.float32)


def _sample(images: Floats, which: npt.NDArray[np.int64], maps: Affine, grid: Floats) -> tuple[Floats, Floats]:
    """Bilinear samples `(P, points)` of images at mapped grid points, and whether these lie inside (1 or 0)."""
    places: Floats = maps.astype(np.float32) @ grid + np.float32(_CENTRE)
    inside: Any = ((places >= 0) & (places <= SIDE - 1)).all(1)
    np.clip(places, 0, SIDE - 1.001, out=places)
    whole = places.astype(np.int32)
    down, right = places[:, 0] - whole[:, 0], places[:, 1] - whole[:, 1]
    flat = images.reshape(-1)
    start = which[:, None] * (SIDE * SIDE) + whole[:, 0] * SIDE + whole[:, 1]
    above = flat[start] * (1 - right) + flat[start + 1] * right
    below = flat[start + SIDE] * (1 - right) + flat[start + SIDE + 1] * right
    values: Floats = above * (1 - down) + below * down
    within: Floats = inside.astype(np.float32)
    return values, within


def _centred(values: Floats, weight: Floats) -> Floats:
    count = np.maximum(weight.sum(1, keepdims=True), 1)
    found: Floats = (values - (values * weight).sum(1, keepdims=True) / count) * weight
    return found


def align(smooth: Floats, moving: npt.NDArray[np.int64], fixed: npt.NDArray[np.int64], maps: Affine) -> Affine:
    """Refine affine maps from pixels of the fixed images to pixels of the moving ones.

    Inverse compositional Gauss-Newton on smoothed images, with brightness and contrast fitted in each step (Baker and
    Matthews 2004, "Lucas-Kanade 20 years on").

    Args:
        smooth: `(N, 64, 64)`, smoothed thumbnails.
        moving: indices `(P,)` of the moving images.
        fixed: indices `(P,)` of the fixed images.
        maps: `(P, 2, 3)`, row and column from the centre, as a first guess.
    """
    grid = _grid(2)
    at = slice(1, SIDE, 2)
    still = smooth[fixed]
    slopes: Any = np.gradient(still, axis=(1, 2))
    down, right = (slope[:, at, at].reshape(len(fixed), -1) for slope in slopes)
    steepest = np.concatenate([down[:, None] * grid, right[:, None] * grid], 1)  # (P, 6, points)
    target = np.ascontiguousarray(still[:, at, at]).reshape(len(fixed), -1)
    normal = (steepest @ steepest.transpose(0, 2, 1)).astype(np.float64)
    normal += np.eye(6) * (1e-3 * np.trace(normal, axis1=1, axis2=2) / 6 + 1e-6)[:, None, None]
    last = np.broadcast_to([[[0.0, 0.0, 1.0]]], (len(fixed), 1, 3))
    for _ in range(STEPS):
        seen, inside = _sample(smooth, moving, maps, grid)
        ours, theirs = _centred(target, inside), _centred(seen, inside)
        gain = (ours * theirs).sum(1, keepdims=True) / np.maximum((theirs * theirs).sum(1, keepdims=True), 1e-6)
        slope = (steepest @ (gain * theirs - ours)[:, :, None]).astype(np.float64)
        step = np.linalg.solve(normal, slope)[:, :, 0].clip(-8, 8)
        update = np.concatenate([step.reshape(-1, 2, 3), np.zeros((len(fixed), 1, 3))], 1) + np.eye(3)
        size = np.linalg.det(update)
        update[(size < 0.5) | (size > 2)] = np.eye(3)  # it diverges: the guess is kept
        maps = (np.concatenate([maps, last], 1) @ np.linalg.inv(update))[:, :2]
    return maps


def agreement(
    thumbnails: Thumbnails, moving: npt.NDArray[np.int64], fixed: npt.NDArray[np.int64], maps: Affine
) -> npt.NDArray[np.float64]:
    """Fisher's z of the correlation of fine detail of aligned images `(P,)`; -inf where they cannot be compared."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    grid = _grid(1)
    seen, inside = _sample(thumbnails.grey.astype(np.float32), moving, maps, grid)
    lost, _ = _sample(thumbnails.clipped.astype(np.float32), moving, maps, grid)
    shape = (len(fixed), SIDE, SIDE)
    clipped = thumbnails.clipped[fixed] | (lost.reshape(shape) > 0)
    exposed = inside * ~maximum_filter(clipped, (1, 3, 3)).reshape(len(fixed), -1)
    usable = np.where(exposed.mean(1, keepdims=True) < LEAST_USABLE, inside, exposed)

    def detail(values: Floats) -> Floats:
        fine, coarse = (gaussian_filter(values.reshape(shape), (0, width, width), truncate=3) for width in BAND)
        return _centred((fine - coarse).reshape(len(fixed), -1), usable)

    ours, theirs = detail(thumbnails.grey[fixed].astype(np.float32)), detail(seen)
    energies = (ours * ours).sum(1, dtype=np.float64), (theirs * theirs).sum(1, dtype=np.float64)
    count = usable.sum(1)
    enough = (inside.mean(1) >= LEAST_OVERLAP) & (np.minimum(*energies) >= LEAST_DETAIL**2 * count)
    score = (ours * theirs).sum(1) / np.sqrt(np.maximum(energies[0] * energies[1], 1e-12))
    z: npt.NDArray[np.float64] = np.arctanh(score.clip(-MOST_SCORE, MOST_SCORE))
    return np.where(enough, z, -np.inf)
