"""Statistics of an image follow what was done to it, and exist for every image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from zoo.data.image import Pixels
from zoo.data.image_statistics import NAMES, measure
from zoo.exporting.golden_inputs import golden_photographs


def statistics(image: Pixels) -> dict[str, float]:
    return dict(zip(NAMES, measure(image).tolist()))


def photograph() -> Pixels:
    """A smooth scene with edges, 300 x 200."""
    across, down = np.meshgrid(np.linspace(0, 9, 300), np.linspace(0, 6, 200))
    waves = 128 + 60 * np.sin(across) * np.cos(down) + 40 * (np.sin(7 * across + down) > 0)
    return np.repeat(np.clip(waves, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_each_corruption_moves_its_statistic() -> None:
    image = photograph()
    plain, drawn = statistics(image), Image.fromarray(image)
    darker = statistics((image * 0.5).astype(np.uint8))
    assert darker["brightness"] == pytest.approx(plain["brightness"] / 2, abs=1)
    assert darker["contrast"] == pytest.approx(plain["contrast"] / 2, abs=1)
    blurred = statistics(np.asarray(drawn.filter(ImageFilter.GaussianBlur(2))))
    assert blurred["sharpness"] < 0.5 * plain["sharpness"]
    assert blurred["brightness"] == pytest.approx(plain["brightness"], abs=2)
    noise = np.random.default_rng(0).normal(0, 25, image.shape)
    noisy = statistics(np.clip(image + noise, 0, 255).astype(np.uint8))
    assert noisy["sharpness"] > 1.5 * plain["sharpness"]
    smaller = statistics(np.asarray(drawn.resize((150, 100))))
    assert smaller["size"] == plain["size"] / 2 and smaller["aspect"] == plain["aspect"] == 1.5


def test_sharpness_hardly_depends_on_the_number_of_pixels() -> None:
    drawn = Image.fromarray(photograph()).resize((900, 600), Image.Resampling.BICUBIC)
    sizes = [drawn, drawn.resize((1500, 1000), Image.Resampling.BICUBIC)]
    one, other = (statistics(np.asarray(image))["sharpness"] for image in sizes)
    assert one == pytest.approx(other, rel=0.25)


@given(height=st.integers(1, 300), width=st.integers(1, 300), level=st.integers(0, 255))
def test_plain_images_of_any_shape_have_statistics(height: int, width: int, level: int) -> None:
    found = statistics(np.full((height, width, 3), level, np.uint8))
    assert found["brightness"] == level and found["contrast"] < 1e-3 and found["sharpness"] == 0
    assert found["aspect"] == width / height and found["size"] == math.sqrt(width * height)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60_000), (60_000, 1), (3, 5)])
def test_extreme_shapes_have_statistics(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.isfinite(measure(image)).all()


def test_views_and_read_only_images_have_the_same_statistics() -> None:
    image = golden_photographs()["small"]
    frozen = image.copy()
    frozen.flags.writeable = False
    turned = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    assert np.array_equal(measure(image), measure(frozen)) and np.array_equal(measure(image), measure(turned))
