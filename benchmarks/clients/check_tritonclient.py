"""Every call of tritonclient, HTTP and gRPC, against a running `zoo serve`; prints what came of them as JSON.

    python check_tritonclient.py EXPECTED.json HTTP-ADDRESS GRPC-ADDRESS

Runs where `tritonclient[http,grpc]` and pillow are installed; `benchmarks/serve_clients.py` runs it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from checked import (
    FIRST,
    GRPC,
    HTTP,
    PHOTOGRAPHS,
    Check,
    check,
    check_later,
    compare_messages,
    outputs,
    pixels,
    right,
    row,
    tell,
    text,
)
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException


def triton_values(answer: Any) -> dict[str, Any]:
    return {name: answer.as_numpy(name) for name in ("logits", "probabilities", "label")}


def triton_image(module: Any, *paths: Path, **how: Any) -> Any:
    made = module.InferInput("image", [len(paths)], "BYTES")
    made.set_data_from_numpy(np.array([path.read_bytes() for path in paths], dtype=object), **how)
    return made


def triton_pixels(module: Any, path: Path, **how: Any) -> Any:
    values = pixels(path)
    made = module.InferInput("photographs", list(values.shape), "UINT8")
    made.set_data_from_numpy(values, **how)
    return made


def triton_base64(path: Path) -> Any:
    made = tritonclient.http.InferInput("image", [1], "BYTES")
    values = np.array([base64.b64encode(path.read_bytes())], dtype=object)
    made.set_data_from_numpy(values, binary_data=False)
    return made


def check_triton(name: str, module: Any, client: Any) -> None:
    is_http = module is tritonclient.http
    absent = "[404]" if is_http else "[StatusCode.NOT_FOUND]"
    malformed = "[400]" if is_http else "[StatusCode.INVALID_ARGUMENT]"
    not_there = "[404]" if is_http else "[StatusCode.UNIMPLEMENTED]"

    def field(answer: Any, key: str) -> Any:
        return answer[key] if is_http else getattr(answer, key)

    check(name, "is_server_live", client.is_server_live, bool)
    check(name, "is_server_ready", client.is_server_ready, bool)
    check(name, "get_server_metadata", client.get_server_metadata, lambda told: field(told, "name") == "zoo")
    for model, version in (("model", ""), ("model", "1"), ("other", "1")):
        check(name, f"is_model_ready {model} {version}", lambda m=model, v=version: client.is_model_ready(m, v), bool)
        check(
            name,
            f"get_model_metadata {model} {version}",
            lambda m=model, v=version: client.get_model_metadata(m, v),
            lambda told, m=model: field(told, "name") == m and len(field(told, "outputs")) == 3,
        )
    for model, version in (("model", "2"), ("nothing", "")):
        refused: Check = (lambda ready: ready is False) if is_http else absent
        check(
            name, f"is_model_ready {model} {version}", lambda m=model, v=version: client.is_model_ready(m, v), refused
        )
        asked = [triton_image(module, FIRST)]
        for call, made in (
            ("get_model_metadata", lambda m=model, v=version: client.get_model_metadata(m, v)),
            ("infer", lambda m=model, v=version, i=asked: client.infer(m, i, model_version=v)),
        ):
            check(name, f"{call} {model} {version}", made, absent)
    for call in (
        "get_model_config",
        "get_inference_statistics",
        "load_model",
        "unload_model",
    ):
        check(name, f"{call}: not in the protocol", lambda c=call: getattr(client, c)("model"), not_there)
    for call in (
        "get_model_repository_index",
        "get_trace_settings",
        "get_log_settings",
        "get_system_shared_memory_status",
        "get_cuda_shared_memory_status",
    ):
        check(name, f"{call}: not in the protocol", getattr(client, call), not_there)

    def infer(*inputs: Any, model: str = "model", **options: Any) -> dict[str, Any]:
        return triton_values(client.infer(model, list(inputs), **options))

    image, photograph = triton_image(module, FIRST), triton_pixels(module, FIRST)
    check(name, "infer `image`", lambda: infer(image), right)
    check(name, "infer `photographs`", lambda: infer(photograph), right)
    check(name, "infer another model, with version", lambda: infer(image, model="other", model_version="1"), right)
    options: dict[str, Any] = {"sequence_id": 3, "priority": 1, "timeout": 10**7, "parameters": {"mine": 1}}
    check(name, "infer with parameters that say nothing here", lambda: infer(image, **options), right)
    two = triton_image(module, FIRST, Path(PHOTOGRAPHS[-1]["path"]))
    labels = [PHOTOGRAPHS[0]["label"], PHOTOGRAPHS[-1]["label"]]
    check(name, "infer two images", lambda: infer(two)["label"], lambda told: list(map(text, told)) == labels)
    check(
        name,
        "infer with request_id",
        lambda: client.infer("model", [image], request_id="a-1").get_response(),
        lambda told: field(told, "id") == "a-1",
    )
    wanted = [module.InferRequestedOutput("probabilities", class_count=1)]
    check(
        name,
        "infer with class_count",
        lambda: client.infer("model", [image], outputs=wanted).as_numpy("probabilities"),
        lambda told: text(told.ravel()[0]).endswith(f":{labels[0]}"),
    )
    check(name, "async_infer", lambda: triton_async(client, is_http, image), right)
    check(name, "infer, another input's name", lambda: infer(module.InferInput("pixels", [1], "BYTES")), malformed)
    check(name, "infer, no input", infer, malformed)
    shared = module.InferInput("image", [1], "BYTES")
    shared.set_shared_memory("region", 10)
    check(name, "infer from shared memory: not here", lambda: infer(shared), malformed)
    if is_http:
        plain = [module.InferRequestedOutput(one, binary_data=False) for one in ("logits", "probabilities", "label")]
        check(name, "infer, all in JSON", lambda: infer(triton_base64(FIRST), outputs=plain), right)
        check(
            name,
            "infer `photographs` in JSON",
            lambda: infer(triton_pixels(module, FIRST, binary_data=False), outputs=plain),
            right,
        )
        for algorithm in ("gzip", "deflate"):
            asked_for = {"request_compression_algorithm": algorithm}
            check(name, f"infer, request as {algorithm}", lambda a=asked_for: infer(image, **a), "[415]")
            back = {"response_compression_algorithm": algorithm}
            check(name, f"infer, answer as {algorithm} if it may", lambda b=back: infer(image, **b), right)
    else:
        for algorithm in ("gzip", "deflate"):
            check(name, f"infer, as {algorithm}", lambda a=algorithm: infer(image, compression_algorithm=a), right)
        check(name, "stream_infer: not in the protocol", lambda: triton_stream(client, image), "UNIMPLEMENTED")
        check(name, "infer, client_timeout", lambda: infer(image, client_timeout=1e-4), "DEADLINE_EXCEEDED")


def triton_async(client: Any, is_http: bool, image: Any) -> dict[str, Any]:
    if is_http:
        return triton_values(client.async_infer("model", [image]).get_result())
    found: queue.Queue[Any] = queue.Queue()
    client.async_infer("model", [image], lambda result, error: found.put((result, error)))
    result, error = found.get(timeout=60)
    if error is not None:
        raise error
    return triton_values(result)


def triton_stream(client: Any, image: Any) -> Any:
    found: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    with contextlib.suppress(InferenceServerException):  # it may know already that there is no stream
        client.async_stream_infer("model", [image])
    result, error = found.get(timeout=60)
    client.stop_stream()
    if error is not None:
        raise error
    return result


async def check_triton_aio(name: str, module: Any, inner: Any, address: str) -> None:
    """The asynchronous client; its inputs are those of the other one."""
    async with inner.InferenceServerClient(address) as client:

        async def infer() -> dict[str, Any]:
            return triton_values(await client.infer("model", [triton_image(module, FIRST)]))

        await check_later(name, "is_server_live", client.is_server_live, bool)
        await check_later(name, "is_server_ready", client.is_server_ready, bool)
        await check_later(name, "is_model_ready", lambda: client.is_model_ready("model"), bool)
        await check_later(name, "get_server_metadata", client.get_server_metadata, bool)
        await check_later(name, "get_model_metadata", lambda: client.get_model_metadata("model"), bool)
        await check_later(name, "infer `image`", infer, right)


def photographs() -> list[dict[str, Any]]:
    """How many photographs get the answer of `zoo predict`, by what is sent."""
    rows = []
    clients: list[tuple[str, Any, Any]] = [
        ("tritonclient HTTP", tritonclient.http, tritonclient.http.InferenceServerClient(HTTP)),
        ("tritonclient gRPC", tritonclient.grpc, tritonclient.grpc.InferenceServerClient(GRPC)),
    ]
    for name, module, client in clients:
        for sent, tensor in (("`image`", triton_image), ("`photographs`", triton_pixels)):

            def ask(photograph: dict[str, Any], module=module, client=client, tensor=tensor) -> dict[str, bool]:
                asked = [tensor(module, Path(photograph["path"]))]
                return outputs(triton_values(client.infer("model", asked)), photograph)

            rows.append(row(name, sent, [ask(one) for one in PHOTOGRAPHS]))
            if module is tritonclient.grpc:
                with ThreadPoolExecutor(16) as threads:
                    rows.append(row(name, f"{sent}, 16 at once", list(threads.map(ask, PHOTOGRAPHS))))
    return rows


def main() -> None:
    check_triton("tritonclient HTTP", tritonclient.http, tritonclient.http.InferenceServerClient(HTTP))
    check_triton("tritonclient gRPC", tritonclient.grpc, tritonclient.grpc.InferenceServerClient(GRPC))
    asyncio.run(check_triton_aio("tritonclient HTTP aio", tritonclient.http, tritonclient.http.aio, HTTP))
    asyncio.run(check_triton_aio("tritonclient gRPC aio", tritonclient.grpc, tritonclient.grpc.aio, GRPC))
    messages = compare_messages(service_pb2.DESCRIPTOR.serialized_pb)
    tell(("tritonclient", "grpcio", "pillow"), photographs(), messages)


if __name__ == "__main__":
    main()
