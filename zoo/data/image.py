"""Images: from a file's bytes to a network's input. Every evaluation uses these functions.

An image is decoded, turned as its EXIF orientation says, laid over white where it is transparent, converted to RGB,
resized by Pillow with antialiasing, and cropped in the centre or padded. Evaluation decodes in full; training may skip
detail that the resize would remove.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.data.dicom import NoImage, decode_dicom
from zoo.data.grey_levels import Levels, UnknownLevels, is_deep_grey, to_8_bits
from zoo.data.image_file import (
    MissingReader,
    exceeds_bound,
    format_name,
    frames_text,
    open_image,
    optional_kind,
    repair,
    without_bound,
)
from zoo.data.image_formats import NAMED, OPTIONAL_NAMES, readers
from zoo.data.image_formats import SUFFIXES as SUFFIXES
from zoo.dataset import ImageSource, as_source
from zoo.errors import Unreachable, ZooError, first_line
from zoo.preprocess import Colour, ImageSize, Preprocess, crop_start, height_width
from zoo.storage.cache import source_key

# Largest image that is decoded; a larger one is reported as unusable. Pillow warns of a decompression bomb above 89
# megapixels and refuses twice as many, but cameras reach 200
MAX_PIXELS = 300_000_000

_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_CODE = ("image", "image_file", "image_formats", "grey_levels", "dicom")  # modules that decide the pixels

Pixels = npt.NDArray[np.uint8]


class BadImage(ZooError):
    """An image that cannot be used: it is missing, damaged, too large, or in another format."""


class UnreadImage(BadImage):
    """An image whose bytes could not be read. Unlike what is wrong with its content, that may pass."""


class TooLarge(BadImage):
    """An image of more than `MAX_PIXELS`.

    Attributes:
        pixels: Its number of pixels, by the size that the file declares.
    """

    def __init__(self, message: str, pixels: int) -> None:
        super().__init__(message)
        self.pixels = pixels


def decode(
    source: ImageSource | Path | Pixels,
    at_least: int | None = None,
    *,
    levels: Levels | None = None,
    remark: Callable[[str], None] = lambda text: None,
    admit: Callable[[int], None] = lambda pixels: None,
    opened: Callable[[Image.Image], None] = lambda image: None,
    foreign: Callable[[BinaryIO], str | None] = format_name,
    accept: Container[str] = OPTIONAL_NAMES,
) -> Pixels:
    """Decode an image to `(H, W, 3)` uint8 RGB, upright. Pixels in memory are returned unchanged.

    Args:
        source: The image.
        at_least: For training only: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its
            shorter side has this many pixels. This is faster, since the decoder skips detail that the resize would
            remove. None: full size.
        levels: Grey levels that become black and white, in images of more than 8 bits. None: those of their type.
        remark: Receives what was wrong with an image that is decoded nevertheless.
        admit: Called with the number of pixels before they are decoded, from the size that the file declares. It may
            wait, or raise `BadImage`.
        opened: Called with the image after `admit` and before it is decoded. It must not move to another frame.
        foreign: Names the format of a file that is not accepted, for the message. The default tries every format that
            Pillow knows, which is not for files of strangers.
        accept: Names of the optional formats that are read, each if its library is installed.

    Raises:
        BadImage: the file is missing, truncated, not an image, or larger than `MAX_PIXELS`, or its type does not say
            which grey levels are black and white; or pixels in memory are not `(H, W, 3)` uint8. `UnreadImage` if it
            could not be read.
        Unreachable: what holds it answers no more.
    """
    source, admitted = as_source(source), False

    def admit_once(pixels: int) -> None:  # a repaired file is decoded twice
        nonlocal admitted
        if not admitted:
            admitted = True
            admit(pixels)

    look = Look(at_least, levels, remark, admit_once, opened, foreign, accept)
    stream = _opened(source)
    try:
        if isinstance(stream, np.ndarray):
            return _checked(source, stream)
        with stream:
            try:
                return _decode(source, stream, look)
            except (BadImage, UnidentifiedImageError, UnknownLevels, NoImage, MissingReader, MemoryError):
                raise
            except Image.DecompressionBombError:  # in formats that check while they open
                with without_bound():
                    return _decode(source, stream, look)
            except Exception:
                repaired = repair(stream)
                if repaired is None:
                    raise
                pixels = _decode(source, io.BytesIO(repaired.data), look)
                remark(repaired.what)
                return pixels
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"`{source}` cannot be read as an image") from error
    except MissingReader as error:
        raise BadImage(f"`{source}` is a {error.name} photograph, which {error}") from error
    except NoImage as error:
        raise BadImage(f"`{source}` is a DICOM file that cannot be used: {error}") from error
    except UnknownLevels as error:
        raise BadImage(f"`{source}` cannot be scaled to 8 bits: {error}") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files
        reason = first_line(error)
        if isinstance(error, OSError) and error.errno is not None:  # of the system, in the middle of the file
            raise UnreadImage(f"`{source}` cannot be read: {error.strerror or reason}") from error
        raise BadImage(f"`{source}` cannot be decoded: {reason}") from error


def _opened(source: ImageSource) -> BinaryIO | Pixels:
    """What a source opens.

    Raises:
        UnreadImage: it cannot be opened, for whatever reason: a source of a plugin may raise anything.
        Unreachable: what holds it answers no more.
    """
    try:
        return source.open()
    except Unreachable:
        raise
    except FileNotFoundError as error:
        raise UnreadImage(f"there is no file `{source}`") from error
    except Exception as error:
        raise UnreadImage(
            f"`{source}` cannot be read: {getattr(error, 'strerror', None) or first_line(error)}"
        ) from error


def _checked(source: ImageSource, pixels: npt.NDArray[Any]) -> Pixels:
    """Pixels that a source gives, if they are what everything after it relies on."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return pixels
    shape = " x ".join(map(str, pixels.shape))
    raise BadImage(f"`{source}` cannot be used: its array is {shape} {pixels.dtype}, not H x W x 3 uint8")


