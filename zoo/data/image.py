"""Images: from a file's bytes to a network's input. Every evaluation uses these functions.

An image is decoded, turned as its EXIF orientation says, laid over white where it is transparent, converted to RGB,
resized by Pillow with antialiasing, and cropped in the centre. Evaluation decodes in full; training may skip detail
that the resize would remove.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.dataset import ImageSource, as_source
from zoo.errors import ZooError, first_line
from zoo.preprocess import Preprocess
from zoo.storage.cache import source_key

# Formats that are accepted. GIF is not: such a file is more often a placeholder ("image not found") than a photograph
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")

# Largest image that is decoded; a larger one is reported as unusable. Pillow warns of a decompression bomb above 89
# megapixels and refuses twice as many, but cameras reach 200
MAX_PIXELS = 300_000_000

# Pillow's own bound (179 megapixels) is global and too low. `decode` checks `MAX_PIXELS` before it decodes anything
Image.MAX_IMAGE_PIXELS = None

_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Pixels = npt.NDArray[np.uint8]


class BadImage(ZooError):
    """An image that cannot be used: it is missing, damaged, too large, or in another format."""


def decode(
    source: ImageSource | Path | Pixels,
    at_least: int | None = None,
    admit: Callable[[int], None] = lambda pixels: None,
) -> Pixels:
    """Decode an image to `(H, W, 3)` uint8 RGB, upright. Pixels in memory are returned unchanged.

    Args:
        source: The image.
        at_least: For training only: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its
            shorter side has this many pixels. This is faster, since the decoder skips detail that the resize would
            remove. None: full size.
        admit: Called with the number of pixels before they are decoded, from the size that the file declares. It may
            wait.

    Raises:
        BadImage: the file is missing, truncated, not an image, or larger than `MAX_PIXELS`.
    """
    source = as_source(source)
    try:
        opened = source.open()
        if isinstance(opened, np.ndarray):
            return opened
        with opened, Image.open(opened) as image:
            if image.format not in FORMATS:
                raise BadImage(f"`{source}` is a {image.format} file, not a photograph")
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"`{source}` has {image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            admit(image.width * image.height)
            return to_rgb(image)
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise BadImage(f"there is no file `{source}`") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"`{source}` cannot be read as an image") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files
        reason = first_line(error)
        raise BadImage(f"`{source}` cannot be decoded: {reason}") from error


def to_rgb(image: Image.Image) -> Pixels:
    """Convert an opened image to upright RGB `(H, W, 3)` uint8.

    16-bit grey levels are scaled to 8 bits, and transparent images are laid over white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey16(image)
    if image.mode in ("P", "PA") and ("transparency" in image.info or image.mode == "PA"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "RGBa") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _grey16(image: Image.Image) -> Pixels:
    """Scale 16-bit or 32-bit grey levels to 8 bits by their full range. Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" and values.max(initial=0.0) <= 1.0:
        values = values * 255.0
    elif image.mode.startswith("I;16") or values.max(initial=0.0) > 255:
        values = values / 257.0  # 65535 / 255
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def bound_aspect(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The middle part of an image whose aspect ratio is above `zoo.preprocess.MAX_ASPECT`; others are unchanged."""
    height, width = image.shape[:2]
    kept_height, kept_width = preprocess.bounded_size(height, width)
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return image[top : top + kept_height, left : left + kept_width]


def resize(image: Pixels, preprocess: Preprocess) -> Pixels:
    """Bound the aspect ratio and resize with antialiasing, by Pillow: `(H, W, 3)` to `(h, w, 3)`, uint8.

    The horizontal pass comes first, as in Pillow up to version 12 and in onnxruntime. Pillow 13 chooses the order by
    the sizes. Values are rounded and clipped between the passes, so another order changes pixels, in noise by up to 30
    grey levels.
    """
    image = bound_aspect(image, preprocess)
    height, width = preprocess.resized_size(*image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    opened = Image.fromarray(np.ascontiguousarray(image))
    filter = _PILLOW[preprocess.interpolation]
    return np.asarray(opened.resize((width, opened.height), filter).resize((width, height), filter))


def centre_crop(image: Pixels, side: int) -> Pixels:
    """The middle `(side, side, 3)` of an image. A smaller image is padded with black, as in torchvision."""
    height, width = image.shape[:2]
    if height < side or width < side:
        above, left = max(side - height, 0) // 2, max(side - width, 0) // 2
        below, right = max(side - height, 0) - above, max(side - width, 0) - left
        image = np.pad(image, ((above, below), (left, right), (0, 0)))
        height, width = image.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def pixels(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The network's input before normalisation: `(H, W, 3)` to `(crop, crop, 3)`, uint8."""
    return centre_crop(resize(image, preprocess), preprocess.crop)


def pixel_key(preprocess: Preprocess) -> dict[str, Any]:
    """JSON values of everything that pixels depend on besides the file: sizes, filter, this code, Pillow's version."""
    return {
        "resize": preprocess.resize,
        "fit": preprocess.fit,
        "interpolation": preprocess.interpolation,
        "code": source_key(Path(__file__)),
        "pillow": PIL.__version__,
    }


def canvas(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The square that random crops are taken from: `(H, W, 3)` to `(canvas, canvas, 3)`, uint8."""
    return centre_crop(resize(image, preprocess), preprocess.canvas)


def normalise(batch: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Normalise a batch `(N, H, W, 3)` uint8 to `(N, 3, H, W)` float32: `(x / 255 - mean) / std`."""
    scaled = batch.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
