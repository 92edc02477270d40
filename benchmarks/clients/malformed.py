"""Malformed requests of the Open Inference Protocol, and what a server says to them."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 10.0  # for an answer


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input of one image of two pixels, with changes; a value of None leaves the key out."""
    found = {"name": "photographs", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 6], **changes}
    return {name: value for name, value in found.items() if value is not None}


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _infer(*inputs: Any, **others: Any) -> bytes:
    return _json({"inputs": list(inputs), **others})


def _in_binary(values: bytes, size: Any, header: int | None = None) -> tuple[bytes, dict[str, str]]:
    head = _infer(tensor(data=None, parameters={"binary_data_size": size}))
    return head + values, {"Inference-Header-Content-Length": str(len(head) if header is None else header)}


def requests() -> Iterator[tuple[str, str, str, bytes, dict[str, str]]]:
    """What it is, method, path, body and headers."""
    path = "/v2/models/model/infer"

    def post(what: str, body: bytes, headers: dict[str, str] | None = None) -> Any:
        return what, "POST", path, body, headers or {}

    def with_value(text: str) -> bytes:
        return _infer(tensor(data=["HERE", 2, 3, 4, 5, 6])).replace(b'"HERE"', text.encode())

    yield post("(a good one)", _infer(tensor()))
    yield post("empty body", b"")
    yield post("no JSON", b"{")
    yield post("JSON, but no object", b"[]")
    yield post("no `inputs`", b"{}")
    yield post("`inputs` is empty", _infer())
    yield post("the input twice", _infer(tensor(), tensor()))
    yield post("another name", _infer(tensor(name="pixels")))
    yield post("no name", _infer(tensor(name=None)))
    yield post("another datatype", _infer(tensor(datatype="FP32")))
    yield post("unknown datatype", _infer(tensor(datatype="UINT9")))
    yield post("no shape", _infer(tensor(shape=None)))
    yield post("another rank", _infer(tensor(shape=[6])))
    yield post("negative shape", _infer(tensor(shape=[1, 1, -2, 3])))
    yield post("shape of fractions", _infer(tensor(shape=[1, 1, 2.0, 3])))
    yield post("huge shape", _infer(tensor(shape=[1, 2**31 - 1, 2**31 - 1, 3])))
    yield post("shape that overflows 64 bits", _infer(tensor(shape=[1, 2**40, 2**40, 3])))
    yield post("batch over the bound", _infer(tensor(shape=[33, 1, 2, 3], data=[1] * 198)))
    yield post("batch of none", _infer(tensor(shape=[0, 1, 2, 3], data=[])))
    yield post("too few values", _infer(tensor(data=[1, 2])))
    yield post("too many values", _infer(tensor(data=[1] * 9)))
    yield post("no data", _infer(tensor(data=None)))
    yield post("data is no list", _infer(tensor(data="123456")))
    yield post("data nested unevenly", _infer(tensor(data=[1, [2, 3, 4, 5, 6]])))
    for text in ("999", "-1", "1.5", "true", "null", '"1"', "NaN", "1e400"):
        yield post(f"the value {text} in UINT8", with_value(text))
    yield post("binary, size unequal to shape", *_in_binary(b"12345", 5))
    yield post("binary, size beyond the body", *_in_binary(b"123456", 600))
    yield post("binary, negative size", *_in_binary(b"123456", -6))
    yield post("binary, bytes that follow", *_in_binary(b"1234567", 6))
    yield post("binary, header length beyond the body", *_in_binary(b"123456", 6, 9999))
    yield post("binary, header length negative", *_in_binary(b"123456", 6, -1))
    yield post("binary, header length no number", _infer(tensor()), {"Inference-Header-Content-Length": "many"})
    yield post("another output", _infer(tensor(), outputs=[{"name": "scores"}]))
    yield post(
        "negative classification", _infer(tensor(), outputs=[{"name": "logits", "parameters": {"classification": -1}}])
    )
    yield post("shared memory of no region", _infer(tensor(data=None, parameters={"shared_memory_region": "none"})))
    yield "unknown model", "POST", "/v2/models/nothing/infer", _infer(tensor()), {}
    yield "unknown version", "POST", "/v2/models/model/versions/9/infer", _infer(tensor()), {}
    yield "unknown model, ready", "GET", "/v2/models/nothing/ready", b"", {}
    yield "unknown path", "GET", "/v2/nothing", b"", {}
    yield "another method", "GET", path, b"", {}


