"""Messages of the Open Inference Protocol over gRPC: the published package `inference`, without its comments.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto

The classes are made here from a table, in a descriptor pool of their own. Generated code would be bound to versions of
protobuf, and its pool is shared by the whole process, where `tritonclient` and `kserve` each register the same names.
`benchmarks/serve_clients.py` compares the table with theirs.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_TENSOR = "string name = 1; string datatype = 2; repeated int64 shape = 3"
_PARAMETERS = "map parameters = {}"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3;"
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4;"
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR}; {_PARAMETERS.format(4)}; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": f"string name = 1; {_PARAMETERS.format(2)}",
    "ModelInferRequest": f"string model_name = 1; string model_version = 2; string id = 3; {_PARAMETERS.format(4)};"
    "repeated ModelInferRequest.InferInputTensor inputs = 5;"
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR}; {_PARAMETERS.format(4)}; InferTensorContents contents = 5",
    "ModelInferResponse": f"string model_name = 1; string model_version = 2; string id = 3; {_PARAMETERS.format(4)};"
    "repeated ModelInferResponse.InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6",
    "InferParameter": "choice bool bool_param = 1; choice int64 int64_param = 2; choice string string_param = 3;"
    "choice double double_param = 4; choice uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2;"
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5;"
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
}
_FIELD = re.compile(r"(?:(repeated|choice) )?(\S+) (\w+) = (\d+)")


def _file() -> Any:
    """The descriptor of the whole file."""
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference_grpc.proto", package="inference", syntax="proto3", message_type=[]
    )
    made: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda one: one.count(".")):  # outer ones first
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name, made[name] = inner, message
        for text in filter(None, (one.strip() for one in _MESSAGES[name].split(";"))):
            _add_field(message, name, text)
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for method in METHODS:
        service.method.add(
            name=method, input_type=f".inference.{method}Request", output_type=f".inference.{method}Response"
        )
    return file


def _add_field(message: Any, owner: str, text: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    found = _FIELD.fullmatch(text)
    assert found is not None, text
    how, kind, name, number = found.groups()
    field = message.field.add(name=name, number=int(number), label=kinds.LABEL_OPTIONAL)
    if how == "repeated":
        field.label = kinds.LABEL_REPEATED
    elif how == "choice":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind == "map":  # from texts to parameters; protobuf writes a map as a list of entries
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
        entry.field.add(
            name="value",
            number=2,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=".inference.InferParameter",
        )
        field.label, kind = kinds.LABEL_REPEATED, f"{owner}.ParametersEntry"
    if kind[0].isupper():
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".inference.{kind}"
    else:
        field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")


@cache
def message(name: str) -> Any:
    """The class of a message such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return pool