class Look(NamedTuple):
    """The arguments of `decode`."""

    at_least: int | None
    levels: Levels | None
    remark: Callable[[str], None]
    admit: Callable[[int], None]
    opened: Callable[[Image.Image], None]
    foreign: Callable[[BinaryIO], str | None]
    accept: Container[str]


def _decode(source: ImageSource, stream: BinaryIO, look: Look) -> Pixels:
    if optional_kind(stream, look.accept) == "DICOM":

        def admit(height: int, width: int) -> None:
            _check_size(source, height, width)
            look.admit(height * width)

        return decode_dicom(stream, look.levels, look.remark, admit)
    try:
        image = open_image(stream, look.accept)
    except UnidentifiedImageError:
        name = look.foreign(stream)
        if name is None:
            raise
        what = f"{name} file, not a photograph"
        if name in OPTIONAL_NAMES or name in {one.name for one in NAMED if one.name != "GIF"}:
            what = f"{name} photograph, which zoo does not read: convert it to JPEG or PNG"
        raise BadImage(f"`{source}` is a {what}") from None
    _check_size(source, image.height, image.width)
    if look.at_least is not None:
        image.draft(None, (look.at_least, look.at_least))
    look.admit(image.width * image.height)
    look.opened(image)
    said = frames_text(image)
    if said is not None:
        look.remark(said)
    with without_bound() if exceeds_bound(image) else nullcontext():
        return to_rgb(image, look.levels, look.remark)


def _check_size(source: ImageSource, height: int, width: int) -> None:
    if width * height > MAX_PIXELS:
        raise TooLarge(f"`{source}` has {width} x {height} pixels, over {MAX_PIXELS:,}", width * height)


