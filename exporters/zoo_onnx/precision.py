"""Precision: the exported network as it is, with weights and values of 16 bits, or with most of both in 8."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx

from zoo.data.image import normalise
from zoo.errors import ZooError, quoted
from zoo.exporter import ExportSpec
from zoo.exporting.golden import TOLERANCE
from zoo_onnx.size import MAX_BYTES, is_large

# Share of the largest logit by which a file's golden logits may differ from those that it gave where it was written.
# In fp32 see `zoo.exporting.golden`. Kernels of fp16 and int8 round otherwise on other processors.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.02, "int8": 0.05}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A network in the precision asked for, and what there is to say about how it got there."""

    model: onnx.ModelProto
    record: dict[str, Any] = field(default_factory=dict)


def convert(network: onnx.ModelProto, spec: ExportSpec) -> Converted:
    """The network `pixels` to `logits`, both fp32, in `spec.precision`; `network` itself is left as it is.

    Raises:
        ZooError: it cannot be converted, or int8 loses more on the training photographs than it may.
    """
    if spec.precision == "fp32":
        return Converted(model=network, record={"name": "fp32"})
    if is_large(network):
        raise ZooError(
            f"a network beyond {MAX_BYTES / 1e9:.0f} GB cannot be converted to {spec.precision}",
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
    """Weights and values in fp16, input and output in fp32; onnxruntime's own converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    try:
        model: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, disable_shape_infer=False)
    except Exception as error:  # whatever a graph makes it raise
        raise ZooError(f"the network cannot be converted to fp16: {quoted(error)}") from error
    return model


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its nodes in order of execution, which converters leave to the reader."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    found = ONNXModel(model)
    found.topological_sort()
    ordered: onnx.ModelProto = found.model
    return ordered
