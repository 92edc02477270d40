"""Near duplicates: one rule finds every kind of copy, and tells look-alikes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance, ImageOps

from zoo.data.alignment import SIDE, Thumbnails
from zoo.data.near_duplicates import BOUNDS, find_near_duplicates, thumbnail, whole_square

Pixels = npt.NDArray[np.uint8]


def scene(seed: int, side: int = 160) -> Image.Image:
    """A smooth scene of blobs with edges and texture, as a photograph has."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    image = np.zeros((side, side, 3))
    for _ in range(14):
        y, x, size = generator.random(), generator.random(), 0.04 + 0.2 * generator.random()
        inside = ((rows - y) ** 2 + (columns - x) ** 2) < size**2
        image[inside] += generator.normal(0, 60, 3)
    image += generator.normal(0, 12, (side // 4, side // 4, 1)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray(np.clip(image + 110, 0, 255).astype(np.uint8))


def thumbnails(images: list[Image.Image]) -> Thumbnails:
    found = [thumbnail(whole_square(np.asarray(one.convert("RGB")))) for one in images]
    return Thumbnails(np.stack([one for one, _ in found]), np.stack([one for _, one in found]))


def recompressed(image: Image.Image, folder: Path) -> Image.Image:
    image.save(folder / "copy.jpg", quality=25)
    return Image.open(folder / "copy.jpg")


KINDS = {
    "resized": lambda image: image.resize((96, 96)),
    "cropped": lambda image: image.crop((3, 10, 147, 154)),
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned, mirrored": lambda image: ImageOps.mirror(image.transpose(Image.Transpose.ROTATE_270)),
    "tilted": lambda image: image.rotate(3, Image.Resampling.BICUBIC).crop((8, 8, 152, 152)),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "grey": ImageOps.grayscale,
}


@pytest.mark.parametrize("kind", [*KINDS, "recompressed"])
def test_every_kind_of_copy_is_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    images = [scene(seed) for seed in range(40)]
    copies = [recompressed(images[5], tmp_path) if kind == "recompressed" else KINDS[kind](images[5])]
    found = find_near_duplicates(thumbnails([*images, *copies]), [0] * 40 + [1])
    assert [(one.first, one.second) for one in found.pairs] == [(5, 40)]
    assert BOUNDS[0] <= found.least <= BOUNDS[1]
    told = {"mirrored": "mirrored", "turned": "turned by 90°", "cropped": "cut to 0.90", "grey": "same view"}
    assert found.pairs[0].how == told.get(kind, found.pairs[0].how)


def test_photographs_that_look_alike_raise_what_counts() -> None:
    """One motif with other detail: without the data's own distribution, the most alike would count."""
    base = np.asarray(scene(0), np.float64)
    generator = np.random.default_rng(1)
    alike = []
    for _ in range(60):
        noise = generator.normal(0, 14, (40, 40, 1)).repeat(4, 0).repeat(4, 1)
        alike.append(Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)))
    found = find_near_duplicates(thumbnails([*alike, ImageOps.mirror(alike[3])]), [0] * 60 + [1])
    assert [(one.first, one.second) for one in found.pairs] == [(3, 60)]


def test_flat_images_have_no_duplicates() -> None:
    flat = [Image.new("RGB", (50, 50), (level, level, level)) for level in (0, 1, 80, 255)]
    assert find_near_duplicates(thumbnails(flat), [0, 0, 1, 1]).pairs == ()


def test_few_and_tiny_images() -> None:
    none = Thumbnails(np.zeros((0, SIDE, SIDE), np.uint8), np.zeros((0, SIDE, SIDE), bool))
    assert find_near_duplicates(none, []).pairs == ()
    one = thumbnails([scene(1)])
    assert find_near_duplicates(one, [0]).pairs == ()
    dots = [Image.new("RGB", (1, 1), (index, 0, 0)) for index in range(3)]
    assert find_near_duplicates(thumbnails(dots), [0, 0, 0]).pairs == ()


def test_a_burst_is_found_pair_by_pair() -> None:
    """Most candidates are near duplicates, so the data's own distribution is theirs: they count all the same."""
    images = [scene(2)] + [scene(2).crop((index, 0, 150 + index, 150)) for index in range(1, 8)]
    found = find_near_duplicates(thumbnails(images), [0] * 8)
    assert {index for one in found.pairs for index in (one.first, one.second)} == set(range(8))
