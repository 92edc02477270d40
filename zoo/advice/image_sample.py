"""The training images that advice is computed from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import DecodedImages
from zoo.data.splitting import stratified_subset

MOST_IMAGES = 2000  # the interval of a probe's accuracy is then 2 points wide, and the pass takes a minute
BATCH = 32


def chosen_images(part: DecodedImages) -> npt.NDArray[np.int64]:
    """Indices of the images that are used: all, or a stratified subset of about `MOST_IMAGES`."""
    count = len(part.samples)
    if count <= MOST_IMAGES:
        return np.arange(count)
    kept = {sample.id for sample in stratified_subset(part.samples, MOST_IMAGES / count, seed=0)}
    return np.array([index for index, sample in enumerate(part.samples) if sample.id in kept])
