"""Sniffing: formats that are known and not accepted are named before anything is decoded."""

from __future__ import annotations

from zoo.serving.bounds import Rejection

# By the bytes that files begin with; images
IMAGES = {
    b"GIF8": "GIF",
    b"SIMPLE  =": "FITS",
    b"\0\0\1\0": "ICO",
    b"\0\0\2\0": "CUR or TGA",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}
# and other files
OTHERS = {
    b"%PDF": "PDF",
    b"<": "HTML, SVG or XML",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"{": "JSON",
}
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
HINT = "send the bytes of a JPEG, PNG, WebP, BMP or TIFF file"


def refuse_format(data: bytes) -> None:
    """Refuse what is certainly no image of an accepted format.

    Raises:
        Rejection: 415 for an image of another format, 422 for anything else.
    """
    if not data:
        raise Rejection(422, "image", "the image is empty", HINT)
    name = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    name = name or next((name for beginning, name in IMAGES.items() if data.startswith(beginning)), None)
    if name is not None:
        raise Rejection(415, "format", f"the image is a {name} file, which is not read", HINT)
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    other = next((name for beginning, name in OTHERS.items() if start.startswith(beginning)), None)
    if other is not None:
        raise Rejection(422, "image", f"this is a {other} file, and no image", HINT)
