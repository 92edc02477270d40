"""Image files: opened without Pillow's global bound, and repaired where nothing of the image is missing."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import (  # importing a format's module registers it
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from zoo.data.image_formats import (
    OPTIONAL_NAMES,
    PREFIX,
    READ,
    named_format,
    optional_format,
    why_not_read,
)

_REGISTERED = (BmpImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)

FORMATS = tuple(name for one in READ for name in one.pillow)

# Other files by the bytes that they begin with, for the message about a file that is not accepted
_BEGINNINGS = {
    b"%PDF": "PDF",
    b"version https://git-lfs": "Git LFS pointer",
    b"<": "HTML or XML",
}

_BOUND = threading.RLock()


class Repaired(NamedTuple):
    """A file's bytes that can be decoded, and what was wrong with it."""

    data: bytes
    what: str


class MissingReader(ValueError):
    """A photograph of a format whose library is not installed; the message is the end of a sentence."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


def optional_kind(stream: BinaryIO, accept: Container[str]) -> str | None:
    """The optional format of a file, if it is among `accept`; None: another format.

    Raises:
        MissingReader: the format is accepted, but its library is not installed.
    """
    stream.seek(0)
    name = optional_format(stream.read(PREFIX))
    if name is None or name not in accept:
        return None
    reason = why_not_read(name)
    if reason is not None:
        raise MissingReader(name, reason)
    return name


def open_image(stream: BinaryIO, accept: Container[str] = OPTIONAL_NAMES) -> Image.Image:
    """Open an image of one of `FORMATS`, or of an optional format among `accept`; nothing is decoded.

    `Image.open` would check a bound that is global to the process (179 megapixels), which belongs to the program that
    imports zoo.

    Raises:
        UnidentifiedImageError: the file is not of one of these formats; DICOM is not read by Pillow.
        MissingReader: the library of an optional format is not installed.
        OSError: the file of an optional format is damaged.
    """
    kind = optional_kind(stream, accept)
    stream.seek(0)
    if kind in ("HEIC", "AVIF"):
        try:
            opened: Image.Image = _optional(kind)(stream, "")
            return opened
        except SyntaxError as error:  # what Pillow's plugins raise
            raise OSError(f"{kind}: {str(error) or 'damaged'}") from error
    prefix = stream.read(16)
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts is not None and accepts(prefix) is not True):
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # as `Image.open` does: it may be another format
            continue
    raise UnidentifiedImageError


def _optional(kind: str) -> Any:
    """Pillow's class for a format; importing it does not change what `Image.open` of this process reads."""
    if kind == "HEIC":
        from pillow_heif.as_plugin import HeifImageFile

        return HeifImageFile
    from PIL.AvifImagePlugin import AvifImageFile

    return AvifImageFile


def frames_text(image: Image.Image) -> str | None:
    """What is said of an opened image that has several frames or pages; None: it has one.

    The second picture of a JPEG, as telephones write it, is none. The pages of a TIFF are not counted, since each would
    be read.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return "has several pages, of which the first is used" if image.tag_v2.next else None
    count = int(getattr(image, "n_frames", 1))
    return f"has {count} frames, of which the first is used" if count > 1 and image.format != "MPO" else None


@contextmanager
def without_bound() -> Iterator[None]:
    """Without Pillow's bound, which some formats also check while they decode; only one thread at a time."""
    with _BOUND:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def exceeds_bound(image: Image.Image) -> bool:
    """Whether Pillow might warn of an image's size while it decodes."""
    return Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS


def format_name(stream: BinaryIO) -> str | None:
    """The name of a format that is not accepted; None: unknown."""
    stream.seek(0)
    prefix = stream.read(PREFIX)
    name = optional_format(prefix) or named_format(prefix)
    if name is not None:
        return name
    prefix = prefix.lstrip()
    if prefix[4:8] == b"ftyp":
        return "film"
    for beginning, name in _BEGINNINGS.items():
        if prefix.startswith(beginning):
            return name
    try:
        stream.seek(0)
        return Image.open(stream).format
    except Exception:  # a decoder may raise anything
        return None


