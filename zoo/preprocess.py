"""Preprocessing: from an image's pixels to a network's input, described as data.

Training, evaluation, the ONNX graph and the metadata of the exported file use the same values. The reference
implementation uses Pillow (`zoo/data/image.py`); every other implementation is tested against it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

from zoo.target import lazy_attributes

# A strip of 20,000 x 1 pixels would be resized to gigabytes. So only the middle of the long side is kept, at most this
# many times the short side. The centre crop that follows needs no more, and photographs seldom exceed 3:1
MAX_ASPECT = 4
# The same for images that are squashed as a whole. No photograph is longer, and the resize's first pass stays small
WHOLE_ASPECT = 64

LARGEST = 8192  # pixels, of `resize` and of `crop`

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["shorter", "squash", "pad"]
FitSetting = Literal["crop", "squash", "pad"]  # what users ask for
FIT_SETTINGS: dict[Any, FitSetting] = {"shorter": "crop", "squash": "squash", "pad": "pad"}

# A square's side, or height and width, in pixels. Records have a number for a square and two for any other rectangle
ImageSize = int | tuple[int, int]
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize with antialiasing, crop the centre or pad, scale to 0..1, and normalise.

    Attributes:
        resize: Size that the image is resized to, in pixels: a number, or height and width.
        crop: Size of the centre crop, which is the network's input: a number, or height and width.
        interpolation: Filter of the resize.
        fit: What `resize` means. `shorter`: the image covers it, and the aspect ratio stays; of a square, the shorter
            side becomes `resize` pixels. `squash`: both sides become `resize`. `pad`: the image fits into it, and the
            aspect ratio stays; of a square, the longer side becomes `resize` pixels, which equals `crop`, and the rest
            is filled, with the image in the middle.
        fill: Red, green and blue, 0 to 255, that `pad` fills with. None: `mean` where `fit` is `pad`.
        max_aspect: Images longer than this many times their width, or wider, lose their ends; `pad` keeps them.
        mean: Mean of the red, green and blue channel in 0..1, which is subtracted.
        std: Standard deviation of the channels in 0..1, by which the result is divided.
        levels: Grey levels that become black and white, in images of more than 8 bits. None: those of the image's type.
    """

    resize: ImageSize = 256
    crop: ImageSize = 224
    interpolation: Interpolation = "bilinear"
    fit: Fit = "shorter"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    levels: tuple[float, float] | None = None
    fill: Colour | None = None
    max_aspect: int = MAX_ASPECT

    def __post_init__(self) -> None:
        """Check mean, standard deviation and `fit`, and write a square's size as one number.

        Raises:
            ValueError: they are not finite, or are those of pixels in 0..255; or `resize`, `crop` and `fill` do not go
                with `fit`.
        """
        for name in ("resize", "crop"):
            object.__setattr__(self, name, as_size(getattr(self, name)))
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError("mean and std must be finite, and std above 0")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if max(values) > 1:
                raise ValueError(
                    f"{name} {max(values):g} is not of pixels in 0..1; divide mean and std of pixels in 0..255 by 255"
                )
        if self.fit != "pad":
            if self.fill is not None:
                raise ValueError(f"fill is for fit pad, not for {self.fit}")
            return
        if self.resize != self.crop:
            raise ValueError(f"with fit pad, resize {pixels_text(self.resize)} must be crop {pixels_text(self.crop)}")
        fill = self.fill if self.fill is not None else [min(max(round(255 * mean), 0), 255) for mean in self.mean]
        object.__setattr__(self, "fill", colour_of(fill))

    def at(self, image_size: ImageSize | None) -> Preprocess:
        """The same preprocessing for another input size; `resize` keeps its ratio to `crop`. None: unchanged."""
        if image_size is None or as_size(image_size) == self.crop:
            return self
        sides = zip(height_width(image_size), self.resize_size, self.input_size)
        height, width = (round(resize * side / crop) for side, resize, crop in sides)
        return replace(self, crop=image_size, resize=(height, width))

    def fitted(self, fit: FitSetting | None, fill: Colour | None = None) -> Preprocess:
        """The same preprocessing with the user's `--fit`; None: unchanged.

        `squash` and `pad` show the whole image, so that `resize` becomes `crop`. `crop` keeps `resize`.

        Raises:
            ValueError: there is a colour to fill with, and nothing is padded.
        """
        if fit is None:
            if fill is not None and self.fit != "pad":
                raise ValueError("fill is for fit pad")
            return self if fill is None else replace(self, fill=fill)
        if fit == "crop":
            return replace(self, fit="shorter", fill=fill, max_aspect=MAX_ASPECT)
        aspect = WHOLE_ASPECT if fit == "squash" else MAX_ASPECT
        return replace(self, fit=fit, resize=self.crop, fill=fill, max_aspect=aspect)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `levels`, `fill` and `max_aspect` only if they differ from their defaults."""
        found: dict[str, Any] = {
            "resize": size_json(self.resize),
            "crop": size_json(self.crop),
            "interpolation": self.interpolation,
            "fit": self.fit,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.levels is not None:
            found["levels"] = list(self.levels)
        if self.fill is not None:
            found["fill"] = list(self.fill)
        if self.max_aspect != MAX_ASPECT:
            found["max_aspect"] = self.max_aspect
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, of the wrong type, or out of bounds.
        """
        mean, std = tuple(map(float, data["mean"])), tuple(map(float, data["std"]))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std must be three numbers each")
        sizes: list[ImageSize] = []
        for name in ("resize", "crop"):
            try:
                sizes.append(as_size(data[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if data["interpolation"] not in get_args(Interpolation) or data["fit"] not in get_args(Fit):
            raise ValueError("interpolation must be bilinear or bicubic, fit must be shorter, squash or pad")
        fill, aspect = data.get("fill"), int(data.get("max_aspect", MAX_ASPECT))
        if not 1 <= aspect <= LARGEST:
            raise ValueError(f"max_aspect must be 1 to {LARGEST}")
        return cls(
            resize=sizes[0],
            crop=sizes[1],
            interpolation=data["interpolation"],
            fit=data["fit"],
            mean=mean,
            std=std,
            levels=levels_of(data.get("levels")),  # None in files that are older than the key
            fill=None if fill is None else colour_of(fill),
            max_aspect=aspect,
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return height_width(self.crop)

    @property
    def resize_size(self) -> tuple[int, int]:
        """`resize` as height and width."""
        return height_width(self.resize)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the part of a resized image that augmented crops are drawn from."""
        height, width = (max(sides) for sides in zip(self.resize_size, self.input_size))
        return height, width

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize of an image whose aspect ratio is bounded already; see `bounded_size`."""
        tall, wide = self.resize_size
        if self.fit == "squash":
            return tall, wide
        if self.fit == "pad":  # to the nearest pixel, and never to none
            return (
                max(1, min(tall, (2 * height * wide + width) // (2 * width))),
                max(1, min(wide, (2 * width * tall + height) // (2 * height))),
            )
        return max(tall, height * wide // width), max(wide, width * tall // height)

    def bounded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the middle part of an image that is resized; see `max_aspect`.

        The aspect ratio is counted from that of `resize`.
        """
        if self.fit == "pad":
            return height, width
        tall, wide = self.resize_size
        return (
            min(height, max(1, self.max_aspect * width * tall // wide)),
            min(width, max(1, self.max_aspect * height * wide // tall)),
        )

    def __str__(self) -> str:
        """Filter, sizes and fit on one line, as `zoo verify` shows them."""
        how = f"{self.interpolation} {self.fit} {pixels_text(self.resize)}, crop {pixels_text(self.crop)}"
        return how if self.fill is None else f"{how}, filled with {' '.join(map(str, self.fill))}"


def as_size(found: Any, low: int = 1, high: int = LARGEST) -> ImageSize:
    """Read an image size: a number, two numbers (height, width), or a text such as `224` or `160x320`.

    A square's size is one number.

    Raises:
        ValueError: it is none of these, or a side is outside the bounds.
    """
    if isinstance(found, str):
        match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", found.strip())
        if match is None:
            raise ValueError(f"`{found}` is not a size such as 224, or 160x320 (height x width)")
        found = int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))
    sides = tuple(found) if isinstance(found, Sequence) else (found, found)
    if len(sides) != 2 or not all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides):
        raise ValueError(f"size {found!r} is not a whole number, or two (height and width)")
    height, width = map(int, sides)
    if not (low <= height <= high and low <= width <= high):
        raise ValueError(f"size {pixels_text((height, width))} is outside {low:,} to {high:,} pixels")
    return height if height == width else (height, width)


def height_width(size: ImageSize) -> tuple[int, int]:
    """Height and width of an image size."""
    return size if isinstance(size, tuple) else (size, size)


def pixels_text(size: ImageSize) -> str:
    """An image size as text: `224`, or `160x320` (height x width)."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height}x{width}"


def size_json(size: ImageSize) -> int | list[int]:
    """An image size in JSON: a number, or a list of height and width."""
    return list(size) if isinstance(size, tuple) else size


def colour_of(found: Any) -> Colour:
    """Read `Preprocess.fill`: red, green and blue.

    Raises:
        ValueError: they are not three whole numbers from 0 to 255.
    """
    try:
        given = list(found)
        red, green, blue = (int(value) for value in given)
    except (TypeError, ValueError):
        raise ValueError(f"fill {found!r} is not three whole numbers") from None
    if [red, green, blue] != given or not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"fill {' '.join(map(str, given))} is not three whole numbers from 0 to 255")
    return red, green, blue


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
