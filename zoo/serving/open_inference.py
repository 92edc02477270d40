"""Open Inference Protocol v2, the data plane: https://github.com/kserve/open-inference-protocol

A model takes one of two inputs: `photographs`, UINT8 `(N, H, W, 3)`, decoded images of one size; or `image`, BYTES
`(N)`, encoded images of any sizes. In JSON an encoded image is base64; in the binary extension, its bytes.
It gives `logits` and `probabilities`, FP32 `(N, classes)`, and `label`, BYTES `(N)`. A file with a threshold for
unknown images gives `unknown`, FP32 `(N)`, too.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from zoo.data.image import Pixels
from zoo.predictions import softmax
from zoo.serving.bounds import Bounds, Rejection
from zoo.serving.served_model import ServedModel
from zoo.serving.worker_pool import Answer
from zoo.storage.files import json_text

PHOTOGRAPHS, IMAGE = "photographs", "image"
LOGITS, PROBABILITIES, LABEL, UNKNOWN = "logits", "probabilities", "label", "unknown"
HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "classification")
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        name: `logits`, `probabilities`, `label` or `unknown`.
        binary: Whether its values follow the JSON in binary.
        classes: How many classes are wanted as texts `VALUE:INDEX:NAME`, as Triton gives them; 0: plain values.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request to `infer`: its images and the outputs that it wants."""

    id: str | None
    images: list[bytes | Pixels]
    outputs: list[WantedOutput]


def bad(message: str, hint: str | None = None) -> Rejection:
    """The rejection of a malformed request."""
    return Rejection(400, "malformed", message, hint)


def parse(body: bytes, header_length: str | None, bounds: Bounds, classes: int, unknown: bool = False) -> InferRequest:
    """Read the body of an `infer` request.

    Args:
        body: JSON, followed by binary values if `header_length` is given.
        header_length: Value of the header `Inference-Header-Content-Length`; None: there is none.
        bounds: Bounds of images and pixels.
        classes: Number of the model's classes.
        unknown: Whether the model scores how strange an image is.

    Raises:
        Rejection: it is not a request that the model can answer.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal() or len(header_length) > 12:
            raise bad("`Inference-Header-Content-Length` is not a whole number")
        length = int(header_length)
        if length > len(body):
            raise bad(f"`Inference-Header-Content-Length` is {length}, and the body has {len(body)} bytes")
    request = _json(body[:length])
    rest = memoryview(body)[length:]
    parameters = _mapping(request.get("parameters", {}), "`parameters`")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise bad(f"`inputs` must hold one tensor, `{IMAGE}` or `{PHOTOGRAPHS}`")
    images, used = _images(_mapping(inputs[0], "an input"), rest, bounds)
    if used != len(rest):
        raise bad(f"{len(rest) - used} bytes follow the last input")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise bad("`id` must be a text")
    return InferRequest(identity, images, wanted_outputs(request.get("outputs"), parameters, classes, unknown))


def _json(text: bytes) -> dict[str, Any]:
    def refuse(name: str) -> Any:
        raise bad(f"`{name}` is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise bad("the body is not JSON", "binary values need the header `Inference-Header-Content-Length`") from error
    return _mapping(value, "the request")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(f"{what} must be an object")
    return value


def _images(tensor: dict[str, Any], rest: memoryview, bounds: Bounds) -> tuple[list[bytes | Pixels], int]:
    """The images of an input, and how many bytes of `rest` it used."""
    name, shape = described(tensor, bounds)
    size = tensor.get("parameters", {}).get("binary_data_size")
    if size is None:
        if "data" not in tensor:
            raise bad(f"input `{name}` has no `data`")
        flat = _flat(tensor["data"], prod(shape), name)
        return (_from_base64(flat) if name == IMAGE else _from_numbers(flat, shape)), 0
    if "data" in tensor:
        raise bad(f"input `{name}` has `data` and `binary_data_size`")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise bad(f"`binary_data_size` of input `{name}` does not fit the {len(rest)} bytes that follow")
    return from_binary(name, shape, rest[:size]), size


def described(tensor: Mapping[str, Any], bounds: Bounds) -> tuple[str, list[int]]:
    """Name and shape of an input, once everything but its values is checked.

    Args:
        tensor: `name`, `datatype`, `shape` and perhaps `parameters`, in JSON's types.
        bounds: Bounds of images and pixels; the shape's product is within them.

    Raises:
        Rejection: the model has no such input, or it is over a bound.
    """
    name = tensor.get("name")
    if name not in (IMAGE, PHOTOGRAPHS):
        raise bad(f"there is no input {_shown(name)}; there is `{IMAGE}` and `{PHOTOGRAPHS}`")
    shape, datatype = _shape(tensor.get("shape"), name), tensor.get("datatype")
    wanted = "BYTES" if name == IMAGE else "UINT8"
    if datatype != wanted:
        raise bad(f"input `{name}` is {wanted}, not {_shown(datatype)}")
    rank = 1 if name == IMAGE else 4
    if len(shape) != rank:
        raise bad(f"input `{name}` has {rank} dimensions, not {len(shape)}")
    if not 1 <= shape[0] <= bounds.images:
        raise bad(f"a request holds 1 to {bounds.images} images, not {shape[0]}")
    if name == PHOTOGRAPHS:
        if shape[3] != 3 or 0 in shape:
            raise bad(f"input `{name}` has the shape (N, H, W, 3), not {tuple(shape)}")
        if shape[1] * shape[2] > bounds.pixels:
            message = f"the image has {shape[1] * shape[2]:,} pixels, over {bounds.pixels:,}"
            raise Rejection(413, "pixels", message, "send a smaller one")
        if prod(shape) > bounds.body:
            raise Rejection(413, "body", f"{prod(shape):,} bytes are over {bounds.body:,}", "send encoded images")
    _no_shared_memory(_mapping(tensor.get("parameters", {}), "`parameters`"))
    return name, shape


def from_binary(name: str, shape: list[int], values: bytes | memoryview) -> list[bytes | Pixels]:
    """The images of an input whose values are in binary; `described` has checked its name and shape.

    Raises:
        Rejection: the values do not have the shape.
    """
    if name == IMAGE:
        return _split(values, shape[0])
    if len(values) != prod(shape):
        raise bad(f"input `{name}` has the shape {tuple(shape)}, which is {prod(shape)} bytes, not {len(values)}")
    return list(np.frombuffer(values, np.uint8).reshape(shape))


def _no_shared_memory(parameters: Mapping[str, Any]) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise bad("shared memory is not supported", "send the values in the request")


def _shown(value: Any) -> str:
    """A value of a request, short and printable."""
    text = value if isinstance(value, str) else "null" if value is None else type(value).__name__
    return f"`{printable(text[:40])}`"


def printable(text: str) -> str:
    """A text of a request as a message may show it: on one line, and certain to be UTF-8."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _shape(value: Any, name: str) -> list[int]:
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or len(value) > MOST_DIMENSIONS or any(one < 0 or one >= 2**31 for one in value):
        what = f"a list of at most {MOST_DIMENSIONS} whole numbers from 0 to {2**31 - 1}"
        raise bad(f"the `shape` of input `{name}` must be {what}")
    return list(value)


