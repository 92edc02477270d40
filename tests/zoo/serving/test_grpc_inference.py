"""Messages of gRPC: on the wire they are the published ones, and any request is read or rejected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoo.serving.bounds import Bounds, Rejection

pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

from zoo.serving import grpc_inference
from zoo.serving.grpc_messages import METHODS, message
from zoo.serving.grpc_server import CODES

BOUNDS = Bounds(images=4, pixels=10_000, body=100_000)

fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "photographs", "x"]),
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32", ""]),
        "shape": st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), max_size=12),
        "contents": st.builds(
            lambda numbers, files: message("InferTensorContents")(uint_contents=numbers, bytes_contents=files),
            st.lists(st.integers(0, 2**32 - 1), max_size=6),
            st.lists(st.binary(max_size=5), max_size=3),
        ),
    },
)


@given(st.lists(fields, max_size=2), st.lists(st.binary(max_size=12), max_size=2))
@example([{"name": "photographs", "datatype": "UINT8", "shape": [2**62] * 4}], [])
def test_an_arbitrary_request_is_read_or_rejected(tensors: list[dict[str, Any]], raw: list[bytes]) -> None:
    asked = message("ModelInferRequest")(raw_input_contents=raw)
    for tensor in tensors:
        asked.inputs.add(**tensor)
    try:
        found, _ = grpc_inference.parse(asked, BOUNDS, 2)
    except Rejection as rejection:
        assert rejection.status in CODES and len(rejection.message) < 300
    else:
        assert 1 <= len(found.images) <= BOUNDS.images


@given(st.binary(max_size=100))
def test_a_message_of_arbitrary_bytes_is_read_or_rejected(data: bytes) -> None:
    try:
        asked = message("ModelInferRequest").FromString(data)
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
        return
    with pytest.raises(Rejection):
        grpc_inference.parse(asked, BOUNDS, 2)


def test_messages_stand_on_the_wire_as_published() -> None:
    """Written by hand from the published field numbers."""
    asked = message("ModelInferRequest")(model_name="m", model_version="1", id="i", raw_input_contents=[b"r"])
    tensor = asked.inputs.add(name="n", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"b")
    asked.outputs.add(name="o").parameters["classification"].int64_param = 3
    wire = b"\x0a\x01m\x12\x011\x1a\x01i" + b"\x2a\x12\x0a\x01n\x12\x05BYTES\x1a\x01\x01\x2a\x03\x42\x01b"
    wire += b"\x32\x19\x0a\x01o\x12\x14\x0a\x0eclassification\x12\x02\x10\x03" + b"\x3a\x01r"
    assert asked.SerializeToString() == wire
    told = message("ModelInferResponse")(model_name="m", raw_output_contents=[b"r"])
    told.outputs.add(name="n").contents.fp32_contents.append(1)
    assert told.SerializeToString() == b"\x0a\x01m\x2a\x0b\x0a\x01n\x2a\x06\x32\x04\0\0\x80\x3f\x32\x01r"
    assert len(METHODS) == 6
