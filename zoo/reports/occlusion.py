"""Occlusion: which parts of an image a prediction rests on.

Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.1. Occlusion asks the network
as it is scored, and needs neither gradients nor a convolution to hook, so one function serves heads that are solved,
nearest neighbours and vision transformers; Grad-CAM of pytorch-grad-cam needs a target layer for each architecture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.predictions import softmax

CELLS = 8  # along each side of the map
SPAN = 2  # cells that a covered square is wide, so that neighbours overlap
BATCH = 16  # images that are classified at a time
OPAQUE = 0.65  # of the colour where the effect is largest

Pixels = npt.NDArray[np.uint8]
Logits = Callable[[Pixels], npt.NDArray[np.floating[Any]]]  # from (N, h, w, 3) to (N, classes)


def occlusion_map(logits: Logits, image: Pixels, label: int) -> npt.NDArray[np.float64]:
    """How much the probability of class `label` falls where a part is covered, `(CELLS, CELLS)`, on average.

    Squares are covered by the mean colour of the image. A cell has the mean of the falls of all squares over it; it is
    below 0 where the probability rises.

    Args:
        logits: classifies images that are cropped to the network's input.
        image: one of them, `(h, w, 3)`.
        label: index of the class.
    """
    height, width = image.shape[:2]
    rows, columns = (np.linspace(0, side, CELLS + 1).round().astype(int) for side in (height, width))
    places = [(row, column) for row in range(1 - SPAN, CELLS) for column in range(1 - SPAN, CELLS)]
    colour = image.reshape(-1, 3).mean(0).round().astype(np.uint8)
    whole = float(softmax(logits(image[None]))[0, label])
    falls, counts = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        batch = np.repeat(image[None], len(some), axis=0)
        spans = [[(max(at, 0), min(at + SPAN, CELLS)) for at in place] for place in some]
        for covered, ((top, bottom), (left, right)) in zip(batch, spans):
            covered[rows[top] : rows[bottom], columns[left] : columns[right]] = colour
        for share, ((top, bottom), (left, right)) in zip(softmax(logits(batch))[:, label], spans):
            falls[top:bottom, left:right] += whole - share
            counts[top:bottom, left:right] += 1
    found: npt.NDArray[np.float64] = falls / counts
    return found


def overlay(image: Pixels, falls: npt.NDArray[np.float64], side: int) -> str:
    """An image with its map in red, more opaque where the probability falls more, as the data URL of a JPEG.

    Args:
        image: `(h, w, 3)`.
        falls: as `occlusion_map` gives them; where nothing falls, the image is shown as it is.
        side: pixels of the longer side of the result.
    """
    from PIL import Image

    shown = Image.fromarray(image)
    shown.thumbnail((side, side))
    high = float(falls.max())
    if high > 0:
        strength = (np.clip(falls / high, 0, 1) * 255 * OPAQUE).astype(np.uint8)
        mask = Image.fromarray(strength).resize(shown.size, Image.Resampling.BICUBIC)
        shown.paste((214, 39, 40), (0, 0), mask)
    data = io.BytesIO()
    shown.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