def _flat(data: Any, count: int, name: str) -> list[Any]:
    """The values of a nested list, in order. The number is known before anything is allocated."""
    if not isinstance(data, list):
        raise bad(f"the `data` of input `{name}` must be a list")
    values: list[Any] = data
    for _ in range(MOST_DIMENSIONS):
        if not any(isinstance(one, list) for one in values):
            break
        if not all(isinstance(one, list) for one in values):
            raise bad(f"the `data` of input `{name}` is nested unevenly")
        values = [inner for one in values for inner in one]
    if len(values) != count:
        raise bad(f"input `{name}` has {len(values)} values, and its shape {count}")
    return values


def _as_json(value: Any) -> str:
    """A value of a request in a message."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return str(value).replace("inf", "Infinity")
    return f"a value of type {type(value).__name__}"


def _from_numbers(values: list[Any], shape: list[int]) -> list[bytes | Pixels]:
    for one in values:
        if type(one) is not int or not 0 <= one <= 255:
            what = _as_json(one)
            raise bad(f"{what[:40]} is not a whole number from 0 to 255")
    return list(np.array(values, np.uint8).reshape(shape))


def _from_base64(values: list[Any]) -> list[bytes | Pixels]:
    try:
        return [base64.b64decode(one, validate=True) for one in values]
    except (TypeError, ValueError, binascii.Error) as error:
        raise bad(
            f"input `{IMAGE}` holds a value that is not base64", "in JSON an image is base64; or send it in binary"
        ) from error


def _split(values: bytes | memoryview, count: int) -> list[bytes | Pixels]:
    """Encoded images, each after its length in four bytes."""
    found: list[bytes | Pixels] = []
    place = 0
    while place < len(values) and len(found) <= count:  # a body may hold millions of empty ones
        if place + 4 > len(values):
            raise bad(f"input `{IMAGE}` ends within a length")
        (length,) = struct.unpack_from("<I", values, place)
        place += 4
        if place + length > len(values):
            raise bad(f"input `{IMAGE}` ends within an image")
        found.append(bytes(values[place : place + length]))
        place += length
    if len(found) != count:
        raise bad(f"input `{IMAGE}` does not hold {count} images, as its shape says")
    return found


def wanted_outputs(
    wanted: Any, parameters: Mapping[str, Any], classes: int, unknown: bool = False
) -> list[WantedOutput]:
    """The outputs that a request asks for; all, if it names none.

    Args:
        wanted: A list of `{"name": ..., "parameters": {...}}`, or None.
        parameters: Those of the request.
        classes: Number of the model's classes.
        unknown: Whether the model scores how strange an image is.

    Raises:
        Rejection: the model has no such output, or cannot give it like that.
    """
    by_default = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    names: tuple[str, ...] = (LOGITS, PROBABILITIES, LABEL, *((UNKNOWN,) if unknown else ()))
    if wanted is None or wanted == []:
        return [WantedOutput(name, by_default) for name in names]
    if not isinstance(wanted, list) or len(wanted) > 16:
        raise bad("`outputs` must be a list")
    found = []
    for one in wanted:
        output = _mapping(one, "an output")
        name = output.get("name")
        if name not in names:
            there = " and ".join([", ".join(f"`{one}`" for one in names[:-1]), f"`{names[-1]}`"])
            raise bad(f"there is no output {_shown(name)}; there is {there}")
        own = _mapping(output.get("parameters", {}), "`parameters`")
        _no_shared_memory(own)
        count = own.get("classification", 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise bad("`classification` must be a number of classes")
        if count and name in (LABEL, UNKNOWN):
            raise bad(f"`classification` is for `{LOGITS}` and `{PROBABILITIES}`")
        binary = _flag(own.get("binary_data", by_default), "binary_data")
        found.append(WantedOutput(str(name), binary, min(count, classes)))
    return found


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise bad(f"`{name}` must be true or false")
    return value


def tensors(answers: Sequence[Answer], outputs: Sequence[WantedOutput]) -> list[tuple[str, str, list[int], Any]]:
    """The wanted outputs of the answers: name, datatype, shape and values.

    Values are a float32 array, or a list of texts for BYTES.
    """
    logits = np.stack([answer.logits for answer in answers])
    classes = answers[0].model.classes
    found: list[tuple[str, str, list[int], Any]] = []
    for output in outputs:
        if output.name == LABEL:
            texts = [classes[int(row.argmax())] for row in logits]
            found.append((LABEL, "BYTES", [len(texts)], texts))
            continue
        if output.name == UNKNOWN:
            scores = np.array([answer.unknown for answer in answers], np.float32)
            found.append((UNKNOWN, "FP32", [len(scores)], scores))
            continue
        values = logits if output.name == LOGITS else softmax(logits).astype(np.float32)
        if output.classes:
            texts = [
                f"{row[index]:f}:{index}:{classes[index]}"
                for row in values
                for index in (-row).argsort(kind="stable")[: output.classes]
            ]
            found.append((output.name, "BYTES", [len(answers), output.classes], texts))
        else:
            found.append((output.name, "FP32", list(values.shape), values))
    return found


def to_bytes(texts: Sequence[str]) -> bytes:
    """Texts as the binary extension has them: each after its length in four bytes."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


