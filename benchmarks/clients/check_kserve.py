"""Every call of kserve's clients, REST and gRPC, against a running `zoo serve`; prints what came of them as JSON.

    python check_kserve.py EXPECTED.json HTTP-ADDRESS GRPC-ADDRESS

Runs where `kserve` and pillow are installed; `benchmarks/serve_clients.py` runs it.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import kserve
import numpy as np
from checked import (
    FIRST,
    GRPC,
    HTTP,
    PHOTOGRAPHS,
    check_later,
    compare_messages,
    outputs,
    pixels,
    right,
    row,
    tell,
    text,
)
from kserve.protocol.grpc import grpc_predict_v2_pb2
from kserve.protocol.infer_type import RequestedOutput


def kserve_values(answer: Any) -> dict[str, Any]:
    return {one.name: one.as_numpy() for one in answer.outputs}


def kserve_request(path: Path, *, decoded: bool = False, binary: bool = True, model: str = "model") -> Any:
    values = pixels(path) if decoded else np.array([path.read_bytes()], dtype=object)
    name, datatype = ("photographs", "UINT8") if decoded else ("image", "BYTES")
    tensor = kserve.InferInput(name, list(values.shape), datatype)
    if decoded or binary:
        tensor.set_data_from_numpy(values, binary_data=binary)
    else:
        tensor.data = [path.read_bytes()]
    return kserve.InferRequest(model, [tensor], request_id="a-1")


async def check_kserve() -> None:
    base = f"http://{HTTP}"
    rest = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    remote = kserve.InferenceGRPCClient(GRPC)

    async def over_rest(asked: Any, model: str = "model") -> dict[str, Any]:
        return kserve_values(await rest.infer(base, asked, model_name=model))

    async def over_grpc(asked: Any) -> dict[str, Any]:
        return kserve_values(await remote.infer(asked))

    name = "kserve REST"
    await check_later(name, "is_server_live", lambda: rest.is_server_live(base), bool)
    await check_later(name, "is_server_ready", lambda: rest.is_server_ready(base), bool)
    await check_later(name, "is_model_ready", lambda: rest.is_model_ready(base, "model"), bool)
    await check_later(name, "is_model_ready nothing", lambda: rest.is_model_ready(base, "nothing"), lambda is_: not is_)
    json_image = {
        "inputs": [
            {
                "name": "image",
                "shape": [1],
                "datatype": "BYTES",
                "data": [base64.b64encode(FIRST.read_bytes()).decode()],
            }
        ]
    }
    await check_later(name, "infer `image` in JSON", lambda: over_rest(json_image), right)
    plain = kserve_request(FIRST, decoded=True, binary=False)
    await check_later(name, "infer `photographs` in JSON", lambda: over_rest(plain), right)
    for call, decoded in (("image", False), ("photographs", True)):
        asked = kserve_request(FIRST, decoded=decoded)
        await check_later(name, f"infer `{call}` in binary", lambda a=asked: over_rest(a), right)
        await check_later("kserve gRPC", f"infer `{call}`, raw", lambda a=asked: over_grpc(a), right)
        typed = kserve_request(FIRST, decoded=decoded, binary=False)
        await check_later("kserve gRPC", f"infer `{call}`, typed", lambda a=typed: over_grpc(a), right)
    asked = kserve_request(FIRST)
    asked.parameters = {"binary_data_output": True}
    await check_later(name, "infer, answer in binary", lambda: over_rest(asked), right)
    await check_later(name, "infer another model", lambda: over_rest(kserve_request(FIRST), "other"), right)
    await check_later(name, "infer nothing", lambda: over_rest(kserve_request(FIRST), "nothing"), "404")
    wrong = kserve.InferRequest("model", [kserve.InferInput("pixels", [1], "BYTES", data=["a"])])
    await check_later(name, "infer, another input's name", lambda: over_rest(wrong), "there is no input `pixels`")
    wanted = kserve_request(FIRST)
    wanted.request_outputs = [RequestedOutput("probabilities", {"classification": 1})]

    def named(told: dict[str, Any]) -> bool:
        return text(told["probabilities"].ravel()[0]).endswith(f":{PHOTOGRAPHS[0]['label']}")

    await check_later(name, "infer with classification", lambda: over_rest(wanted), named)
    name = "kserve gRPC"
    await check_later(name, "infer with classification", lambda: over_grpc(wanted), named)
    await check_later(name, "is_server_live", remote.is_server_live, bool)
    await check_later(name, "is_server_ready", remote.is_server_ready, bool)
    await check_later(name, "is_model_ready", lambda: remote.is_model_ready("model"), bool)
    await check_later(name, "is_model_ready nothing", lambda: remote.is_model_ready("nothing"), "NOT_FOUND")
    await check_later(name, "infer nothing", lambda: over_grpc(kserve_request(FIRST, model="nothing")), "NOT_FOUND")
    await check_later(name, "infer, another input's name", lambda: over_grpc(wrong), "there is no input `pixels`")


async def kserve_all(over_grpc: bool, decoded: bool) -> list[dict[str, bool]]:
    """All photographs, one after another."""
    found = []
    rest = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    remote = kserve.InferenceGRPCClient(GRPC)
    for photograph in PHOTOGRAPHS:
        asked = kserve_request(Path(photograph["path"]), decoded=decoded)
        answer = remote.infer(asked) if over_grpc else rest.infer(f"http://{HTTP}", asked, model_name="model")
        found.append(outputs(kserve_values(await answer), photograph))
    return found


def main() -> None:
    asyncio.run(check_kserve())
    rows = [
        row(name, sent, asyncio.run(kserve_all(over_grpc, decoded)))
        for name, over_grpc in (("kserve REST", False), ("kserve gRPC", True))
        for sent, decoded in (("`image`", False), ("`photographs`", True))
    ]
    tell(("kserve",), rows, compare_messages(grpc_predict_v2_pb2.DESCRIPTOR.serialized_pb))


if __name__ == "__main__":
    main()
