"""Golden inputs: test images that every machine generates identically, by integer arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Height and width in pixels: landscape, portrait, an image that is enlarged, and one whose aspect ratio exceeds the
# bound. Together they take every branch of the preprocessing.
SIZES = {"landscape": (320, 480), "portrait": (500, 375), "small": (24, 36), "strip": (90, 600)}


def golden_photographs() -> dict[str, npt.NDArray[np.uint8]]:
    """The golden inputs by name, each `(H, W, 3)` uint8 RGB."""
    return {name: _pattern(*size, seed) for seed, (name, size) in enumerate(SIZES.items())}


def _pattern(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Waves, a chequerboard and a little noise, in integers: floats and random generators depend on versions."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    y, x = y * 480 // height, x * 480 // width  # the same image at every size
    channels = []
    for channel in range(3):
        period = 40 + 25 * channel + 15 * seed
        wave = np.abs((x * (2 + channel) + y * (3 - channel)) % (2 * period) - period) * 200 // period
        chequers = (x // (60 + 10 * seed) + y // (48 + 12 * channel)) % 2 * 40
        mixed = (x * 374761393 + y * 668265263 + (channel + 3 * seed) * 2246822519) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
        channels.append(wave + chequers + ((mixed ^ (mixed >> 16)) & 15))
    return np.stack(channels, axis=2).astype(np.uint8)
