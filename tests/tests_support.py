"""Small folders of real image files, made on the spot, and a run that is small enough for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from zoo import Experiment

TINY = Experiment(
    data="nowhere",
    backbone="timm/test_resnet",  # 0.5 million parameters, with batch norms
    strategy="partial:1",
    weights="none",
    image_size=32,
    batch_size=8,
    device="cpu",
)


class Killed(BaseException):
    """Simulates a kill: it is not an `Exception`, so no error handler catches it."""


COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 40, 50)}


def paint(colour: tuple[int, int, int], seed: int, width: int = 60, height: int = 48) -> Image.Image:
    """A noisy photograph of one colour, with a darker square somewhere."""
    generator = np.random.default_rng(seed)
    pixels = np.asarray(colour) + generator.normal(0, 25, (height, width, 3))
    top, left = generator.integers(0, height // 2), generator.integers(0, width // 2)
    pixels[top : top + 12, left : left + 12] *= 0.4
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_photos(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("blue", "red")) -> Path:
    """A data folder: `counts` images of each class in each split; a split named "" puts class folders at the root."""
    for split, count in counts.items():
        for label in classes:
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                seed = [len(split), index, *label.encode()]
                width = 40 + 7 * (index % 4)
                paint(COLOURS[label], hash(tuple(seed)) % 2**32, width=width).save(
                    folder / f"{index:03d}.jpg", quality=92
                )
    return root
