"""Converts the frozen part of a network to ONNX for one shape of inputs, and computes it with onnxruntime.

Nothing here is an exported file: it is kept in the store and compared with torch before each use.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from zoo.errors import ZooError, type_and_first_line
from zoo.exporter import Compute
from zoo_onnx.network import OPSET, quiet
from zoo_onnx.size import MAX_BYTES
from zoo_onnx.tensor_names import PIXELS


def convert(module: nn.Module, inputs: torch.Tensor) -> bytes:
    """The ONNX model of a module for inputs of this shape.

    TorchScript's exporter comes first here: it takes a tenth of the time of `torch.export` (0.5 s in place of 5 for
    EfficientNet-Lite0), and what it gives is compared with torch anyway.

    Raises:
        ZooError: no exporter converts it, or its weights are too large for one file.
    """
    size = sum(value.numel() * value.element_size() for value in (*module.parameters(), *module.buffers()))
    if size > MAX_BYTES:
        raise ZooError("its weights are too large for one ONNX model")
    reasons = []
    for name, export in (("torchscript", _by_torchscript), ("torch.export", _by_torch_export)):
        try:
            with quiet():
                return export(module, inputs)
        except Exception as error:  # torch's exporters raise exceptions of any type
            reasons.append(f"{name}: {type_and_first_line(error)}")
    raise ZooError(f"it cannot be converted to ONNX; {'; '.join(reasons)}")


def open_converted(model: bytes, threads: int) -> Compute:
    """A function from inputs to the outputs of a converted module, in their order."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch computes between the calls
    # The threads of the session treat denormal numbers as this thread does, which computes with them
    flushes = sys.float_info.min / 2 == 0.0
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(flushes)))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def compute(inputs: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        found: list[npt.NDArray[np.float32]] = session.run(None, {PIXELS: inputs})
        return found

    return compute


def _by_torchscript(module: nn.Module, inputs: torch.Tensor) -> bytes:
    written = io.BytesIO()
    torch.onnx.export(
        module,
        (inputs,),
        written,  # type: ignore[arg-type]  # this exporter writes to streams; the annotation is that of the other one
        input_names=[PIXELS],
        opset_version=OPSET,
        dynamo=False,
    )
    return written.getvalue()


def _by_torch_export(module: nn.Module, inputs: torch.Tensor) -> bytes:
    program: Any = torch.onnx.export(
        module, (inputs,), input_names=[PIXELS], opset_version=OPSET, dynamo=True, verbose=False, external_data=False
    )
    proto: bytes = program.model_proto.SerializeToString()
    return proto
