"""Costly images: files whose decoding takes far more time or memory than their number of pixels tells.

They are recognised by their structure before Pillow opens them. No camera or program writes such files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

from zoo.serving.bounds import Bounds, Rejection

MOST_SCANS = 100  # of a JPEG: each goes over the whole image, and may take a few bytes. Encoders write 1 to 12
MOST_SEGMENTS = 10_000  # of a JPEG before its first scan
MOST_CHUNKS = 2**16  # of a PNG; encoders write 8 KB to each
MOST_STRIPS = 2**18  # strips or tiles of a TIFF
MOST_TILE = 2**24  # pixels of a tile of a TIFF, which may be larger than the image
MOST_FRAMES = 100  # of a TIFF that are counted

_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # between a JPEG's scans, where 0 and D0 to D7 are data
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers that no length follows
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # of TIFF's types


def refuse_costly(data: bytes, bounds: Bounds) -> None:
    """Refuse an encoded image that is costly to decode.

    Raises:
        Rejection: 413 for a bound of pixels, 422 for a structure that no image needs.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(_PNG):
        _check_png(data)
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        # Pillow allocates the canvas when it opens the file
        width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        if width * height > bounds.pixels:
            raise too_many_pixels(width * height, bounds)
    elif data[:2] in (b"II", b"MM"):
        _check_tiff(data)


def too_many_pixels(pixels: int, bounds: Bounds) -> Rejection:
    """The rejection of an image that is too large."""
    return Rejection(413, "pixels", f"the image has {pixels:,} pixels, over {bounds.pixels:,}", "send a smaller one")


def refuse_metadata(image: Image.Image) -> None:
    """Refuse an opened image whose EXIF names the same bytes again and again, which some versions of Pillow copy.

    Raises:
        Rejection: 422.
    """
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and image.format != "TIFF":
        _check_exif(exif)


def frames(image: Image.Image, encoded: bytes) -> int:
    """Frames or pages of an opened image; those of a TIFF up to `MOST_FRAMES`."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    found: set[int] = set()  # `n_frames` of a TIFF reads all pages
    for place, _ in _directories(encoded):
        if place in found or len(found) == MOST_FRAMES:
            break
        found.add(place)
    return max(len(found), 1)


def _check_jpeg(data: bytes) -> None:
    place, scans, segments, exif = 2, 0, 0, b""
    while found := _MARKER.search(data, place):
        kind, place = data[found.end() - 1], found.end()
        if kind == 0xD9:
            break
        segments += 1
        scans += kind == 0xDA
        if scans > MOST_SCANS or segments > MOST_SEGMENTS:
            what = f"{MOST_SCANS} scans" if scans > MOST_SCANS else f"{MOST_SEGMENTS:,} segments"
            raise _unusual("JPEG", what)
        if kind not in _ALONE:
            length = int.from_bytes(data[place : place + 2], "big")
            if kind == 0xE1 and data[place + 2 : place + 8] == b"Exif\0\0":
                exif += data[place + 2 : place + length] if not exif else data[place + 8 : place + length]
            place += max(length, 2)
    if exif:
        _check_exif(exif)


def _check_png(data: bytes) -> None:
    place = len(_PNG)
    for _ in range(MOST_CHUNKS):
        if place + 8 > len(data) or data[place + 4 : place + 8] == b"IEND":
            return
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    raise _unusual("PNG", f"{MOST_CHUNKS:,} chunks")


def _check_tiff(data: bytes) -> None:
    first = next(_directories(data), None)
    if first is None:
        return
    tile = {}
    total = 0
    for tag, kind, count, value in first[1]:
        if tag in (273, 324) and count > MOST_STRIPS:
            raise _unusual("TIFF", f"{MOST_STRIPS:,} strips")
        if tag in (322, 323):
            tile[tag] = value
        total += count * _SIZES.get(kind, 0)
    if tile.get(322, 0) * tile.get(323, 0) > MOST_TILE:
        raise Rejection(413, "pixels", f"the TIFF has tiles of over {MOST_TILE:,} pixels", "use smaller tiles")
    if total > 2 * len(data) + 2**16:
        raise _unusual("TIFF", "its own length of tags")


def _check_exif(exif: bytes) -> None:
    exif = exif.removeprefix(b"Exif\0\0")
    first = next(_directories(exif), None)
    if first is not None and sum(count * _SIZES.get(kind, 0) for _, kind, count, _ in first[1]) > 2 * len(exif) + 2**16:
        raise _unusual("image's EXIF", "its own length of tags")


def _unusual(what: str, more: str) -> Rejection:
    return Rejection(422, "image", f"the {what} has more than {more}", "save the image again")


def _directories(data: bytes) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
    """The directories of a TIFF, as far as they can be read: the place of each, and its tags.

    A tag is its number, type, count, and the value or the place of its values. The directories may form a loop.
    """
    mark = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    offset, number, tag = ("Q", "Q", "HHQQ") if is_big else ("L", "H", "HHLL")
    try:
        (place,) = struct.unpack_from(mark + offset, data, 8 if is_big else 4)
        while place:
            (count,) = struct.unpack_from(mark + number, data, place)
            start, size = place + struct.calcsize(mark + number), struct.calcsize(mark + tag)
            known = min(count, (len(data) - start) // size, 2**16)
            yield place, [_tag(data, mark, tag, start + size * index) for index in range(known)]
            (place,) = struct.unpack_from(mark + offset, data, start + size * count)
    except (struct.error, OverflowError):
        return


def _tag(data: bytes, mark: str, form: str, place: int) -> tuple[int, int, int, int]:
    number, kind, count, value = struct.unpack_from(mark + form, data, place)
    if kind == 3 and count == 1:  # a short one lies in the first two bytes of the field
        (value,) = struct.unpack_from(mark + "H", data, place + struct.calcsize(mark + form[:3]))
    return number, kind, count, value
