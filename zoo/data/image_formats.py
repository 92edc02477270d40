"""Image formats: the one table of what is read, by which library, and of what is only named.

Suffixes of folders, formats that are opened, formats that a server refuses, and the words of messages come from here.
Libraries of optional formats are imported when the first such file is opened, and never by looking at this table.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = 192  # bytes from which a format is told


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """A format of image files.

    Attributes:
        name: As messages name it.
        suffixes: Of its files, in lower case.
        beginnings: Bytes that its files begin with. Those that are read by Pillow alone need none.
        brands: Brands of its ISO base media files (ISO/IEC 14496-12), which are named in the box `ftyp`.
        pillow: Pillow's names of it, for formats that are always read.
        library: Distribution that reads it, for formats that are read where it is installed.
        module: The module of `library`.
        extra: Extra of this distribution that brings `library`. None: `library` is Pillow itself, if it is new enough.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    beginnings: tuple[bytes, ...] = ()
    brands: tuple[bytes, ...] = ()
    pillow: tuple[str, ...] = ()
    library: str | None = None
    module: str | None = None
    extra: str | None = None


# Always read
READ = (
    ImageFormat(name="JPEG", suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"), pillow=("JPEG", "MPO")),
    ImageFormat(name="PNG", suffixes=(".png",), pillow=("PNG",)),
    ImageFormat(name="WebP", suffixes=(".webp",), pillow=("WEBP",)),
    ImageFormat(name="BMP", suffixes=(".bmp",), pillow=("BMP",)),
    ImageFormat(name="TIFF", suffixes=(".tif", ".tiff"), pillow=("TIFF",)),
)
# Read where their library is installed; `zoo serve` reads them if it is told to
OPTIONAL = (
    ImageFormat(
        name="HEIC",
        suffixes=(".heic", ".heif", ".hif"),
        brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        library="pillow-heif",
        module="pillow_heif",
        extra="heif",
    ),
    ImageFormat(
        name="AVIF",
        suffixes=(".avif", ".avifs"),
        brands=(b"avif", b"avis"),
        library="Pillow 11.3 or newer, built with AVIF",
        module="PIL.AvifImagePlugin",
    ),
    ImageFormat(name="DICOM", suffixes=(".dcm", ".dicom"), library="pydicom", module="pydicom", extra="dicom"),
)
# Photographs that are not read, but named. GIF is not read, since such a file is more often a placeholder ("image not
# found") than a photograph
NAMED = (
    ImageFormat(name="JPEG XL", suffixes=(".jxl",), beginnings=(b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    ImageFormat(name="JPEG 2000", suffixes=(".jp2",), beginnings=(b"\0\0\0\x0cjP  ",)),
    ImageFormat(name="GIF", suffixes=(".gif",), beginnings=(b"GIF8",)),
    ImageFormat(name="raw", suffixes=(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2")),
)

SUFFIXES = tuple(suffix for one in (*READ, *OPTIONAL) for suffix in one.suffixes)
FOREIGN_SUFFIXES = {suffix: one.name for one in NAMED for suffix in one.suffixes}
OPTIONAL_NAMES = tuple(one.name for one in OPTIONAL)
_BY_NAME = {one.name: one for one in OPTIONAL}
_BY_SUFFIX = {suffix: one for one in OPTIONAL for suffix in one.suffixes}
_BY_BRAND = {brand: one.name for one in OPTIONAL for brand in one.brands}
_GENERIC = (b"mif1", b"msf1")  # brands of containers: what is in them is told by the brands that follow


def optional_format(prefix: bytes) -> str | None:
    """The name of the optional format that a file is of, by its first `PREFIX` bytes; None: it is of none."""
    if prefix[128:132] == b"DICM":
        return "DICOM"
    if prefix[4:8] != b"ftyp":
        return None
    length = min(int.from_bytes(prefix[:4], "big"), PREFIX)
    brands = [prefix[8:12], *(prefix[start : start + 4] for start in range(16, length - 3, 4))]
    if brands[0] not in _BY_BRAND:
        return None
    known = [_BY_BRAND[brand] for brand in brands if brand in _BY_BRAND and brand not in _GENERIC]
    return known[0] if known else _BY_BRAND[brands[0]]


def named_format(prefix: bytes) -> str | None:
    """The name of a photograph's format that is never read, by its first bytes; None: it is of none."""
    return next((one.name for one in NAMED if prefix.startswith(one.beginnings or (b"\0never",))), None)


def why_not_read(name: str) -> str | None:
    """Why an optional format cannot be read here, as the end of a sentence; None: it can."""
    one = _BY_NAME[name]
    assert one.module is not None
    if one.extra is None:
        from PIL import features

        known = importlib.util.find_spec(one.module) is not None and features.check("avif")
        return None if known else f"needs {one.library}: `pip install --upgrade pillow`"
    if importlib.util.find_spec(one.module) is not None:
        return None
    return f"needs {one.library}: `pip install 'backbone-zoo[{one.extra}]'`"


def why_suffix_not_read(suffix: str) -> str | None:
    """Why files of a suffix, in lower case, are photographs that cannot be read; None: they can, or are none."""
    if suffix in FOREIGN_SUFFIXES:
        return f"is a {FOREIGN_SUFFIXES[suffix]} photograph, which zoo does not read: convert it to JPEG or PNG"
    if suffix in _BY_SUFFIX:
        reason = why_not_read(_BY_SUFFIX[suffix].name)
        return None if reason is None else f"is a {_BY_SUFFIX[suffix].name} photograph, which {reason}"
    return None


def readers() -> dict[str, str]:
    """Versions of the installed libraries of optional formats, on which pixels depend; Pillow's is known elsewhere."""
    import importlib.metadata  # not at the top: it takes as long as all of a short command

    found = {}
    for one in OPTIONAL:
        if one.extra is not None and one.library is not None:
            try:
                found[one.library] = importlib.metadata.version(one.library)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def format_names(more: Iterable[str] = ()) -> str:
    """The formats that are always read, and others, as a list for messages: `JPEG, PNG, WebP, BMP or TIFF`."""
    *names, last = [*(one.name for one in READ), *more]
    return f"{', '.join(names)} or {last}"
