"""Inspection: metadata, inputs, outputs and nodes of any ONNX file. Never imports torch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from zoo.errors import ZooError
from zoo_onnx import metadata as meta
from zoo_onnx.saturation import describe


def inspect(path: Path) -> dict[str, Any]:
    """Inputs, outputs, opset, nodes and decoded metadata of a file; `zoo` is False if zoo did not write it.

    Raises:
        ZooError: it is not an ONNX file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # OSError, or one of protobuf's two classes DecodeError
        raise ZooError(f"`{path}` is not an ONNX file, or is truncated", hint="copy it again") from error
    if not model.graph.node:
        raise ZooError(f"`{path}` is not an ONNX file, or is truncated", hint="copy it again")
    said = meta.read(model)
    precision = _decoded(said.get(meta.KEY_PRECISION, '{"name": "fp32"}'))
    saturation = {"saturation": describe(model)} if _is_int8(precision) else {}
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "zoo": meta.KEY_SCHEMA in said,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "inputs": [_value(value) for value in model.graph.input],
        "outputs": [_value(value) for value in model.graph.output],
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "precision": precision,
        **saturation,
        "parity": _decoded(said.get(meta.KEY_PARITY, "{}")),
        "metadata": {key: _decoded(value) for key, value in said.items()},
    }


def _is_int8(precision: Any) -> bool:
    return isinstance(precision, dict) and precision.get("name") == "int8"


def _value(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sides = ", ".join(
        side.dim_param or (str(side.dim_value) if side.HasField("dim_value") else "?") for side in tensor.shape.dim
    )
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} ({sides})"


def _decoded(value: str) -> Any:
    if not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
