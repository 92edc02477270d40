"""The views of Albumentations: `(3, H, W)` uint8 to `(3, h, w)` uint8.

A pipeline has random generators of its own, which no global seed reaches. Each view seeds them with a number from the
global generator of torch, which zoo seeds for each image and view.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from zoo.preprocess import Colour

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks PyPI for its newest version when it is imported
import albumentations
import cv2

cv2.setNumThreads(0)  # one image is too little work for threads, and zoo decides how many there are
Size = tuple[int, int]
ERASED = (124, 116, 104)  # the mean colour of ImageNet, where an image was not padded
MOST_SEED = 2**31 - 1
Make = Callable[[float, float, Colour | None], Any]


@cache
def _pipeline(make: Make, size: Size, fill: Colour | None, strength: float, chance: float, least: float) -> Any:
    shape = size[1] / size[0]
    crop = albumentations.RandomResizedCrop(
        size, scale=(least, 1.0), ratio=(4 / 5 * shape, 5 / 4 * shape), area_for_downscale="image"
    )
    return albumentations.Compose([albumentations.HorizontalFlip(), crop, make(strength, chance, fill)], strict=True)


def _view(
    make: Make, canvas: torch.Tensor, size: Size, fill: Colour | None, options: tuple[float, ...]
) -> torch.Tensor:
    pipeline = _pipeline(make, size, fill, *options)
    seed = int(torch.randint(MOST_SEED, ()))
    pipeline.set_random_seed(seed)
    cv2.setRNGSeed(seed)  # some of its noise comes from there
    changed = pipeline(image=canvas.permute(1, 2, 0).contiguous().cpu().numpy())["image"]
    return torch.from_numpy(changed.copy()).permute(2, 0, 1).contiguous().to(canvas.device)


def _blur(strength: float, chance: float, fill: Colour | None) -> Any:
    return albumentations.OneOf(
        [
            albumentations.GaussianBlur(sigma_limit=(0.1, 0.1 + 4 * strength), p=1),
            albumentations.MotionBlur(blur_limit=(3, 3 + 2 * round(8 * strength)), p=1),
            albumentations.Defocus(radius=(1, 1 + round(6 * strength)), p=1),
        ],
        p=chance,
    )


def _noise(strength: float, chance: float, fill: Colour | None) -> Any:
    return albumentations.OneOf(
        [
            albumentations.GaussNoise(std_range=(0.0, 0.3 * strength), p=1),
            albumentations.ISONoise(
                intensity=(0.05, 0.05 + 0.7 * strength), color_shift=(0.01, 0.01 + 0.1 * strength), p=1
            ),
        ],
        p=chance,
    )


def _compress(strength: float, chance: float, fill: Colour | None) -> Any:
    return albumentations.OneOf(
        [
            albumentations.ImageCompression(quality_range=(round(100 - 90 * strength), 99), p=1),
            albumentations.Downscale(scale_range=(0.99 - 0.84 * strength, 0.99), p=1),
        ],
        p=chance,
    )


def _tone(strength: float, chance: float, fill: Colour | None) -> Any:
    shift = 50 * strength
    return albumentations.OneOf(
        [
            albumentations.CLAHE(clip_limit=(1, 1 + 6 * strength), p=1),
            albumentations.RandomGamma(gamma_limit=(100 - 60 * strength, 100 + 120 * strength), p=1),
            albumentations.RandomToneCurve(scale=0.4 * strength, p=1),
            albumentations.RGBShift(shift, shift, shift, p=1),
            albumentations.HueSaturationValue(shift / 2, shift, shift, p=1),
        ],
        p=chance,
    )


def _camera(strength: float, chance: float, fill: Colour | None) -> Any:
    kinds = [make(strength, 1.0, fill) for make in (_blur, _noise, _compress, _tone)]
    return albumentations.SomeOf(kinds, n=2, replace=False, p=chance)


def _weather(strength: float, chance: float, fill: Colour | None) -> Any:
    return albumentations.OneOf(
        [
            albumentations.RandomRain(
                blur_value=1 + 2 * round(3 * strength), brightness_coefficient=1 - 0.5 * strength, p=1
            ),
            albumentations.RandomFog(fog_coef_range=(0.0, 0.9 * strength), p=1),
            albumentations.RandomSnow(snow_point_range=(0.0, 0.5 * strength), p=1),
            albumentations.RandomShadow(shadow_intensity_range=(0.0, 0.9 * strength), p=1),
        ],
        p=chance,
    )


def _distort(strength: float, chance: float, fill: Colour | None) -> Any:
    corners = {"border_mode": cv2.BORDER_CONSTANT, "fill": fill or 0, "p": 1}
    return albumentations.OneOf(
        [
            albumentations.ElasticTransform(alpha=100 * strength, sigma=8, **corners),
            albumentations.GridDistortion(distort_limit=0.6 * strength, **corners),
            albumentations.OpticalDistortion(distort_limit=0.6 * strength, **corners),
        ],
        p=chance,
    )


def _perspective(strength: float, chance: float, fill: Colour | None) -> Any:
    return albumentations.Perspective(scale=(0.0, 0.2 * strength), fill=fill or 0, p=chance)


def _holes(strength: float, chance: float, fill: Colour | None) -> Any:
    side = (0.02, 0.02 + 0.3 * strength)
    return albumentations.CoarseDropout(
        num_holes_range=(1, 8), hole_height_range=side, hole_width_range=side, fill=fill or ERASED, p=chance
    )


def blur(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_blur, canvas, size, fill, (strength, chance, least))


def noise(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_noise, canvas, size, fill, (strength, chance, least))


def compress(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_compress, canvas, size, fill, (strength, chance, least))


def tone(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_tone, canvas, size, fill, (strength, chance, least))


def camera(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_camera, canvas, size, fill, (strength, chance, least))


def weather(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_weather, canvas, size, fill, (strength, chance, least))


def distort(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_distort, canvas, size, fill, (strength, chance, least))


def perspective(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_perspective, canvas, size, fill, (strength, chance, least))


def holes(
    canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, chance: float, least: float
) -> torch.Tensor:
    return _view(_holes, canvas, size, fill, (strength, chance, least))
