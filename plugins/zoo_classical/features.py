"""Histograms of gradients and colours as a torch module without parameters, computed by scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import BuildSpec, Network
from zoo.errors import ZooError
from zoo.preprocess import height_width, pixels_text
from zoo.stage import HEAD, Anatomy, Stage

# Dalal and Triggs 2005, section 6: nine orientations, blocks of 2 x 2 cells
ORIENTATIONS = 9
CELL = 16  # pixels, of 128: coarse, so that small changes of an outline have no effect
BLOCK = 2
BINS = 16  # of the histogram of each colour channel
GRID = 2  # cells along each side of the image, each with colour histograms of its own


class Histograms(nn.Module):
    """Images `(N, 3, H, W)` in 0..1 to features `(N, D)`; square roots of colour counts, for the Hellinger distance."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        array = images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        # Both kinds are scaled to unit length, so that the many gradient features do not outweigh the few colours
        rows = [np.concatenate([_unit(_gradients(image)), _unit(np.sqrt(_colours(image)))]) for image in array]
        return torch.from_numpy(np.stack(rows).astype(np.float32)).to(images.device)


def _unit(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values / max(float(np.linalg.norm(values)), 1e-12)


def _gradients(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from skimage.feature import hog

    found: npt.NDArray[Any] = hog(
        image,
        orientations=ORIENTATIONS,
        pixels_per_cell=(CELL, CELL),
        cells_per_block=(BLOCK, BLOCK),
        block_norm="L2-Hys",
        channel_axis=-1,
    )
    return found


def _colours(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Histograms of hue, saturation and value in each cell of the grid, as fractions."""
    from skimage.color import rgb2hsv

    shades = rgb2hsv(image)
    parts = [part for band in np.array_split(shades, GRID, axis=0) for part in np.array_split(band, GRID, axis=1)]
    return np.concatenate(
        [
            np.histogram(part[..., channel], bins=BINS, range=(0, 1))[0] / part[..., channel].size
            for part in parts
            for channel in range(3)
        ]
    )


class Classical(nn.Module):
    """Histograms followed by one linear layer."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.histograms = Histograms()
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.histograms(images))
        return logits


def build(spec: BuildSpec) -> Network:
    """Build the histograms with a new head.

    Raises:
        ZooError: scikit-image is not installed, or the images are too small for a block.
    """
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise ZooError("`hog_color` needs scikit-image", hint="`pip install 'backbone-zoo[classical]'`") from error
    tall, wide = (side // CELL - BLOCK + 1 for side in height_width(spec.image_size or 128))
    if min(tall, wide) < 1:
        raise ZooError(
            f"`hog_color` needs images of at least {BLOCK * CELL} pixels, not {pixels_text(spec.image_size or 128)}",
            hint=f"pass `--image-size {4 * BLOCK * CELL}`",
        )
    width = tall * wide * BLOCK**2 * ORIENTATIONS + GRID**2 * 3 * BINS
    head = Stage(name=HEAD, parameters=("classifier.weight", "classifier.bias"))
    anatomy = Anatomy(backbone=spec.backbone, stages=(Stage(name="histograms", parameters=()),), head=head)
    return Network(Classical(spec.classes, width), anatomy)