def repair(stream: BinaryIO) -> Repaired | None:
    """The bytes of a file that Pillow refuses though nothing of its image is missing; None: they are not that.

    - a JPEG without its last bytes, which mark its end. Browsers show it. One that lacks a part of its image is not
      repaired: a decoder would make up the rest.
    - a PNG with a colour profile or a text of over 1 MB, which Pillow takes for an attack.
    """
    stream.seek(0)
    data = stream.read()
    if data.startswith(b"\xff\xd8"):
        whole = _ended_jpeg(data)
        return None if whole is None else Repaired(whole, "lacks its last bytes, but no part of the image")
    if data.startswith(PNG):
        kept = _without_texts(data)
        if kept is not None and len(kept) < len(data):
            return Repaired(kept, "has a colour profile or a text of over 1 MB, which is ignored")
    return None


def _ended_jpeg(data: bytes) -> bytes | None:
    """A JPEG with its end marker, if its image is complete.

    Several ends are tried: the marker alone, after which a decoder makes up what is missing, and random bytes before
    it, which it would decode. Only if nothing is missing, all give the same image.
    """
    data = data.rstrip(b"\xff")
    if not _has_every_scan(data):
        return None
    noise = np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8).tobytes()  # without 255, which is special
    found: set[bytes] = set()
    for end in (b"", *(bytes([first]) + noise for first in (0x2A, 0x6A, 0x95, 0xD5))):  # begin with bits 00 to 11
        try:
            pixels = np.asarray(open_image(io.BytesIO(data + end + b"\xff\xd9")))
        except Exception:  # damaged in another way
            return None
        found.add(hashlib.sha256(np.ascontiguousarray(pixels).data).digest())
        if len(found) > 1:  # not decoded five times
            return None
    return data + b"\xff\xd9"


def _has_every_scan(data: bytes) -> bool:
    """Whether the scans of a JPEG hold every coefficient to its last bit, and the last scan all its restart markers.

    A progressive JPEG that ends between two scans decodes without an error, coarse or without its colours; one that
    ends before a restart marker decodes with grey in place of the rest, whatever follows.
    """
    missing: dict[int, set[int]] = {}  # component -> coefficients that have not come yet in full
    frame: tuple[int, int, dict[int, tuple[int, int]]] = 0, 0, {}
    interval, restarts, place = 0, 0, 2  # `restarts`: markers that the current scan still lacks
    while place + 2 <= len(data):
        if data[place] != 0xFF or data[place + 1] in (0x00, 0xFF, *range(0xD0, 0xD8)):  # in a scan, or a filler
            restarts -= data[place] == 0xFF and 0xD0 <= data[place + 1] <= 0xD7
            following = data.find(b"\xff", place + 1)
            if following < 0:
                break
            place = following
            continue
        if place + 4 > len(data):
            break
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2) and len(body) >= 6:
            height, width = struct.unpack_from(">HH", body, 1)
            frame = width, height, {one: (how >> 4, how & 15) for one, how in zip(body[6::3], body[7::3])}
            missing = {component: set(range(64)) for component in frame[2]}
        elif marker == 0xDD and len(body) >= 2:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == 0xDA and len(body) >= 4:
            first, last, bits = body[-3:]
            components = body[1 : 1 + 2 * body[0] : 2]
            for component in components:
                if bits & 15 == 0:
                    missing.get(component, set()).difference_update(range(first, last + 1))
            restarts = -(-_units(frame, components) // interval) - 1 if interval else 0
        place += 2 + length
    return not any(missing.values()) and restarts <= 0


def _units(frame: tuple[int, int, dict[int, tuple[int, int]]], components: bytes) -> int:
    """The number of units that a scan of some components consists of, as the JPEG standard (A.2) counts them."""
    width, height, factors = frame
    across = max((one for one, _ in factors.values()), default=1) or 1
    down = max((one for _, one in factors.values()), default=1) or 1
    if len(components) == 1 and components[0] in factors:  # blocks of this component
        ours = factors[components[0]]
        width, height = -(-width * ours[0] // across), -(-height * ours[1] // down)
        across = down = 1
    return -(-width // (8 * across)) * -(-height // (8 * down))


PNG = b"\x89PNG\r\n\x1a\n"


def _without_texts(data: bytes) -> bytes | None:
    """A PNG without the chunks that hold texts and colour profiles; None: it is damaged."""
    kept, place = [data[: len(PNG)]], len(PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            return None
        if data[place + 4 : place + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[place:end])
        place = end
    return b"".join(kept)
