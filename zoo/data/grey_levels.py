"""Grey levels: images of more than 8 bits become 8 bits, by their type or by what the user says, never by a guess."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = tuple[float, float]

# Share of the grey levels that may lie outside those of the type, as after a resize with a filter that overshoots.
# More means that the type does not say which levels are black and white
FEW = 0.01

# A 16-bit image below this is nearly black: it rather has 12 bits, or fewer
DARK = 4096


_HINT = "; `--levels LOW HIGH` tells which are black and white"


class UnknownLevels(ValueError):
    """The type of an image does not say which of its grey levels are black and white."""


def is_deep_grey(mode: str) -> bool:
    """Whether a mode of Pillow is one of grey levels of more than 8 bits."""
    return mode.startswith("I;16") or mode in ("I", "F")


def to_8_bits(
    image: Image.Image, kind: str | None, levels: Levels | None, remark: Callable[[str], None]
) -> npt.NDArray[np.uint8]:
    """Scale grey levels to 8 bits: `(H, W)` to `(H, W, 3)` uint8. Pillow's own conversion clips at 255.

    Args:
        image: of a mode for which `is_deep_grey` holds.
        kind: format of its file, such as `PNG`.
        levels: The levels that become black and white. None: those of the type, 0 to 65,535 for 16 bits and 0 to 1 for
            floats.
        remark: Receives what did not fit.

    Raises:
        UnknownLevels: the type does not tell, and `levels` is None.
    """
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise UnknownLevels("none of its grey levels is a number")
    least, most = float(values[finite].min()), float(values[finite].max())
    given = levels is not None
    if levels is None:
        levels = _levels_of_type(image.mode, kind)
    if levels is None:
        raise UnknownLevels(
            f"its grey levels are {least:,.6g} to {most:,.6g}, and 32-bit integers have no usual range{_HINT}"
        )
    low, high = levels
    half = (high - low) / 510  # half a step of the result
    outside = int((~finite | (values < low - half) | (values > high + half)).sum())
    if not given and outside > FEW * values.size:
        raise UnknownLevels(
            f"its grey levels are {least:,.6g} to {most:,.6g}, and {outside / values.size:.0%} of them lie outside "
            f"{low:,.6g} to {high:,.6g}, the range of the type{_HINT}"
        )
    if outside and not given:
        remark(f"{outside:,} of {values.size:,} grey levels lie outside {low:,.6g} to {high:,.6g}, or are not numbers")
    elif given and not finite.all():
        remark(f"{int((~finite).sum()):,} of {values.size:,} grey levels are not numbers")
    elif outside >= (1 - FEW) * values.size:
        remark(
            f"its grey levels are {least:,.6g} to {most:,.6g}, and {outside / values.size:.0%} of them lie outside "
            f"{low:,.6g} to {high:,.6g}, which were given{_HINT}"
        )
    if not given and image.mode != "F" and 0 < most < DARK:
        remark(
            f"is nearly black: its 16-bit grey levels end at {most:,.0f} of 65,535. If they have fewer bits, pass "
            f"`--levels 0 {2 ** int(most).bit_length() - 1}`"
        )
    scaled = (np.where(finite, values, low) - low) * 255.0 / (high - low)
    grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _levels_of_type(mode: str, kind: str | None) -> Levels | None:
    if mode == "F":
        return 0.0, 1.0
    if mode.startswith("I;16") or kind == "PNG":  # older versions of Pillow open a 16-bit PNG as 32 bits
        return 0.0, 65535.0
    return None
