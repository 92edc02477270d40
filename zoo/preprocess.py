"""Preprocess: from a photograph's pixels to a network's input, as data.

The same values drive training, evaluation, the ONNX graph and the metadata of the exported file. The reference
implementation is Pillow's, in `zoo/data/image.py`; every other one is held to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

# A strip of 20,000 x 1 pixels would be resized to gigabytes. The middle of the long side is kept, up to this many
# times the short side; the centre crop that follows sees nothing of what is cut. Photographs seldom exceed 3:1.
MAX_ASPECT = 4

LARGEST = 8192  # pixels of a resize and of a crop

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["shorter", "squash"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize (with antialiasing), centre crop, scale to 0..1, normalise.

    `fit` is what `resize` means: `shorter`, the shorter side becomes `resize` pixels and the aspect ratio stays;
    `squash`, both sides become `resize` pixels.
    """

    resize: int = 256  # pixels
    crop: int = 224  # pixels, both sides: what the network sees
    interpolation: Interpolation = "bilinear"
    fit: Fit = "shorter"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of RGB in 0..1
    std: tuple[float, float, float] = IMAGENET_STD

    def at(self, image_size: int | None) -> Preprocess:
        """The same for another input size: the resize keeps its ratio to the crop."""
        if image_size is None or image_size == self.crop:
            return self
        return replace(self, crop=image_size, resize=round(self.resize * image_size / self.crop))

    def to_json(self) -> dict[str, Any]:
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "fit": self.fit,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, or none that can be meant.
        """
        mean, std = tuple(map(float, data["mean"])), tuple(map(float, data["std"]))
        if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(value) for value in mean):
            raise ValueError("mean and std are three numbers each")
        if not all(math.isfinite(value) and value > 0 for value in std):
            raise ValueError("std is above 0")
        if not (1 <= int(data["resize"]) <= LARGEST and 1 <= int(data["crop"]) <= LARGEST):
            raise ValueError(f"resize and crop are 1 to {LARGEST} pixels")
        if data["interpolation"] not in get_args(Interpolation) or data["fit"] not in get_args(Fit):
            raise ValueError("interpolation is bilinear or bicubic, fit is shorter or squash")
        return cls(
            resize=int(data["resize"]),
            crop=int(data["crop"]),
            interpolation=data["interpolation"],
            fit=data["fit"],
            mean=mean,
            std=std,
        )

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize, of a photograph whose aspect ratio is bounded already."""
        if self.fit == "squash":
            return self.resize, self.resize
        if height <= width:
            return self.resize, max(self.resize, self.resize * width // height)
        return max(self.resize, self.resize * height // width), self.resize

    def bounded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the middle part that the resize is given; see `MAX_ASPECT`."""
        kept = MAX_ASPECT * min(height, width)
        return min(height, kept), min(width, kept)

    @property
    def canvas(self) -> int:
        """Side in pixels of the square that augmented crops are drawn from."""
        return max(self.resize, self.crop)
