"""DICOM: the first frame of a file as it is shown, in its window, as 8-bit RGB. Needs pydicom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from zoo.data.grey_levels import Levels

# A data set that is compressed as a whole is inflated as a whole, whatever its image's size says
DEFLATED = b"1.2.840.10008.1.2.1.99"
NARROW = 1 / 16  # share of the range of the type below which an image without a window is nearly of one grey


class NoImage(ValueError):
    """A DICOM file that holds no image, or one that cannot be shown."""


def decode_dicom(
    stream: BinaryIO,
    levels: Levels | None,
    remark: Callable[[str], None],
    admit: Callable[[int, int], None],
) -> npt.NDArray[np.uint8]:
    """Decode the first frame to `(H, W, 3)` uint8 RGB, as DICOM PS3.4 section N.2 says for the presentation of images.

    Stored values are rescaled (Hounsfield units in a CT), a window of the file maps them to grey, the first if there
    are several, and MONOCHROME1 is inverted.

    Args:
        stream: The file.
        levels: Rescaled values that become black and white, in place of the file's window (white and black in
            MONOCHROME1). None: the window; without one, the range of the stored bits.
        remark: Receives what a user should know of an image that is decoded nevertheless.
        admit: Called with height and width before the pixels are decoded. It may raise.

    Raises:
        NoImage: there is none in the file, or its colours are of a kind that is not known.
        Exception: whatever pydicom raises for a damaged file, or for a compression that no installed library decodes.
    """
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    stream.seek(0)
    if DEFLATED in stream.read(2048):
        raise NoImage("its data set is deflated as a whole; save it with another transfer syntax")
    stream.seek(0)
    data = dcmread(stream)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise NoImage("it holds no image (no pixel data)")
    for name in ("Rows", "Columns", "PhotometricInterpretation"):
        if data.get(name) in (None, ""):
            raise NoImage(f"it has no `{name}`")
    admit(int(data.Rows), int(data.Columns))
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1:
        remark(f"has {frames} frames, of which the first is used")
    values = pixel_array(data, index=0)
    kind = str(data.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        coloured = apply_color_lut(values, data)
        return _scaled(coloured, 0, 2 ** (8 * coloured.dtype.itemsize) - 1)
    if values.ndim == 3:
        return _scaled(values, 0, 2 ** int(data.BitsStored) - 1)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise NoImage(f"its photometric interpretation `{kind}` is not known")
    shown, low, high = _window(data, values, levels, remark)
    grey = _scaled(shown, low, high)
    if kind == "MONOCHROME1":  # the lowest value is white
        grey = np.uint8(255) - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


def _window(
    data: Any, values: npt.NDArray[Any], levels: Levels | None, remark: Callable[[str], None]
) -> tuple[npt.NDArray[Any], float, float]:
    """Rescaled and windowed values, and those of them that are black and white."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing

    rescaled = np.asarray(apply_modality_lut(values, data))
    if levels is not None:
        return rescaled, *levels
    if "VOILUTSequence" in data:
        whole = np.rint(rescaled).astype(np.int64)  # a table is looked up by whole numbers
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi_lut(whole, data, index=0)), 0.0, float(2**bits - 1)
    if "WindowWidth" in data and "WindowCenter" in data:
        low, high = apply_windowing(np.array([-1e12, 1e12]), data, index=0)  # both ends of what a window gives
        return np.asarray(apply_windowing(rescaled, data, index=0)), float(low), float(high)
    if values.dtype.kind == "f":
        low, high = 0.0, 1.0
    else:
        bits, signed = int(data.BitsStored), int(data.get("PixelRepresentation", 0))
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.int64)
        slope, intercept = float(data.get("RescaleSlope", 1) or 1), float(data.get("RescaleIntercept", 0) or 0)
        table = data.ModalityLUTSequence[0].LUTDescriptor if "ModalityLUTSequence" in data else None
        low, high = (0.0, float(2 ** int(table[2]) - 1)) if table is not None else sorted(ends * slope + intercept)
    least, most = float(rescaled.min()), float(rescaled.max())
    if most - least < NARROW * (high - low):
        remark(
            f"has no window, and its levels {least:,.6g} to {most:,.6g} are a small part of {low:,.6g} to {high:,.6g}, "
            f"those of its type: pass `--levels LOW HIGH`"
        )
    return rescaled, low, high


def _scaled(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Values to 8 bits, black up to `low` and white from `high`; what is not a number is black."""
    known = np.nan_to_num(np.asarray(values, np.float64), nan=low, posinf=high, neginf=low)
    return np.clip(np.rint((known - low) * 255 / (high - low)), 0, 255).astype(np.uint8)
