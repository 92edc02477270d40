"""Optional formats: HEIC, AVIF and DICOM are decoded as they are shown, or reported in words that help."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, features
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

import zoo.data.image_formats
from zoo.data.image import BadImage, all_grey, decode, has_deep_grey
from zoo.data.image_formats import (
    FOREIGN_SUFFIXES,
    NAMED,
    OPTIONAL,
    OPTIONAL_NAMES,
    READ,
    SUFFIXES,
    format_names,
    named_format,
    optional_format,
)
from zoo.dataset import BytesSource
from zoo.errors import ZooError
from zoo.inference.prediction import find_photographs

RAMP = np.linspace(0, 255, 48 * 64).astype(np.uint8).reshape(48, 64)
SMOOTH = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def heic(image: Image.Image, **settings: Any) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=100, chroma=444, **settings)
    return stream.getvalue()


def avif(image: Image.Image, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "AVIF", quality=100, subsampling="4:4:4", **settings)
    return stream.getvalue()


WRITERS = [pytest.param(heic, id="heic"), pytest.param(avif, id="avif", marks=needs_avif)]


def shown(data: bytes, **settings: Any) -> NDArray[np.uint8]:
    return decode(BytesSource("x", lambda: data), **settings)


def said(data: bytes, **settings: Any) -> list[str]:
    remarks: list[str] = []
    shown(data, remark=remarks.append, **settings)
    return remarks


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(write: Any, orientation: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(SMOOTH).save(stream, "PNG", exif=turned(orientation))
    found = shown(write(Image.fromarray(SMOOTH), exif=turned(orientation)))
    expected = shown(stream.getvalue())
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("write", WRITERS)
def test_transparency_is_laid_over_white(write: Any) -> None:
    image = Image.fromarray(np.dstack([SMOOTH, np.where(RAMP < 128, 0, 255).astype(np.uint8)]), "RGBA")
    found = shown(write(image))
    assert found[2, 2].min() > 240 and np.abs(found[-3].astype(int) - SMOOTH[-3]).mean() < 6


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_reported(write: Any, share: float) -> None:
    whole = write(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    with pytest.raises(BadImage) as error:
        shown(whole[: int(len(whole) * share)])
    assert "cannot be decoded" in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize("write", WRITERS)
def test_grey_and_cmyk(write: Any) -> None:
    found = shown(write(Image.fromarray(RAMP)))
    assert found.shape == (48, 64, 3) and np.abs(found.astype(int) - RAMP[:, :, None]).mean() < 3
    assert all_grey(found[None], None) and not all_grey(np.stack([found, SMOOTH]), None)
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    stream = io.BytesIO()
    cmyk.save(stream, "TIFF")
    assert np.abs(shown(stream.getvalue()).astype(int) - np.asarray(cmyk.convert("RGB"))).max() == 0


@needs_avif
def test_of_an_animation_the_first_frame_is_read_and_said() -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), grey, np.uint8)) for grey in (10, 120, 240)]
    moving = avif(frames[0], save_all=True, append_images=frames[1:])
    assert abs(int(shown(moving).mean()) - 10) < 4
    assert said(moving) == ["has 3 frames, of which the first is used"]
    assert said(avif(frames[0])) == []
    for kind, text in (("WEBP", "has 3 frames"), ("TIFF", "has several pages"), ("PNG", "has 3 frames")):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        assert [text in one for one in said(stream.getvalue())] == [True], kind


def dicom(values: NDArray[Any], **tags: Any) -> bytes:
    """A DICOM file of grey values `(H, W)` or `(frames, H, W)`, or of colours `(H, W, 3)`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    colour = values.ndim == 3 and values.shape[2] == 3
    data.Rows, data.Columns = values.shape[:2] if values.ndim == 2 or colour else values.shape[1:]
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    bits = 8 * values.dtype.itemsize
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    if colour:
        data.PlanarConfiguration = 0
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


DEEP = np.linspace(0, 4095, 48 * 64).astype(np.uint16).reshape(48, 64)


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_of_twelve_bits(kind: str) -> None:
    found = shown(dicom(DEEP, BitsStored=12, HighBit=11, PhotometricInterpretation=kind))
    expected = np.rint(DEEP * 255.0 / 4095).astype(np.uint8)
    expected = expected if kind == "MONOCHROME2" else 255 - expected
    assert np.array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


