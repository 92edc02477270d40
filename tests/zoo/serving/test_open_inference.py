"""The data plane in JSON and binary: what goes in comes out, and anything else is rejected with 4xx in one line."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numbered_images import Numbers, numbers_model

from zoo.predictions import softmax
from zoo.serving import open_inference
from zoo.serving.bounds import Bounds, Rejection
from zoo.serving.open_inference import InferRequest, WantedOutput, parse, response, tensors
from zoo.serving.worker_pool import Answer
from zoo.storage.files import json_text

BOUNDS = Bounds(images=4, pixels=10_000, body=100_000)
CLASSES = 2

photographs = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.just(3)).flatmap(
    lambda shape: arrays.arrays(np.uint8, shape)
)
files = st.lists(st.binary(max_size=40), min_size=1, max_size=4)
numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def request(tensor: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({"inputs": [tensor], **others}).encode()


def photograph_tensor(shape: Sequence[Any], data: Any) -> dict[str, Any]:
    return {"name": "photographs", "datatype": "UINT8", "shape": list(shape), "data": data}


def read(body: bytes, header: str | None = None) -> InferRequest:
    return parse(body, header, BOUNDS, CLASSES)


def rejected(body: bytes, header: str | None = None) -> Rejection:
    """The rejection of a body, which can be told as JSON in one line."""
    with pytest.raises(Rejection) as caught:
        read(body, header)
    found = caught.value
    assert 400 <= found.status < 500 and len(found.message) < 300
    assert found.message.isprintable() and json_text({"error": found.message}).encode()
    return found


def with_binary(tensor: dict[str, Any], values: bytes, **others: Any) -> tuple[bytes, str]:
    tensor = {**tensor, "parameters": {"binary_data_size": len(values)}}
    header = request(tensor, **others)
    return header + values, str(len(header))


@given(photographs, st.integers(0, 3))
def test_decoded_images_come_as_they_were_sent(images: npt.NDArray[np.uint8], depth: int) -> None:
    """Flat, nested as deep as the shape, or nested in part; or in binary."""
    nested: Any = images.reshape((*images.shape[:depth], -1)).tolist()
    tensor = photograph_tensor(images.shape, nested)
    without = {name: value for name, value in tensor.items() if name != "data"}
    for asked in (read(request(tensor)), read(*with_binary(without, images.tobytes()))):
        assert len(asked.images) == len(images)
        assert all(np.array_equal(found, image) for found, image in zip(asked.images, images))
        assert all(isinstance(found, np.ndarray) and found.dtype == np.uint8 for found in asked.images)


@given(files)
def test_encoded_images_come_as_they_were_sent(images: list[bytes]) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    in_json = {**tensor, "data": [base64.b64encode(one).decode() for one in images]}
    assert read(request(in_json)).images == images
    values = b"".join(struct.pack("<I", len(one)) + one for one in images)
    assert read(*with_binary(tensor, values)).images == images


@given(st.binary(max_size=200), st.none() | st.text(max_size=15) | st.integers(-5, 250).map(str))
@example(b"[" * 100_000, None)
@example(b"1" * 5000, None)
@example(b"\xff{}", None)
@example(b"{}", "\N{SUPERSCRIPT TWO}")
def test_arbitrary_bytes_are_rejected(body: bytes, header: str | None) -> None:
    rejected(body, header)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(json_values)
def test_arbitrary_json_is_rejected(value: Any) -> None:
    for body in (value, {"inputs": value}, {"inputs": [value]}):
        rejected(json.dumps(body).encode())


GOOD: dict[str, Any] = {
    "id": "a",
    "parameters": {"binary_data_output": False},
    "inputs": [photograph_tensor([1, 1, 1, 3], [1, 2, 3])],
    "outputs": [{"name": "logits", "parameters": {"classification": 1, "binary_data": False}}],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@given(st.sampled_from(places(GOOD)[1:]), json_values, st.booleans())
def test_one_other_value_is_rejected_or_read(place: tuple[Any, ...], value: Any, leave_out: bool) -> None:
    """Whatever stands in the place of one value, or if it is missing."""
    changed = json.loads(json.dumps(GOOD))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if leave_out:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    body = json.dumps(changed).encode()
    try:
        asked = read(body)
    except Rejection:
        rejected(body)
    else:
        assert len(asked.images) == 1 and asked.outputs


@given(st.lists(st.integers(-5, 2**40) | st.integers(0, 5), max_size=10), st.sampled_from(["image", "photographs"]))
def test_a_shape_is_checked_before_anything_is_allocated(shape: list[int], name: str) -> None:
    """A shape is read only if as many values are there; the largest that is asked for is never made."""
    datatype = "BYTES" if name == "image" else "UINT8"
    tensor = {"name": name, "datatype": datatype, "shape": shape}
    rejected(request({**tensor, "data": []}))
    rejected(*with_binary(tensor, b"\0"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("999", "999"),
        ("256", "256"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("1.0", "1.0"),
        ("true", "true"),
        ('"1"', "a value of type str"),
        ("null", "null"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e400", "Infinity"),
        ("9" * 4000, "9" * 40),
        ("{}", "a value of type dict"),
    ],
)
def test_what_is_no_byte_is_named(value: str, shown: str) -> None:
    body = request(photograph_tensor([1, 1, 1, 3], ["HERE", 2, 3])).replace(b'"HERE"', value.encode())
    assert shown in rejected(body).message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "pixels"}, "there is no input `pixels`; there is `image` and `photographs`"),
        ({"name": "a\nb\ud800"}, "there is no input `a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}`"),
        ({"name": None}, "there is no input `null`"),
        ({"datatype": "FP32"}, "input `photographs` is UINT8, not `FP32`"),
        ({"shape": [1, 3]}, "input `photographs` has 4 dimensions, not 2"),
        ({"shape": [1] * 9}, "must be a list of at most 8 whole numbers from 0 to 2147483647"),
        ({"shape": [1, 1, 1, True]}, "must be a list of at most 8 whole numbers from 0 to 2147483647"),
        ({"shape": [1, 1, -1, 3]}, "must be a list of at most 8 whole numbers from 0 to 2147483647"),
        ({"shape": [1, 1, 3, 1]}, "has the shape (N, H, W, 3), not (1, 1, 3, 1)"),
        ({"shape": [0, 1, 1, 3]}, "a request holds 1 to 4 images, not 0"),
        ({"shape": [5, 1, 1, 3]}, "a request holds 1 to 4 images, not 5"),
        ({"data": [1, 2]}, "input `photographs` has 2 values, and its shape 3"),
        ({"data": [1, [2, 3]]}, "is nested unevenly"),
        ({"data": 1}, "must be a list"),
        ({"parameters": {"binary_data_size": 3}}, "has `data` and `binary_data_size`"),
        ({"parameters": {"shared_memory_region": "a"}}, "shared memory is not supported"),
        ({"parameters": None}, "`parameters` must be an object"),
    ],
)
def test_the_fault_of_an_input_is_named(change: dict[str, Any], message: str) -> None:
    assert message in rejected(request(GOOD["inputs"][0] | change)).message


@pytest.mark.parametrize(
    ("shape", "reason"),
    [([1, 2**31 - 1, 2**31 - 1, 3], "pixels"), ([4, 100, 100, 3], "body"), ([1, 101, 100, 3], "pixels")],
)
def test_what_is_over_a_bound_is_413(shape: list[int], reason: str) -> None:
    found = rejected(request(photograph_tensor(shape, [])))
    assert (found.status, found.reason) == (413, reason)


def test_binary_values_must_fit() -> None:
    tensor = {"name": "photographs", "datatype": "UINT8", "shape": [1, 1, 1, 3]}
    body, header = with_binary(tensor, b"abc")
    assert "1 bytes follow the last input" in rejected(body + b"d", header).message
    assert "does not fit the 2 bytes" in rejected(body[:-1], header).message
    assert "which is 3 bytes, not 2" in rejected(*with_binary(tensor, b"ab")).message
    assert "is 9999, and the body has" in rejected(body, "9999").message
    for size in (-1, 1.5, True, "3"):
        inside = {**tensor, "parameters": {"binary_data_size": size}}
        head = request(inside)
        rejected(head + b"abc", str(len(head)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"\1\0", "ends within a length"),
        (b"\5\0\0\0abc", "ends within an image"),
        (b"\xff\xff\xff\xff", "ends within an image"),
        (b"", "does not hold 2 images"),
        (b"\0\0\0\0", "does not hold 2 images"),
        (b"\0\0\0\0" * 20_000, "does not hold 2 images"),
    ],
)
def test_encoded_images_in_binary_must_fit(values: bytes, message: str) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2]}
    assert message in rejected(*with_binary(tensor, values)).message


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "scores"}], "there is no output `scores`"),
        ([{}], "there is no output `null`"),
        ([[]], "an output must be an object"),
        ({}, "`outputs` must be a list"),
        ([{"name": "label"}] * 17, "`outputs` must be a list"),
        ([{"name": "label", "parameters": {"classification": 1}}], "`classification` is for `logits`"),
        ([{"name": "logits", "parameters": {"classification": -1}}], "must be a number of classes"),
        ([{"name": "logits", "parameters": {"classification": True}}], "must be a number of classes"),
        ([{"name": "logits", "parameters": {"binary_data": 1}}], "`binary_data` must be true or false"),
        ([{"name": "logits", "parameters": {"shared_memory_region": "a"}}], "shared memory"),
    ],
)
def test_the_fault_of_an_output_is_named(outputs: Any, message: str) -> None:
    assert message in rejected(request(GOOD["inputs"][0], outputs=outputs)).message


def test_all_outputs_are_given_if_none_is_named() -> None:
    tensor = GOOD["inputs"][0]
    for body in (request(tensor), request(tensor, outputs=None), request(tensor, outputs=[])):
        asked = read(body)
        assert asked.outputs == [WantedOutput(name, False) for name in ("logits", "probabilities", "label")]
    asked = read(
        request(
            GOOD["inputs"][0],
            parameters={"binary_data_output": True},
            outputs=[{"name": "label"}, {"name": "logits", "parameters": {"classification": 9, "binary_data": False}}],
        )
    )
    assert asked.outputs == [WantedOutput("label", True), WantedOutput("logits", False, CLASSES)]


# answers


def answers_of(logits: npt.NDArray[np.float32]) -> list[Answer]:
    model = numbers_model()
    return [
        Answer(logits=row, model=model, width=1, height=1, frames=1, remarks=(), seconds={}, batch=1) for row in logits
    ]


def decoded(body: bytes, header: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """An answer as a client reads it: its JSON, and the values of its outputs."""
    told = json.loads(body[:header])
    place = header or 0
    found: dict[str, Any] = {}
    for tensor in told["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = tensor["data"]
        elif tensor["datatype"] == "FP32":
            values = np.frombuffer(body[place : place + size], "<f4").tolist()
        else:
            texts, rest = [], body[place : place + size]
            while rest:
                length = struct.unpack_from("<I", rest)[0]
                texts.append(rest[4 : 4 + length].decode())
                rest = rest[4 + length :]
            values = texts
        place += size or 0
        assert len(values) == prod(tensor["shape"])
        found[tensor["name"]] = values
    assert header is None or place == len(body)
    return told, found


rows = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(2)), elements=st.floats(-50, 50, width=32))
wanted = st.lists(
    st.builds(
        WantedOutput,
        st.sampled_from(["logits", "probabilities"]),
        st.booleans(),
        st.integers(0, 2),
    )
    | st.builds(WantedOutput, st.just("label"), st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one.name,
)


@given(rows, wanted, st.none() | st.text(max_size=5) | st.just("\ud800"))
def test_answers_are_read_as_they_were_given(
    logits: npt.NDArray[np.float32], outputs: list[WantedOutput], identity: str | None
) -> None:
    """Every bit of a float32 comes through, in JSON as in binary."""
    answers = answers_of(logits)
    body, header = response(answers, InferRequest(identity, [], outputs))
    assert (header is not None) == any(one.binary for one in outputs)
    told, found = decoded(body, header)
    assert told["model_name"] == "numbers" and told["model_version"] == "1" and told.get("id") == identity
    assert told["parameters"] == {"digest": "numbers"}
    values = {"logits": logits, "probabilities": softmax(logits).astype(np.float32)}
    for output in outputs:
        if output.name == "label":
            assert found["label"] == [Numbers.classes[int(row.argmax())] for row in logits]
        elif output.classes:
            assert found[output.name] == tensors(answers, [output])[0][3]
        else:
            assert np.array_equal(np.array(found[output.name], np.float32), values[output.name].ravel())


def test_classes_are_told_as_triton_tells_them() -> None:
    logits = np.array([[-1, 2], [0.5, 0.5]], np.float32)
    ((name, datatype, shape, texts),) = tensors(answers_of(logits), [WantedOutput("logits", False, 2)])
    assert (name, datatype, shape) == ("logits", "BYTES", [2, 2])
    assert texts == [
        "2.000000:1:multiple",
        "-1.000000:0:number",
        "0.500000:0:number",  # the first of equal ones, as in `zoo predict`
        "0.500000:1:multiple",
    ]


def test_metadata_name_every_tensor() -> None:
    told = open_inference.metadata(numbers_model())
    assert told["versions"] == ["1"] and told["platform"] == "onnxruntime_onnx"
    assert [one["name"] for one in told["inputs"]] == ["image", "photographs"]
    assert [one["shape"] for one in told["outputs"]] == [[-1, 2], [-1, 2], [-1]]
    assert json.loads(told["parameters"]["classes"]) == ["number", "multiple"]