def response(answers: Sequence[Answer], request: InferRequest) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if binary values follow it."""
    outputs, binary = [], []
    for wanted, (name, datatype, shape, values) in zip(request.outputs, tensors(answers, request.outputs)):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            data = to_bytes(values) if datatype == "BYTES" else np.ascontiguousarray(values, "<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor["data"] = values if datatype == "BYTES" else [float(value) for value in values.ravel()]
        outputs.append(tensor)
    model = answers[0].model
    told: dict[str, Any] = {
        "model_name": model.name,
        "model_version": VERSION,
        "parameters": {"digest": model.digest},
        "outputs": outputs,
    }
    if request.id is not None:
        told["id"] = request.id
    header = json_text(told).encode()
    return header + b"".join(binary), len(header) if binary else None


def metadata(model: ServedModel) -> dict[str, Any]:
    """The answer of `GET /v2/models/M`."""
    count = len(model.classes)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
            {"name": PHOTOGRAPHS, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": LOGITS, "datatype": "FP32", "shape": [-1, count]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, count]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            *([{"name": UNKNOWN, "datatype": "FP32", "shape": [-1]}] if model.scores_unknown else []),
        ],
        "parameters": {
            "digest": model.digest,
            "precision": model.precision,
            "provider": model.provider,
            "batch_size": model.batching.size,
            "batching": str(model.batching),
            "classes": json_text(list(model.classes)),
        },
    }
