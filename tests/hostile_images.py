"""Image files that are made to cost a server much, or to be misread. All are small, and made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str = "JPEG", append_images: Sequence[Image.Image] = (), **options: Any) -> bytes:
    """An image in a file format. Copies are saved, since Pillow keeps a format's settings with the image."""
    stream = io.BytesIO()
    if append_images:
        options["append_images"] = [one.copy() for one in append_images]
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def photograph(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Noise in RGB."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and check sum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 1, colour: int = 0) -> bytes:
    """A black PNG that is `width` x `height` by its header, with `chunks` before the pixels."""
    row = b"\0" * (1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8)
    pack = zlib.compressobj(9)
    pixels = b"".join([*(pack.compress(row * 100) for _ in range(height // 100)), pack.compress(row * (height % 100))])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [PNG, png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels + pack.flush()), png_chunk(b"IEND", b"")]
    )


def png_bomb() -> bytes:
    """A PNG of 34 KB with 289 million pixels."""
    return png(17_000, 17_000)


def png_of_many_chunks(count: int) -> bytes:
    """A PNG of one pixel with `count` empty chunks."""
    return png(1, 1, png_chunk(b"abCd", b"") * count)


def jpeg_of_many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = encoded(photograph(), progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + b"\xff\xd9"


def jpeg_with_comments(size: int) -> bytes:
    """A good JPEG with comments of `size` bytes."""
    whole = encoded(photograph())
    part = b"\xff\xfe" + struct.pack(">H", 60_002) + b"x" * 60_000
    return whole[:2] + part * (size // len(part)) + whole[2:]


def tags(count: int, size: int, total: int) -> bytes:
    """A TIFF, or the EXIF of an image, of `total` bytes: `count` tags of which each names the same `size` bytes."""
    entries = b"".join(struct.pack("<HHLL", 40_000 + index, 7, size, 8) for index in range(count))
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", count) + entries + struct.pack("<L", 0)
    return head + b"\0" * max(total - len(head), 0)


def jpeg_with_exif(exif: bytes) -> bytes:
    """A good JPEG with an EXIF block of at most 64 KB."""
    whole = encoded(photograph())
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + whole[2:]


def tiff(**replaced: tuple[int, int, int]) -> bytes:
    """An uncompressed grey TIFF of one pixel; `replaced` are tags as `tNUMBER=(type, count, value)`."""
    values = {256: (3, 1, 1), 257: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    values |= {277: (3, 1, 1), 278: (3, 1, 1), 279: (4, 1, 1)}
    values |= {int(name[1:]): value for name, value in replaced.items()}
    entries = b"".join(struct.pack("<HHLL", tag, *values[tag]) for tag in sorted(values))
    return b"II*\0" + struct.pack("<L", 10) + b"\0\0" + struct.pack("<H", len(values)) + entries + struct.pack("<L", 0)


def tiff_with_loop() -> bytes:
    """A TIFF whose directory names itself as the next."""
    whole = bytearray(tiff())
    whole[-4:] = struct.pack("<L", 10)
    return bytes(whole)


def tiff_with_huge_tile() -> bytes:
    """A TIFF of one pixel in a tile of four thousand million pixels, compressed."""
    return tiff(t322=(4, 1, 65_536), t323=(4, 1, 65_536), t324=(4, 1, 8), t325=(4, 1, 2), t259=(3, 1, 8))


def webp_with_canvas(width: int, height: int) -> bytes:
    """An animated WebP that declares a canvas, with one small frame."""
    frame = encoded(photograph(2, 2), "WEBP", lossless=True)[12:]
    size = struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    animation = b"ANIM" + struct.pack("<L", 6) + b"\0" * 6
    inner = b"\0" * 6 + struct.pack("<L", 1)[:3] * 2 + b"\0\0\0\0" + frame
    anmf = b"ANMF" + struct.pack("<L", len(inner)) + inner
    body = b"WEBPVP8X" + struct.pack("<L", 10) + b"\x02\0\0\0" + size + animation + anmf
    return b"RIFF" + struct.pack("<L", len(body)) + body