def test_dicom_of_sixteen_bits_inverted_and_of_eight() -> None:
    values = (DEEP.astype(np.uint32) * 16).astype(np.uint16)
    found = shown(dicom(values, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(found[..., 0], 255 - np.rint(values * 255.0 / 65535).astype(np.uint8))
    assert np.array_equal(shown(dicom(RAMP))[..., 1], RAMP)
    assert np.array_equal(shown(dicom(SMOOTH)), SMOOTH)


def test_a_window_is_in_rescaled_values_and_levels_replace_it() -> None:
    """Hounsfield units: stored 0..4095 minus 1024, a window of -160 to 240 (DICOM PS3.3 C.11.2.1.2.1, LINEAR)."""
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "RescaleIntercept": -1024}
    units = DEEP.astype(float) - 1024
    data = dicom(DEEP, **tags, WindowCenter=[40, 500], WindowWidth=[400, 2000])
    expected = np.clip(((units - 39.5) / 399 + 0.5) * 255, 0, 255)
    assert np.abs(shown(data)[..., 0] - expected).max() <= 0.51
    levels = np.clip((units + 200) * 255 / 1000, 0, 255)
    assert np.abs(shown(data, levels=(-200.0, 800.0))[..., 0] - levels).max() <= 0.51
    assert shown(dicom(DEEP, **tags))[..., 0].min() == 0 and shown(dicom(DEEP, **tags))[..., 0].max() == 255


def test_signed_values_without_a_window_are_said_to_be_flat() -> None:
    units = (DEEP // 4).astype(np.int16) - 200
    (remark,) = said(dicom(units))
    assert "has no window" in remark and "--levels" in remark
    assert said(dicom(units), levels=(-200.0, 800.0)) == []


def test_a_table_of_values_is_a_window_too() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], np.arange(255, -1, -1, dtype=np.uint16).tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    assert np.array_equal(shown(dicom(RAMP, VOILUTSequence=[table]))[..., 0], 255 - RAMP)


def test_of_several_frames_the_first_is_read_and_said() -> None:
    data = dicom(np.stack([RAMP, 255 - RAMP, RAMP]))
    assert np.array_equal(shown(data)[..., 0], RAMP)
    assert said(data) == ["has 3 frames, of which the first is used"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(RAMP, PixelData=None), "holds no image"),
        (dicom(RAMP, Rows=None), "has no `Rows`"),
        (dicom(RAMP, PhotometricInterpretation="HSV"), "`HSV` is not known"),
        (dicom(RAMP, syntax=DeflatedExplicitVRLittleEndian), "deflated"),
        (dicom(RAMP)[:-2000], "cannot be decoded"),
        (dicom(RAMP)[:200], "cannot"),
        (b"\0" * 128 + b"DICM", "cannot"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 400, "cannot"),
    ],
    ids=["no-pixels", "no-rows", "unknown-colour", "deflated", "cut", "cut-early", "empty", "noise"],
)
@pytest.mark.filterwarnings("ignore")
def test_dicom_that_cannot_be_used_is_reported_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as error:
        shown(data)
    assert reason in error.value.message and "\n" not in error.value.message


def test_a_dicom_is_admitted_by_its_size_before_it_is_decoded() -> None:
    asked: list[int] = []
    shown(dicom(RAMP), admit=asked.append)
    assert asked == [48 * 64]
    with pytest.raises(BadImage, match="over 300,000,000"):
        shown(dicom(RAMP, Rows=40000, Columns=40000))


def test_dicom_counts_as_grey_of_more_than_8_bits() -> None:
    assert has_deep_grey([BytesSource("x", lambda: dicom(DEEP))])


@pytest.mark.parametrize(("name", "package"), [("HEIC", "pillow-heif"), ("DICOM", "pydicom"), ("AVIF", "Pillow 11.3")])
def test_where_the_library_is_missing_the_message_names_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"HEIC": heic(Image.fromarray(SMOOTH)), "DICOM": dicom(RAMP), "AVIF": b"\0\0\0\x18ftypavif" + b"\0" * 40}
    data = files[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(BadImage) as error:
        shown(data)
    assert package in error.value.message and name in error.value.message and "pip install" in error.value.message
    file = tmp_path / f"x.{name.lower()}"
    file.write_bytes(data)
    reason = zoo.data.image_formats.why_suffix_not_read(file.suffix)
    assert reason is not None and package in reason


@pytest.mark.parametrize("accept", [(), ("AVIF",)])
def test_a_caller_that_does_not_accept_a_format_never_imports_its_library(accept: tuple[str, ...]) -> None:
    """As in a server: a fresh interpreter, in which a HEIC and a DICOM file are refused."""
    program = (
        "import io, sys\nfrom zoo.data.image import BadImage, decode\nfrom zoo.dataset import BytesSource\n"
        "for data in (b'\\0\\0\\0\\x18ftypheic' + b'\\0' * 400, b'\\0' * 128 + b'DICM' + b'\\0' * 400):\n"
        "    try:\n"
        f"        decode(BytesSource('x', lambda: data), accept={accept!r})\n"
        "    except BadImage:\n        continue\n    raise AssertionError\n"
        "print(sorted(name for name in sys.modules if name.startswith(('pillow_heif', 'pydicom'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_table_names_every_suffix_once_and_tells_formats_apart(tmp_path: Path) -> None:
    suffixes = [suffix for one in (*READ, *OPTIONAL, *NAMED) for suffix in one.suffixes]
    assert len(set(suffixes)) == len(suffixes) == len(SUFFIXES) + len(FOREIGN_SUFFIXES)
    assert format_names() == "JPEG, PNG, WebP, BMP or TIFF" and format_names(["HEIC"]).endswith("TIFF or HEIC")
    assert optional_format(heic(Image.fromarray(SMOOTH))) == "HEIC" and optional_format(dicom(RAMP)) == "DICOM"
    assert optional_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert optional_format(b"\0\0\0\x18ftypmp42\0\0\0\0isom") is None and optional_format(b"") is None
    assert {named_format(beginning) for one in NAMED for beginning in one.beginnings} == {"JPEG XL", "JPEG 2000", "GIF"}
    for name in ("a.heic", "b.AVIF", "c.dcm", "d.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in find_photographs([str(tmp_path)])] == ["a.heic", "b.AVIF", "c.dcm"]
    assert set(OPTIONAL_NAMES) == {"HEIC", "AVIF", "DICOM"} and issubclass(BadImage, ZooError)
