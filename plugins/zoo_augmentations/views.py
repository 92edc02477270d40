"""The views of the built-in augmentations: `(3, H, W)` uint8 to `(3, h, w)` uint8.

A transform is made once for its size and options; it draws from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from zoo.augmentation import without_compiler
from zoo.preprocess import Colour

with without_compiler():
    from torchvision.transforms import v2

Size = tuple[int, int]
Transform = Callable[[torch.Tensor], torch.Tensor]
BILINEAR = v2.InterpolationMode.BILINEAR
ERASED = (124.0, 116.0, 104.0)  # the mean colour of ImageNet, where an image was not padded


def _zoom(size: Size, least: float) -> Any:
    """A random crop of at least the share `least` of the area, resized to `size`.

    Szegedy et al. 2015, "Going deeper with convolutions", with narrower bounds.
    """
    shape = size[1] / size[0]
    return v2.RandomResizedCrop(
        size, scale=(least, 1.0), ratio=(4 / 5 * shape, 5 / 4 * shape), interpolation=BILINEAR, antialias=True
    )


@cache
def _composed(make: Callable[..., list[Any]], *arguments: Any) -> Transform:
    composed: Transform = v2.Compose([v2.RandomHorizontalFlip(), *make(*arguments)])
    return composed


def _corners(fill: Colour | None) -> list[int] | None:
    return None if fill is None else list(fill)


def flip(canvas: torch.Tensor, size: Size, fill: Colour | None) -> torch.Tensor:
    return _composed(_flip, size)(canvas)


def _flip(size: Size) -> list[Any]:
    return [v2.CenterCrop(size)]


def flips(canvas: torch.Tensor, size: Size, fill: Colour | None) -> torch.Tensor:
    return _composed(_flips, size)(canvas)


def _flips(size: Size) -> list[Any]:
    return [v2.RandomVerticalFlip(), v2.CenterCrop(size)]


def turns(canvas: torch.Tensor, size: Size, fill: Colour | None) -> torch.Tensor:
    view = _composed(_flip, size)(canvas)
    step = 1 if size[0] == size[1] else 2
    return torch.rot90(view, step * int(torch.randint(4 // step, ())), (1, 2))


def rotate(canvas: torch.Tensor, size: Size, fill: Colour | None, degrees: float) -> torch.Tensor:
    return _composed(_rotate, size, fill, degrees)(canvas)


def _rotate(size: Size, fill: Colour | None, degrees: float) -> list[Any]:
    return [v2.RandomRotation(degrees, interpolation=BILINEAR, fill=_corners(fill) or 0), v2.CenterCrop(size)]


def zoom(canvas: torch.Tensor, size: Size, fill: Colour | None, least: float) -> torch.Tensor:
    return _composed(_zoomed, size, least)(canvas)


def _zoomed(size: Size, least: float) -> list[Any]:
    return [_zoom(size, least)]


def light(canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, least: float) -> torch.Tensor:
    return _composed(_light, size, strength, least)(canvas)


def _light(size: Size, strength: float, least: float) -> list[Any]:
    return [_zoom(size, least), v2.ColorJitter(brightness=strength, contrast=strength)]


def colour(canvas: torch.Tensor, size: Size, fill: Colour | None, strength: float, least: float) -> torch.Tensor:
    return _composed(_colour, size, strength, least)(canvas)


def _colour(size: Size, strength: float, least: float) -> list[Any]:
    return [_zoom(size, least), v2.ColorJitter(strength, strength, strength, strength / 4)]


def erase(canvas: torch.Tensor, size: Size, fill: Colour | None, chance: float, share: float) -> torch.Tensor:
    return _composed(_erase, size, fill, chance, share)(canvas)


def _erase(size: Size, fill: Colour | None, chance: float, share: float) -> list[Any]:
    return [*_light(size, 0.2, 0.5), v2.RandomErasing(chance, scale=(0.02, share), value=list(fill or ERASED))]


def trivial(canvas: torch.Tensor, size: Size, fill: Colour | None, least: float) -> torch.Tensor:
    return _composed(_trivial, size, fill, least)(canvas)


def _trivial(size: Size, fill: Colour | None, least: float) -> list[Any]:
    return [_zoom(size, least), v2.TrivialAugmentWide(interpolation=BILINEAR, fill=_corners(fill))]


def rand(
    canvas: torch.Tensor, size: Size, fill: Colour | None, magnitude: int, operations: int, least: float
) -> torch.Tensor:
    return _composed(_rand, size, fill, magnitude, operations, least)(canvas)


def _rand(size: Size, fill: Colour | None, magnitude: int, operations: int, least: float) -> list[Any]:
    return [_zoom(size, least), v2.RandAugment(operations, magnitude, interpolation=BILINEAR, fill=_corners(fill))]


def auto(canvas: torch.Tensor, size: Size, fill: Colour | None, least: float) -> torch.Tensor:
    return _composed(_auto, size, fill, least)(canvas)


def _auto(size: Size, fill: Colour | None, least: float) -> list[Any]:
    return [_zoom(size, least), v2.AutoAugment(interpolation=BILINEAR, fill=_corners(fill))]


def augmix(
    canvas: torch.Tensor, size: Size, fill: Colour | None, severity: int, width: int, least: float
) -> torch.Tensor:
    # on the CPU, since AugMix draws on the image's device and only the CPU's generator is seeded
    return _composed(_augmix, size, fill, severity, width, least)(canvas.cpu()).to(canvas.device)


def _augmix(size: Size, fill: Colour | None, severity: int, width: int, least: float) -> list[Any]:
    return [_zoom(size, least), v2.AugMix(severity, width, interpolation=BILINEAR, fill=_corners(fill))]
