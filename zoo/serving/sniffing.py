"""Sniffing: formats that are known and not accepted are named before anything is decoded."""

from __future__ import annotations

from collections.abc import Collection

from zoo.data.image_formats import OPTIONAL_NAMES, PREFIX, format_names, named_format, optional_format
from zoo.serving.bounds import Rejection

# By the bytes that files begin with; images that `zoo.data.image_formats` does not know
IMAGES = {
    b"SIMPLE  =": "FITS",
    b"\0\0\1\0": "ICO",
    b"\0\0\2\0": "CUR or TGA",
    b"8BPS": "Photoshop",
}
# and other files
OTHERS = {
    b"%PDF": "PDF",
    b"<": "HTML, SVG or XML",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"{": "JSON",
}


def hint(accept: Collection[str] = ()) -> str:
    """What to send instead, to a server that reads these optional formats."""
    return f"send the bytes of a {format_names(name for name in OPTIONAL_NAMES if name in accept)} file"


def refuse_format(data: bytes, accept: Collection[str] = ()) -> None:
    """Refuse what is certainly no image of an accepted format.

    Args:
        data: The image's bytes.
        accept: Names of the optional formats that are accepted.

    Raises:
        Rejection: 415 for an image of another format, 422 for anything else.
    """
    if not data:
        raise Rejection(422, "image", "the image is empty", hint(accept))
    name = optional_format(data[:PREFIX])
    if name is not None and name in accept:
        return
    name = name or named_format(data[:PREFIX])
    name = name or next((name for beginning, name in IMAGES.items() if data.startswith(beginning)), None)
    if name is not None:
        raise Rejection(415, "format", f"the image is a {name} file, which is not read", hint(accept))
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    other = next((name for beginning, name in OTHERS.items() if start.startswith(beginning)), None)
    if other is not None:
        raise Rejection(422, "image", f"this is a {other} file, and no image", hint(accept))
