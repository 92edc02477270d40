"""Size: a protobuf message ends at 2 GiB, so what is larger keeps its weights in a second file beside the first."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

MAX_BYTES = 2_000_000_000  # some of the 2 GiB is for the graph and the metadata
SUFFIX = ".data"
SMALLEST = 1024  # bytes: smaller constants stay in the graph


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a model does not fit into one file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES


def move_weights(model: onnx.ModelProto, file: Path) -> dict[str, str]:
    """Write the weights of a model, which will be `file`, beside it, and leave references; SHA-256 by file name.

    Raises:
        OSError: they cannot be written.
    """
    name = f"{file.name}{SUFFIX}"
    convert_model_to_external_data(model, location=name, size_threshold=SMALLEST)
    write_external_data_tensors(model, str(file.parent))
    return {name: digest_of_file(file.with_name(name))}


def digest_of_file(file: Path) -> str:
    """SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_model(model: onnx.ModelProto, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session of a model in memory on the CPU, however large."""
    if not is_large(model):
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        file = Path(folder) / "model.onnx"
        move_weights(copy, file)
        file.write_bytes(copy.SerializeToString())
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
