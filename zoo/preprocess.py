"""Preprocessing: from an image's pixels to a network's input, described as data.

Training, evaluation, the ONNX graph and the metadata of the exported file use the same values. The reference
implementation uses Pillow (`zoo/data/image.py`); every other implementation is tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from zoo.target import lazy_attributes

# A strip of 20,000 x 1 pixels would be resized to gigabytes. So only the middle of the long side is kept, at most this
# many times the short side. The centre crop that follows needs no more, and photographs seldom exceed 3:1
MAX_ASPECT = 4

LARGEST = 8192  # pixels, of `resize` and of `crop`

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["shorter", "squash"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize with antialiasing, crop the centre, scale to 0..1, and normalise.

    Attributes:
        resize: Size in pixels that the image is resized to.
        crop: Height and width in pixels of the centre crop, which is the network's input.
        interpolation: Filter of the resize.
        fit: What `resize` means. `shorter`: the shorter side becomes `resize` pixels, and the aspect ratio stays.
            `squash`: both sides become `resize` pixels.
        mean: Mean of the red, green and blue channel in 0..1, which is subtracted.
        std: Standard deviation of the channels in 0..1, by which the result is divided.
        levels: Grey levels that become black and white, in images of more than 8 bits. None: those of the image's type.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bilinear"
    fit: Fit = "shorter"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check mean and standard deviation.

        Raises:
            ValueError: they are not finite, or are those of pixels in 0..255.
        """
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError("mean and std must be finite, and std above 0")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if max(values) > 1:
                raise ValueError(
                    f"{name} {max(values):g} is not of pixels in 0..1; divide mean and std of pixels in 0..255 by 255"
                )

    def at(self, image_size: int | None) -> Preprocess:
        """The same preprocessing for another input size; `resize` keeps its ratio to `crop`. None: unchanged."""
        if image_size is None or image_size == self.crop:
            return self
        return replace(self, crop=image_size, resize=round(self.resize * image_size / self.crop))

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `levels` only if they are set."""
        found = {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "fit": self.fit,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return found if self.levels is None else {**found, "levels": list(self.levels)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, of the wrong type, or out of bounds.
        """
        mean, std = tuple(map(float, data["mean"])), tuple(map(float, data["std"]))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std must be three numbers each")
        if not (1 <= int(data["resize"]) <= LARGEST and 1 <= int(data["crop"]) <= LARGEST):
            raise ValueError(f"resize and crop must be 1 to {LARGEST} pixels")
        if data["interpolation"] not in get_args(Interpolation) or data["fit"] not in get_args(Fit):
            raise ValueError("interpolation must be bilinear or bicubic, fit must be shorter or squash")
        return cls(
            resize=int(data["resize"]),
            crop=int(data["crop"]),
            interpolation=data["interpolation"],
            fit=data["fit"],
            mean=mean,
            std=std,
            levels=levels_of(data.get("levels")),  # None in files that are older than the key
        )

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize of an image whose aspect ratio is bounded already; see `bounded_size`."""
        if self.fit == "squash":
            return self.resize, self.resize
        if height <= width:
            return self.resize, max(self.resize, self.resize * width // height)
        return max(self.resize, self.resize * height // width), self.resize

    def bounded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the middle part of an image that is resized; see `MAX_ASPECT`."""
        kept = MAX_ASPECT * min(height, width)
        return min(height, kept), min(width, kept)

    @property
    def canvas(self) -> int:
        """Side in pixels of the square that augmented crops are drawn from."""
        return max(self.resize, self.crop)


def crop_start(excess: int) -> int:
    """First row or column of a centre crop of a side that is `excess` pixels longer than the crop.

    Half the excess, and a half is rounded to even, as in torchvision's and timm's transforms.
    """
    return round(excess / 2)


def levels_of(found: Any) -> tuple[float, float] | None:
    """Read `Preprocess.levels`: two numbers, or None.

    Raises:
        ValueError: they are not two finite numbers of which the first is lower.
    """
    if found is None:
        return None
    try:
        low, high = (float(value) for value in found)
    except (TypeError, ValueError):
        raise ValueError(f"levels {found!r} are not two numbers") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"levels {low:g} {high:g} are not two numbers of which the first is lower")
    return low, high


__getattr__ = lazy_attributes(
    __name__,
    {name: f"zoo.data.image:{name}" for name in ("BadImage", "decode", "normalise", "pixels")},
)
