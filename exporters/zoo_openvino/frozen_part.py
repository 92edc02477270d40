"""Computes the frozen part of a network with OpenVINO, from the ONNX model that `zoo_onnx.frozen_part` converts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoo.exporter import Compute
from zoo_openvino.model import compile_network, openvino


def open_converted(model: bytes, threads: int) -> Compute:
    """A function from inputs to the outputs of a converted module, in their order, which computes in fp32.

    Raises:
        ZooError: OpenVINO is not installed.
    """
    return _opened(model, threads, "f32")


def open_converted_in_bf16(model: bytes, threads: int) -> Compute:
    """The same, computing in bf16. Inputs and outputs are fp32.

    Raises:
        ZooError: OpenVINO is not installed.
    """
    return _opened(model, threads, "bf16")


def _opened(model: bytes, threads: int, precision: str) -> Compute:
    network = compile_network(openvino().Core().read_model(model, b""), threads, precision)
    count = len(network.outputs)

    def compute(inputs: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        found = network(inputs)
        return [np.array(found[number]) for number in range(count)]

    return compute
