"""Every catalogue's preprocessing against the transforms that the weights were published with, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torchvision.models import get_model_weights
from torchvision.transforms import Normalize

from zoo.backbone import Weights
from zoo.data.image import pixels
from zoo_timm.catalogue import catalogue_rows as timm_rows
from zoo_torchvision.catalogue import catalogue_rows as torchvision_rows
from zoo_torchvision.rows import REPLACES_NORMALISATION

# Portrait, landscape, and smaller than all crops
SIZES = ((375, 500), (333, 251), (97, 64))
LARGEST = 400  # pixels of the crop: larger ones only take longer

Published = tuple[Callable[[Image.Image], torch.Tensor], tuple[float, ...], tuple[float, ...]]


def photograph(width: int, height: int) -> Image.Image:
    colours = np.random.default_rng([width, height]).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pillow_in_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow 13 chooses by the sizes which direction it resizes first; zoo always begins with the horizontal one."""
    whole = Image.Image.resize

    def in_two(self: Image.Image, size: Any, resample: Any = None, *rest: Any, **words: Any) -> Image.Image:
        wide = whole(self, (size[0], self.height), resample, *rest, **words)
        return whole(wide, tuple(size), resample, *rest, **words)

    monkeypatch.setattr(Image.Image, "resize", in_two)


def of_torchvision() -> list[tuple[str, Weights, Published]]:
    found = []
    for row in torchvision_rows():
        for weights in row.weights:
            transforms = get_model_weights(row.name)[weights.tag].transforms()
            mean, std = tuple(transforms.mean), tuple(transforms.std)
            assert row.name in REPLACES_NORMALISATION or (weights.preprocess.mean, weights.preprocess.std) == (
                mean,
                std,
            )
            found.append((f"{row.name}.{weights.tag}", weights, (transforms, mean, std)))
    return found


def of_timm() -> list[tuple[str, Weights, Published]]:
    found = []
    for row in timm_rows():
        for weights in row.weights:
            config = get_pretrained_cfg(f"{row.name}.{weights.tag}")
            assert config is not None
            if config.input_size[1] != config.input_size[2] or config.crop_mode == "border":
                continue  # `zoo_timm.rows` says what it does there
            transform = create_transform(**resolve_data_config(pretrained_cfg=config.to_dict()))
            (normalise,) = [step for step in transform.transforms if isinstance(step, Normalize)]
            mean, std = (tuple(np.asarray(value).tolist()) for value in (normalise.mean, normalise.std))
            assert [*weights.preprocess.mean, *weights.preprocess.std] == pytest.approx([*mean, *std])
            found.append((f"{row.name}.{weights.tag}", weights, (transform, mean, std)))
    return found


@pytest.mark.parametrize(("published", "sets", "forms"), [(of_torchvision, 100, 20), (of_timm, 1200, 60)])
def test_pixels_are_those_of_the_published_transforms(
    published: Callable[[], list[tuple[str, Weights, Published]]], sets: int, forms: int, pillow_in_two_passes: None
) -> None:
    """Of all sets of weights; those with the same sizes, filter and fit on both sides are computed once."""
    found = published()
    assert len(found) >= sets
    seen: dict[str, tuple[str, Weights, Published]] = {}
    for name, weights, (transform, mean, std) in found:
        said = repr(transform).split("Normalize")[0].split("mean=")[0]
        form = weights.preprocess
        key = f"{form.resize} {form.crop} {form.interpolation} {form.fit} {said}"
        seen.setdefault(key, (name, weights, (transform, mean, std)))
    small = [one for one in seen.values() if max(one[1].preprocess.input_size) <= LARGEST]
    assert len(small) >= forms
    excesses = set()
    for name, weights, (transform, mean, std) in small:
        for size in SIZES:
            image = photograph(*size)
            theirs = transform(image).permute(1, 2, 0).numpy() * np.asarray(std) + np.asarray(mean)
            sides = weights.preprocess.resized_size(size[1], size[0])
            excesses |= {(side - weights.preprocess.input_size[0]) % 4 for side in sides}
            ours = pixels(np.asarray(image), weights.preprocess)
            assert np.array_equal(np.rint(theirs * 255).astype(np.uint8), ours), (name, size)
    assert excesses == {0, 1, 2, 3}  # each rounds otherwise
