"""Saturation: proves from the weights of an int8 file that no x86-64 kernel of onnxruntime can overflow on it.

Without VNNI (on AVX2, and on AVX-512 before 2019) these kernels multiply unsigned bytes by signed ones and add two
products in 16 bits (`vpmaddubsw`), which saturates: Intel 2018, "Lower numerical precision deep learning inference and
training". With VNNI they add in 32 bits. A file whose sums of two products all fit into 16 bits gives the same sums on
all of them. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

# The largest activation is 255, and 255 * 128 = 32640 is the last multiple of it that fits into 16 bits
LARGEST_PAIR = 128
PROCESSORS = ("x86-64 with AVX2", "x86-64 with AVX-512", "x86-64 with VNNI")


def largest_pairs(model: onnx.ModelProto) -> dict[str, int]:
    """For each layer with signed 8-bit weights, the largest sum of two weights of one output and one sign.

    Which two products a kernel adds depends on how it lays out the weights, so any two of an output count.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    restored = {
        node.output[0]: weights[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    found = {}
    for node in model.graph.node:
        tensor = next((restored[name] for name in node.input if name in restored), None)
        if tensor is not None:
            found[node.name or node.output[0]] = largest_pair(_by_output(node, numpy_helper.to_array(tensor)))
    return found


def largest_pair(rows: npt.NDArray[np.int8]) -> int:
    """The largest absolute sum of two weights of one row and one sign; rows `(outputs, weights of each)`."""
    if not rows.size:
        return 0
    wide = np.sort(rows.astype(np.int32), axis=1)
    highest = np.maximum(wide[:, -2:], 0).sum(axis=1)
    lowest = np.minimum(wide[:, :2], 0).sum(axis=1)
    if wide.shape[1] == 1:
        highest, lowest = np.maximum(wide[:, 0], 0), np.minimum(wide[:, 0], 0)
    return int(max(highest.max(), -lowest.min()))


def can_saturate(pairs: Mapping[str, int]) -> list[str]:
    """Layers of which two products may not fit into 16 bits, from `largest_pairs`."""
    return [name for name, pair in pairs.items() if pair > LARGEST_PAIR]


def describe(model: onnx.ModelProto) -> dict[str, object]:
    """What is known of an int8 file's layers, as JSON values; `proved_for` is empty if a layer can saturate."""
    pairs = largest_pairs(model)
    loose = can_saturate(pairs)
    return {
        "layers": len(pairs),
        "largest_pair": max(pairs.values(), default=0),
        "allowed_pair": LARGEST_PAIR,
        "can_saturate": loose,
        "proved_for": [] if loose else list(PROCESSORS),
    }


def _by_output(node: onnx.NodeProto, weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Weights as `(outputs, weights of each)`. The outputs of a product are the last axis of its second factor."""
    if node.op_type in ("MatMul", "Gemm"):
        transposed = any(one.name == "transB" and one.i == 1 for one in node.attribute)
        return weights if transposed else np.moveaxis(weights, -1, 0).reshape(weights.shape[-1], -1)
    return weights.reshape(weights.shape[0], -1)