def to_rgb(
    image: Image.Image, levels: Levels | None = None, remark: Callable[[str], None] = lambda text: None
) -> Pixels:
    """Convert an opened image to upright RGB `(H, W, 3)` uint8.

    Grey levels of more than 8 bits are scaled, and transparent images are laid over white.

    Raises:
        UnknownLevels: the type does not say which grey levels are black and white.
    """
    kind = image.format
    image = ImageOps.exif_transpose(image)
    if is_deep_grey(image.mode):
        return to_8_bits(image, kind, levels, remark)
    if image.mode in ("P", "PA") and ("transparency" in image.info or image.mode == "PA"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "RGBa") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def has_deep_grey(sources: Iterable[ImageSource]) -> bool:
    """Whether any image has grey levels of more than 8 bits, or is a DICOM file; one that cannot be opened has none."""
    for source in sources:
        try:
            opened = source.open()
            if isinstance(opened, np.ndarray):
                continue
            with opened, without_bound():
                if optional_kind(opened, OPTIONAL_NAMES) == "DICOM" or is_deep_grey(open_image(opened).mode):
                    return True
        except Unreachable:
            raise
        except Exception:  # it is reported when it is decoded
            continue
    return False


def all_grey(images: Iterable[Pixels], fill: Colour | None) -> bool:
    """Whether no image of `(N, H, W, 3)` has a colour beside `fill`, which images are padded with."""
    known = False
    for image in images:
        known = True
        coloured = (image != image[..., :1]).any(axis=2)
        if fill is not None:
            coloured &= (image != np.array(fill, np.uint8)).any(axis=2)
        if coloured.any():
            return False
    return known


def bound_aspect(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The middle part of an image whose aspect ratio is above `Preprocess.max_aspect`; others are unchanged."""
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


def centre_crop(image: Pixels, size: ImageSize, fill: Colour | None = None) -> Pixels:
    """The middle `(h, w, 3)` of an image. A smaller image is padded with `fill`; None: black, as in torchvision."""
    height, width = height_width(size)
    image = _pad(image, (height, width), fill)
    return _cut(image, (height, width), crop_start(image.shape[0] - height), crop_start(image.shape[1] - width))


def _pad(image: Pixels, size: tuple[int, int], fill: Colour | None) -> Pixels:
    """Pad to at least `size`, with the image in the middle."""
    lack = tuple(max(wanted - side, 0) for wanted, side in zip(size, image.shape))
    if lack == (0, 0):
        return image
    above, left = (excess // 2 for excess in lack)
    height, width = image.shape[:2]
    padded = np.empty((height + lack[0], width + lack[1], 3), np.uint8)
    padded[:] = (0, 0, 0) if fill is None else fill
    padded[above : above + height, left : left + width] = image
    return padded


def _cut(image: Pixels, size: tuple[int, int], top: int, left: int) -> Pixels:
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])


def pixels(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The network's input before normalisation: `(H, W, 3)` to `(h, w, 3)` of `Preprocess.input_size`, uint8."""
    return centre_crop(resize(image, preprocess), preprocess.crop, preprocess.fill)


def pixel_key(preprocess: Preprocess) -> dict[str, Any]:
    """JSON values of everything that pixels depend on besides the file: sizes, filter, this code, Pillow's version."""
    return {
        "resize": preprocess.resize,
        "crop": preprocess.crop,
        "fit": preprocess.fit,
        "interpolation": preprocess.interpolation,
        "levels": preprocess.levels,
        "fill": preprocess.fill,
        "max_aspect": preprocess.max_aspect,
        "code": source_key(*(Path(__file__).with_name(f"{name}.py") for name in _CODE)),
        "pillow": PIL.__version__,
        "readers": readers(),
    }


def canvas(image: Pixels, preprocess: Preprocess) -> Pixels:
    """The part that random crops are taken from: `(H, W, 3)` to `(h, w, 3)` of `Preprocess.canvas`, uint8.

    Its centre crop is what `pixels` returns: a centre crop of a centre crop would be rounded twice.
    """
    size = preprocess.canvas
    image = _pad(resize(image, preprocess), size, preprocess.fill)
    top, left = (
        crop_start(length - crop) - crop_start(side - crop)
        for length, side, crop in zip(image.shape, size, preprocess.input_size)
    )
    return _cut(image, size, top, left)


def normalise(batch: Pixels, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Normalise a batch `(N, H, W, 3)` uint8 to `(N, 3, H, W)` float32: `(x / 255 - mean) / std`."""
    scaled = batch.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
