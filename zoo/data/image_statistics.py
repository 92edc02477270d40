"""Image statistics: brightness, contrast, sharpness, aspect and size of a decoded image, quickly computed.

They say what changed where images come to look different: a dark lens, a shaken one, a smaller upload. A server
computes them for every image, so they read few pixels, of the green channel alone, which carries most of the luminance,
and avoid calls that are slow when the caches are full of a network.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from zoo.data.image import Pixels

NAMES = ("brightness", "contrast", "sharpness", "aspect", "size")

GRID = 32  # rows and columns, at most, of which brightness and contrast are read
PART = 4  # the middle, of which sharpness is read, is the image's shorter side divided by this
SIDE = 224 // PART  # rows and columns of the middle that are read
GREEN = 1


def measure(image: Pixels) -> npt.NDArray[np.float64]:
    """The statistics `NAMES` of a decoded image `(H, W, 3)` uint8 RGB; `(5,)`.

    - brightness: mean level of green, 0 to 255;
    - contrast: standard deviation of these levels;
    - sharpness: root mean square of the Laplacian of the image's middle, between pixels as far apart as if the shorter
      side of the image had 224 of them. Blur lowers it, noise raises it;
    - aspect: width / height;
    - size: square root of width x height, in pixels.
    """
    height, width = image.shape[:2]
    levels = image[:: -(-height // GRID), :: -(-width // GRID), GREEN].astype(np.float64).ravel()
    mean = float(levels.sum()) / len(levels)
    variance = float(levels @ levels) / len(levels) - mean**2
    return np.array([mean, math.sqrt(max(variance, 0.0)), _sharpness(image), width / height, math.sqrt(width * height)])


def _sharpness(image: Pixels) -> float:
    height, width = image.shape[:2]
    side = max(1, min(height, width) // PART)
    top, left = (height - side) // 2, (width - side) // 2
    places = np.arange(SIDE) * side // SIDE
    seen = image[top : top + side, left : left + side, GREEN][places[:, None], places].astype(np.float32)
    laplacian = 4 * seen[1:-1, 1:-1] - seen[:-2, 1:-1] - seen[2:, 1:-1] - seen[1:-1, :-2] - seen[1:-1, 2:]
    flat = laplacian.ravel()
    return math.sqrt(float(flat @ flat) / flat.size)
