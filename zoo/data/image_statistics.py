"""Image statistics: brightness, contrast, sharpness, aspect and size of a decoded image, quickly computed.

They say what changed where images come to look different: a dark lens, a shaken one, a smaller upload.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.data.image import Pixels

NAMES = ("brightness", "contrast", "sharpness", "aspect", "size")

GRID = 64  # rows and columns, at least, of which brightness and contrast are read
SIDE = 112  # of the middle of an image, resized; the whole shorter side then has twice as many pixels
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def measure(image: Pixels) -> npt.NDArray[np.float64]:
    """The statistics `NAMES` of a decoded image `(H, W, 3)` uint8 RGB; `(5,)`.

    - brightness: mean grey level, 0 to 255;
    - contrast: standard deviation of the grey levels;
    - sharpness: standard deviation of the Laplacian of the image's middle, resized so that the shorter side of the
      image has 224 pixels. Blur lowers it, noise raises it;
    - aspect: width / height;
    - size: square root of width x height, in pixels.
    """
    height, width = image.shape[:2]
    grid = image[:: max(1, height // GRID), :: max(1, width // GRID)].reshape(-1, 3) @ LUMA
    return np.array(
        [
            grid.mean(dtype=np.float64),
            grid.std(dtype=np.float64),
            _sharpness(image),
            width / height,
            (width * height) ** 0.5,
        ]
    )


def _sharpness(image: Pixels) -> float:
    height, width = image.shape[:2]
    side = max(1, min(height, width) // 2)
    top, left = (height - side) // 2, (width - side) // 2
    green = np.ascontiguousarray(image[top : top + side, left : left + side, 1])
    seen = np.asarray(Image.fromarray(green).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.int16)
    inside = seen[1:-1, 1:-1]
    laplacian = 4 * inside - seen[:-2, 1:-1] - seen[2:, 1:-1] - seen[1:-1, :-2] - seen[1:-1, 2:]
    return float(laplacian.std(dtype=np.float32))
