"""Open Inference Protocol over gRPC: from a `ModelInferRequest` to images, and from answers to a `ModelInferResponse`.

What a request may hold and what it gets are those of `zoo.serving.open_inference`. An encoded image is its bytes, in
`bytes_contents` or in `raw_input_contents`; there each follows its length in four bytes, as in HTTP's binary extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from zoo.data.image import Pixels
from zoo.serving import open_inference
from zoo.serving.bounds import Bounds
from zoo.serving.grpc_messages import message
from zoo.serving.open_inference import IMAGE, PHOTOGRAPHS, VERSION, InferRequest, bad
from zoo.serving.served_model import ServedModel
from zoo.serving.worker_pool import Answer

CONTENTS = {IMAGE: "bytes_contents", PHOTOGRAPHS: "uint_contents"}


def parse(request: Any, bounds: Bounds, classes: int, unknown: bool = False) -> tuple[InferRequest, bool]:
    """Read a `ModelInferRequest`.

    Args:
        request: The message.
        bounds: Bounds of images and pixels.
        classes: Number of the model's classes.
        unknown: Whether the model scores how strange an image is.

    Returns:
        The request, and whether its values are raw. Those of the answer are then raw too.

    Raises:
        Rejection: it is not a request that the model can answer.
    """
    if len(request.inputs) != 1:
        raise bad(f"`inputs` must hold one tensor, `{IMAGE}` or `{PHOTOGRAPHS}`")
    tensor = request.inputs[0]
    name, shape = open_inference.described(
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape[: open_inference.MOST_DIMENSIONS + 1]),
            "parameters": _parameters(tensor.parameters),
        },
        bounds,
    )
    raw = bool(request.raw_input_contents)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if raw:
        if len(request.raw_input_contents) != 1 or filled:
            what = "`contents` too" if filled else f"{len(request.raw_input_contents)} values"
            raise bad(f"`raw_input_contents` must hold one value for input `{name}`, and there is {what}")
        images = open_inference.from_binary(name, shape, request.raw_input_contents[0])
    else:
        if filled not in ([], [CONTENTS[name]]):
            raise bad(f"the values of input `{name}` belong into `{CONTENTS[name]}`, not `{'` and `'.join(filled)}`")
        images = _from_contents(name, shape, getattr(tensor.contents, CONTENTS[name]))
    asked = [{"name": one.name, "parameters": _parameters(one.parameters)} for one in request.outputs[:17]]
    outputs = open_inference.wanted_outputs(asked, _parameters(request.parameters), classes, unknown)
    return InferRequest(request.id or None, images, outputs), raw


def _parameters(given: Any) -> dict[str, Any]:
    """Parameters in JSON's types; one without a value is None."""
    found = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def _from_contents(name: str, shape: list[int], values: Any) -> list[bytes | Pixels]:
    if len(values) != prod(shape):
        raise bad(f"input `{name}` has {len(values)} values, and its shape {prod(shape)}")
    if name == IMAGE:
        return list(values)
    numbers = np.fromiter(values, np.uint32, len(values))
    if numbers.max() > 255:
        raise bad(f"{numbers.max()} is not a whole number from 0 to 255")
    return list(numbers.astype(np.uint8).reshape(shape))


def response(answers: Sequence[Answer], request: InferRequest, raw: bool) -> Any:
    """The `ModelInferResponse` of a request's answers."""
    model = answers[0].model
    told = message("ModelInferResponse")(model_name=model.name, model_version=VERSION, id=request.id or "")
    told.parameters["digest"].string_param = model.digest
    for name, datatype, shape, values in open_inference.tensors(answers, request.outputs):
        tensor = told.outputs.add(name=name, datatype=datatype, shape=shape)
        if datatype == "BYTES":
            if raw:
                told.raw_output_contents.append(open_inference.to_bytes(values))
            else:
                tensor.contents.bytes_contents.extend(text.encode() for text in values)
        elif raw:
            told.raw_output_contents.append(np.ascontiguousarray(values, "<f4").tobytes())
        else:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
    return told


def metadata(model: ServedModel) -> Any:
    """The `ModelMetadataResponse` of a model. It has no place for the parameters that HTTP tells."""
    told = open_inference.metadata(model)
    tensors = {part: [_tensor(one) for one in told[part]] for part in ("inputs", "outputs")}
    return message("ModelMetadataResponse")(
        name=told["name"], versions=told["versions"], platform=told["platform"], **tensors
    )


def _tensor(told: dict[str, Any]) -> Any:
    return message("ModelMetadataResponse.TensorMetadata")(**told)