def answers(address: str) -> bool:
    """Whether a server answers a good request over HTTP."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    try:
        connection.request("POST", "/v2/models/model/infer", _infer(tensor()))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def over_http(address: Callable[[], str], is_up: Callable[[], bool] = lambda: True) -> list[tuple[str, int | str, str]]:
    """What a server says over HTTP: the request, the status, and the text of its error or of its logits.

    Args:
        address: Called before each request.
        is_up: Called after each.
    """
    found = []
    for what, method, path, body, headers in requests():
        connection = http.client.HTTPConnection(address(), timeout=SECONDS)
        status: int | str
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            status, said = answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            status, said = "no answer", type(error).__name__
        connection.close()
        found.append((what, status, _short(said) if is_up() else "it died"))
    return found


def _short(said: str) -> str:
    try:
        told = json.loads(said)
        if "outputs" in told:
            return f"answers {told['outputs'][0]['data']}"
        said = str(told.get("error", said))
    except (ValueError, AttributeError, KeyError, IndexError):
        pass
    return " ".join(said.split())


def messages(message: Any) -> Iterator[tuple[str, bytes]]:
    """`ModelInferRequest`s that are malformed, as bytes; `message` makes a message by its name."""

    def request(raw: list[bytes], **changes: Any) -> bytes:
        given = {"name": "photographs", "datatype": "UINT8", "shape": [1, 1, 2, 3], **changes}
        asked = message("ModelInferRequest")(model_name="model", raw_input_contents=raw)
        asked.inputs.add(**given)
        return bytes(asked.SerializeToString())

    numbers = message("InferTensorContents")
    yield "(a good one)", request([b"123456"])
    yield "no message of the protocol", b"\xff\xff"
    yield "nothing", b""
    yield "another name", request([b"123456"], name="pixels")
    yield "another datatype", request([b"123456"], datatype="FP32")
    yield "negative shape", request([b"123456"], shape=[1, 1, -2, 3])
    yield "huge shape", request([b"123456"], shape=[1, 2**40, 2**40, 3])
    yield "too few raw bytes", request([b"12"])
    yield "two raw values for one input", request([b"123456", b"123456"])
    yield "raw and typed values", request([b"123456"], contents=numbers(uint_contents=[1] * 6))
    yield "values of another type", request([], contents=numbers(fp32_contents=[1] * 6))
    yield "the value 999 in UINT8", request([], contents=numbers(uint_contents=[999, 2, 3, 4, 5, 6]))
    yield "no values", request([])


def over_grpc(address: Callable[[], str], is_up: Callable[[], bool] = lambda: True) -> list[tuple[str, str, str]]:
    """What a server says over gRPC: the request, the code, and the text of its error or its logits; see `over_http`."""
    import grpc

    from zoo.serving.grpc_messages import SERVICE, message

    found = []
    for what, data in messages(message):
        with grpc.insecure_channel(address()) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            try:
                answer = message("ModelInferResponse").FromString(call(data, timeout=SECONDS))
                said = "OK", f"answers {struct.unpack('<2f', answer.raw_output_contents[0])}"
            except grpc.RpcError as error:
                said = error.code().name, " ".join((error.details() or "").split())
            except (IndexError, struct.error):
                said = "OK", f"answers {list(answer.outputs[0].contents.fp32_contents)}"
        found.append((what, *said) if is_up() else (what, said[0], "it died"))
    return found
