"""Precision: converts the exported network to fp16 or int8."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx

from zoo.data.image import normalise
from zoo.errors import ZooError, quoted
from zoo.exporter import ExportSpec
from zoo.exporting.golden import TOLERANCE
from zoo.exporting.unknown_parity import UNKNOWN_TOLERANCE
from zoo_onnx.size import MAX_BYTES, is_large

# Tolerance of the golden logits, as a fraction of the largest logit. For fp32 see `zoo.exporting.golden`. The others
# are larger, because fp16 and int8 kernels of other processors round differently from those that wrote the file.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.02, "int8": 0.05}
# The same of the scores of unknown images: as a share of a score, or of 1 where it is smaller
UNKNOWN_TOLERANCES = {"fp32": UNKNOWN_TOLERANCE, "fp16": 0.2, "int8": 0.4}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A network in the requested precision, and a record of the conversion for the metadata."""

    model: onnx.ModelProto
    record: dict[str, Any] = field(default_factory=dict)


def convert(network: onnx.ModelProto, spec: ExportSpec) -> Converted:
    """Convert a copy of the network to `spec.precision`; its input `pixels` and output `logits` stay fp32.

    Raises:
        ZooError: it cannot be converted, or int8 loses more accuracy on training images than allowed.
    """
    if spec.precision == "fp32":
        return Converted(model=network, record={"name": "fp32"})
    if is_large(network):
        raise ZooError(
            f"a network larger than {MAX_BYTES / 1e9:.0f} GB cannot be converted to {spec.precision}",
            hint="pass `--precision fp32`, or `--to pt2`",
        )
    if spec.precision == "fp16":
        return Converted(model=_sorted(_half(network)), record={"name": "fp16", "max_drop": spec.max_drop})
    from zoo_onnx.int8 import quantise

    assert spec.calibration is not None
    found = quantise(
        network,
        ranges=normalise(spec.calibration.ranges, spec.preprocess),
        choices=normalise(spec.calibration.choices, spec.preprocess),
        labels=spec.calibration.labels,
        max_drop=spec.max_drop,
        note=spec.note,
    )
    record = {"name": "int8", "max_drop": spec.max_drop, **found.to_json()}
    return Converted(model=_sorted(found.model), record={**record, "calibration_images": len(spec.calibration.ranges)})


def _half(network: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and activations to fp16, with fp32 input and output, by onnxruntime's converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    try:
        model: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, disable_shape_infer=False)
    except Exception as error:  # the converter raises exceptions of any type
        raise ZooError(f"the network cannot be converted to fp16: {quoted(error)}") from error
    return model


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Sort the nodes topologically, which converters do not."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    found = ONNXModel(model)
    found.topological_sort()
    ordered: onnx.ModelProto = found.model
    return ordered
