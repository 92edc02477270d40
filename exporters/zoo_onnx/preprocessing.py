"""The preprocessing as ONNX nodes: `photographs` (N, H, W, 3) uint8 of any size to `pixels` (N, 3, h, w) float.

The arithmetic is the integer arithmetic of `zoo.preprocess` and `zoo.data.image`, whose Pillow path is the reference.
Images are resized as uint8, because onnxruntime then rounds between the horizontal and the vertical pass as Pillow
does. On floats it does not, and differs by up to 13 grey levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zoo.preprocess import Colour, ImageSize, Preprocess
from zoo_onnx.tensor_names import PHOTOGRAPHS, PIXELS

# Prefix of all names in this part of the graph: avoids clashes with the network's names, and marks the part for tools
PREFIX = "preprocess/"

MEAN, STD = f"{PREFIX}mean", f"{PREFIX}std"

_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing part of a graph: nodes in order of execution, and their constants."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, values: Sequence[float], dtype: type, shape: Sequence[int] | None = None) -> str:
        array: npt.NDArray[Any] = np.asarray(values, dtype=dtype)
        if shape is not None:
            array = array.reshape(shape)
        self.constants.append(numpy_helper.from_array(array, f"{PREFIX}{name}"))
        return f"{PREFIX}{name}"

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, values, np.int64)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        result = output if output == PIXELS else f"{PREFIX}{output}"
        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{PREFIX}{output}", **attributes))
        return result


def build_preprocessing(preprocess: Preprocess) -> Preprocessing:
    """Nodes and constants from `photographs` to `pixels`, for opset 18. Equal preprocessing gives equal nodes."""
    part = Preprocessing()
    two, none = part.integers("two", 2), part.integers("none", 0)
    side = part.integers("crop", *_sides(preprocess.crop))

    size = part.node("Shape", [PHOTOGRAPHS], "size", start=1, end=3)  # all sizes are (height, width)
    if preprocess.fit == "pad":
        planes = part.node("Transpose", [PHOTOGRAPHS], "planes", perm=[0, 3, 1, 2])
        resized_size = _fitting_size(part, preprocess, size, two)
    else:
        planes, resized_size = _bounded_and_covering(part, preprocess, size, two)
    batch = part.node("Shape", [PHOTOGRAPHS], "batch", start=0, end=1)
    sizes = part.node("Concat", [batch, part.integers("channels", 3), resized_size], "sizes", axis=0)
    # As Pillow's filters: a = -0.5, no weights outside of the image, wider support when shrinking
    resized = part.node(
        "Resize",
        [planes, "", "", sizes],
        "resized",
        mode=_MODES[preprocess.interpolation],
        antialias=1,
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )
    excess = part.node("Sub", [resized_size, side], "excess")
    if preprocess.fit == "pad":
        values = _padded(
            part, part.node("Cast", [resized], "values", to=TensorProto.FLOAT), excess, two, preprocess.fill
        )
    else:
        values = _cropped(part, resized, excess, side, two, none)
        if any(small < large for small, large in zip(preprocess.resize_size, preprocess.input_size)):
            values = _padded(part, values, part.node("Min", [excess, none], "negative_excess"), two, None)

    # Normalise by the same three steps as `zoo.data.image.normalise`, so that results are equal bit for bit
    unit = part.node("Div", [values, part.constant("levels", [255], np.float32)], "unit")
    mean = part.constant("mean", preprocess.mean, np.float32, (1, 3, 1, 1))
    std = part.constant("std", preprocess.std, np.float32, (1, 3, 1, 1))
    centred = part.node("Sub", [unit, mean], "centred")
    normalised = part.node("Div", [centred, std], "normalised")
    # Makes the shape static again, so that the engine can plan the memory of the network
    shape = part.integers("pixels_shape", -1, 3, *preprocess.input_size)
    part.node("Reshape", [normalised, shape], PIXELS)
    return part


def _sides(size: ImageSize) -> tuple[int, ...]:
    """A size as a constant of the graph: one number for a square, which is broadcast, else height and width."""
    return size if isinstance(size, tuple) else (size,)


def _bounded_and_covering(part: Preprocessing, preprocess: Preprocess, size: str, two: str) -> tuple[str, str]:
    """Crop very long images to their middle: its planes `N x 3 x H x W`, and the size that they are resized to."""
    if isinstance(preprocess.resize, int):
        shorter = part.node("ReduceMin", [size], "shorter", keepdims=1)
        longest = part.node("Mul", [shorter, part.integers("max_aspect", preprocess.max_aspect)], "longest")
        kept = part.node("Min", [size, longest], "kept")
    else:  # a side's bound comes from the other side
        tall, wide = preprocess.resize
        turned = _turned(part, size, "turned")
        most = part.integers("max_aspects", preprocess.max_aspect * tall, preprocess.max_aspect * wide)
        bound = part.node("Mul", [turned, most], "bound")
        longest = part.node("Div", [bound, part.integers("resize_turned", wide, tall)], "longest")
        kept = part.node("Min", [size, part.node("Max", [longest, part.integers("one", 1)], "bounded_length")], "kept")
    cut = part.node("Sub", [size, kept], "cut")
    kept_start = part.node("Div", [cut, two], "kept_start")
    kept_end = part.node("Add", [kept_start, kept], "kept_end")
    bounded = part.node("Slice", [PHOTOGRAPHS, kept_start, kept_end, part.integers("axes_nhwc", 1, 2)], "bounded")
    # N x 3 x H x W: the only layout that CUDA's antialiased resize supports
    planes = part.node("Transpose", [bounded], "planes", perm=[0, 3, 1, 2])
    if preprocess.fit == "squash":
        return planes, part.integers("resized_size", *preprocess.resize_size)
    if isinstance(preprocess.resize, int):
        # The quotient is exact for the shorter side, so that one formula is right for both sides
        scaled = part.node("Mul", [kept, part.integers("resize", preprocess.resize)], "scaled")
        return planes, part.node("Div", [scaled, shorter], "resized_size")
    scaled = part.node("Mul", [kept, part.integers("resize_turned_again", wide, tall)], "scaled")
    length = part.node("Div", [scaled, _turned(part, kept, "kept_turned")], "length")
    return planes, part.node("Max", [length, part.integers("resize", tall, wide)], "resized_size")


def _fitting_size(part: Preprocessing, preprocess: Preprocess, size: str, two: str) -> str:
    """The size of an image that fits into the input; each side is rounded to the nearest pixel, and never 0."""
    tall, wide = preprocess.input_size
    turned = _turned(part, size, "turned")
    doubled = part.node("Mul", [size, part.integers("twice_crop_turned", 2 * wide, 2 * tall)], "doubled")
    divisor = part.node("Mul", [turned, two], "divisor")
    length = part.node("Div", [part.node("Add", [doubled, turned], "rounded_length"), divisor], "length")
    within = part.node("Min", [length, part.integers("resize", tall, wide)], "within")
    return part.node("Max", [within, part.integers("one", 1)], "resized_size")


def _turned(part: Preprocessing, size: str, name: str) -> str:
    """(height, width) to (width, height)."""
    order = "width_height"
    if not any(tensor.name == f"{PREFIX}{order}" for tensor in part.constants):
        part.integers(order, 1, 0)
    return part.node("Gather", [size, f"{PREFIX}{order}"], name, axis=0)


def _cropped(part: Preprocessing, resized: str, excess: str, side: str, two: str, none: str) -> str:
    """Centre crop, as float; if the image is smaller, Slice stops at its border."""
    removed = part.node("Max", [excess, none], "removed")
    # Half of it, with a half rounded to even: 3, 7, 11... are rounded up, as by `zoo.preprocess.crop_start`
    quarter = part.node("Mod", [removed, part.integers("four", 4)], "removed_mod_4")
    rounding = part.node("Div", [quarter, part.integers("three", 3)], "rounding")
    crop_start = part.node("Div", [part.node("Add", [removed, rounding], "rounded"), two], "crop_start")
    crop_end = part.node("Add", [crop_start, side], "crop_end")
    cropped = part.node("Slice", [resized, crop_start, crop_end, part.integers("axes_nchw", 2, 3)], "cropped")
    return part.node("Cast", [cropped], "values", to=TensorProto.FLOAT)


def _padded(part: Preprocessing, values: str, negative_excess: str, two: str, fill: Colour | None) -> str:
    """Pad with black, or with a colour, which is whole grey levels: subtracting and adding it changes no bit."""
    lack = part.node("Neg", [negative_excess], "lack")
    before = part.node("Div", [lack, two], "pad_before")
    after = part.node("Sub", [lack, before], "pad_after")
    outer = part.integers("outer", 0, 0)
    pads = part.node("Concat", [outer, before, outer, after], "pads", axis=0)
    if fill is None:
        return part.node("Pad", [values, pads], "padded")
    colour = part.constant("fill", fill, np.float32, (1, 3, 1, 1))
    padded = part.node("Pad", [part.node("Sub", [values, colour], "off_fill"), pads], "padded")
    return part.node("Add", [padded, colour], "filled")


def photographs_value() -> onnx.ValueInfoProto:
    """The declaration of the input `photographs`."""
    return helper.make_tensor_value_info(PHOTOGRAPHS, TensorProto.UINT8, ["N", "H", "W", 3])


def pixels_value(preprocess: Preprocess) -> onnx.ValueInfoProto:
    """The declaration of `pixels`, the output of the preprocessing and input of the network."""
    return helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["N", 3, *preprocess.input_size])
