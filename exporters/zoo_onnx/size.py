"""Models beyond protobuf's limit of 2 GiB, whose weights are in a second file beside the first."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

MAX_BYTES = 2_000_000_000  # of weights; the rest of the 2 GiB is for the graph and the metadata
SUFFIX = ".data"
SMALLEST = 1024  # bytes: smaller constants stay in the graph


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a model is too large for one file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES


def move_weights(model: onnx.ModelProto, file: Path) -> dict[str, str]:
    """Write the weights of a model to a file beside `file`, and replace them by references.

    Returns the SHA-256 of the written file by its name.

    Raises:
        OSError: the file cannot be written.
    """
    name = f"{file.name}{SUFFIX}"
    convert_model_to_external_data(model, location=name, size_threshold=SMALLEST)
    write_external_data_tensors(model, str(file.parent))
    return {name: digest_of_file(file.with_name(name))}


def digest_of_file(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_model(model: onnx.ModelProto, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on the CPU for a model in memory, of any size."""
    if not is_large(model):
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        file = Path(folder) / "model.onnx"
        move_weights(copy, file)
        file.write_bytes(copy.SerializeToString())
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
