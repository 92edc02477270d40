"""The Open Inference Protocol over gRPC: the same answers and rejections as over HTTP, as gRPC's codes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numbered_images import encoded, numbered, numbers_model, served

from zoo import ZooError
from zoo.serving.bounds import Bounds
from zoo.serving.service import Service
from zoo.serving.supervisor import hold

grpc: Any = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

from zoo.serving import grpc_inference  # noqa: E402
from zoo.serving.grpc_messages import SERVICE, message  # noqa: E402
from zoo.serving.grpc_server import CODES, LEAST_PLACES, GrpcServer  # noqa: E402

Code: Any = grpc.StatusCode
BOUNDS = Bounds(images=4, pixels=10_000, body=100_000, queue=100)
SECONDS = 60.0  # more than any test takes


class Client:
    """Calls of one server; a call's answer is a message, its error an `AioRpcError`."""

    def __init__(self, channel: Any, address: str = "") -> None:
        self.channel, self.address = channel, address

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        return await self.send(method, message(f"{method}Request")(**fields).SerializeToString())

    async def send(self, method: str, data: bytes, **options: Any) -> Any:
        call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return message(f"{method}Response").FromString(await call(data, timeout=SECONDS, **options))

    async def code(self, answer: Awaitable[Any]) -> tuple[Any, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
        return caught.value.code(), caught.value.details()


@asynccontextmanager
async def serving(service: Service, **settings: Any) -> AsyncIterator[Client]:
    server = GrpcServer(service, "127.0.0.1:0", **settings)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Client(channel, f"127.0.0.1:{server.port}")
    finally:
        await server.stop(0)


def run(test: Callable[[Client], Awaitable[None]], *, service: Service | None = None, **settings: Any) -> None:
    """Run a test against a server of two models."""
    own = service or Service([numbers_model("twice", 2), numbers_model("thrice", 3)], workers=2, bounds=BOUNDS)

    async def served_meanwhile() -> None:
        async with serving(own, **settings) as client:
            await test(client)

    asyncio.run(served_meanwhile())
    own.close()


def image_request(*files: bytes, model: str = "twice", raw: bool = False, **others: Any) -> dict[str, Any]:
    """The fields of a request with encoded images."""
    tensor = message("ModelInferRequest.InferInputTensor")(name="image", datatype="BYTES", shape=[len(files)])
    if raw:
        others["raw_input_contents"] = [b"".join(struct.pack("<I", len(one)) + one for one in files)]
    else:
        tensor.contents.bytes_contents.extend(files)
    return {"model_name": model, "inputs": [tensor], **others}


def photograph_request(images: np.ndarray, *, raw: bool = False, **others: Any) -> dict[str, Any]:
    tensor = message("ModelInferRequest.InferInputTensor")(name="photographs", datatype="UINT8", shape=images.shape)
    if raw:
        others["raw_input_contents"] = [images.tobytes()]
    else:
        tensor.contents.uint_contents.extend(images.ravel().tolist())
    return {"model_name": "twice", "inputs": [tensor], **others}


def floats(answer: Any, index: int) -> list[float]:
    """The values of an output, raw or not."""
    if answer.raw_output_contents:
        assert not answer.outputs[index].HasField("contents")
        values: list[float] = np.frombuffer(answer.raw_output_contents[index], "<f4").tolist()
        return values
    return list(answer.outputs[index].contents.fp32_contents)


def test_health_and_metadata() -> None:
    async def test(client: Client) -> None:
        assert (await client("ServerLive")).live and (await client("ServerReady")).ready
        for version in ("", "1"):
            assert (await client("ModelReady", name="thrice", version=version)).ready
        server = await client("ServerMetadata")
        assert (server.name, server.version) == ("zoo", "1.2")
        model = await client("ModelMetadata", name="thrice")
        assert model.name == "thrice" and list(model.versions) == ["1"] and model.platform == "onnxruntime_onnx"
        assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
            ("image", "BYTES", [-1]),
            ("photographs", "UINT8", [-1, -1, -1, 3]),
        ]
        assert [one.name for one in model.outputs] == ["logits", "probabilities", "label"]

    run(test, version="1.2")


def test_a_server_that_stops_is_not_ready() -> None:
    service = Service([numbers_model()], workers=1, bounds=BOUNDS)
    service.draining = True

    async def test(client: Client) -> None:
        assert (await client("ServerLive")).live and not (await client("ServerReady")).ready
        assert not (await client("ModelReady", name="numbers")).ready
        assert floats(await client("ModelInfer", **image_request(encoded(numbered(7)), model="numbers")), 0) == [7, 14]

    run(test, service=service)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_images_are_answered_as_they_are_asked(raw: bool) -> None:
    """Raw values get raw ones, typed values typed ones."""

    async def test(client: Client) -> None:
        files = [encoded(numbered(number)) for number in (300, 70_000)]
        answer = await client("ModelInfer", **image_request(*files, model="thrice", raw=raw, id="a"))
        assert (answer.model_name, answer.model_version, answer.id) == ("thrice", "1", "a")
        assert answer.parameters["digest"].string_param == "thrice"
        assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
            ("logits", "FP32", [2, 2]),
            ("probabilities", "FP32", [2, 2]),
            ("label", "BYTES", [2]),
        ]
        assert floats(answer, 0) == [300, 900, 70_000, 210_000] and floats(answer, 1) == [0, 1, 0, 1]
        if raw:
            assert answer.raw_output_contents[2] == b"\x08\0\0\0multiple" * 2
        else:
            assert list(answer.outputs[2].contents.bytes_contents) == [b"multiple"] * 2
        pixels = np.stack([numbered(15 * number) for number in (2, 3)])
        assert floats(await client("ModelInfer", **photograph_request(pixels, raw=raw)), 0) == [30, 60, 45, 90]

    run(test)


def test_classes_are_told_as_texts() -> None:
    async def test(client: Client) -> None:
        asked = message("ModelInferRequest.InferRequestedOutputTensor")(name="logits")
        asked.parameters["classification"].int64_param = 1
        answer = await client("ModelInfer", **image_request(encoded(numbered(7)), outputs=[asked]))
        assert list(answer.outputs[0].contents.bytes_contents) == [b"14.000000:1:multiple"]
        assert list(answer.outputs[0].shape) == [1, 1] and len(answer.outputs) == 1

    run(test)


def test_what_is_wrong_is_named_with_its_code() -> None:
    async def test(client: Client) -> None:
        async def told(code: Any, text: str, **fields: Any) -> None:
            found = await client.code(client("ModelInfer", **fields))
            assert found[0] == code and text in found[1], found

        good = image_request(b"")
        bad = Code.INVALID_ARGUMENT
        await told(Code.NOT_FOUND, "no model `x`; there is twice, thrice", **{**good, "model_name": "x"})
        await told(Code.NOT_FOUND, "no version `2`", **good, model_version="2")
        await told(bad, "the image is empty", **good)
        await told(bad, "PDF", **image_request(b"%PDF-1.7"))
        await told(bad, "GIF", **image_request(b"GIF89a"))
        await told(bad, "must hold one tensor", model_name="twice")
        await told(bad, "holds 1 to 4 images", **image_request(*[b""] * 5))
        tensor = good["inputs"][0]
        await told(bad, "and there is `contents` too", **good, raw_input_contents=[b"\0\0\0\0"])
        del tensor.contents.bytes_contents[:]
        await told(bad, "and there is 2 values", **good, raw_input_contents=[b"", b""])
        await told(bad, "has 0 values, and its shape 1", **good)
        tensor.contents.fp32_contents.append(1)
        await told(bad, "belong into `bytes_contents`, not `fp32_contents`", **good)
        pixels = photograph_request(np.zeros((1, 1, 1, 3), np.uint8))
        pixels["inputs"][0].contents.uint_contents[1] = 999
        await told(bad, "999 is not a whole number from 0 to 255", **pixels)
        huge = message("ModelInferRequest.InferInputTensor")(
            name="photographs", datatype="UINT8", shape=[1, 2**31 - 1, 2**31 - 1, 3]
        )
        await told(Code.RESOURCE_EXHAUSTED, "pixels, over 10,000", model_name="twice", inputs=[huge])
        found = await client.code(client.send("ModelInfer", b"\xff\xff"))
        assert found == (bad, "the message is not a `ModelInferRequest`")
        found = await client.code(client.send("ModelInfer", b"\0" * 400_000))
        assert found[0] == Code.RESOURCE_EXHAUSTED
        bomb = client.send("ModelInfer", b"\0" * 50_000_000, compression=grpc.Compression.Gzip)
        assert (await client.code(bomb))[0] == Code.RESOURCE_EXHAUSTED
        found = await client.code(client.channel.unary_unary(f"/{SERVICE}/ModelConfig")(b"", timeout=SECONDS))
        assert found[0] == Code.UNIMPLEMENTED

    run(test)


def test_every_status_of_a_rejection_has_a_code() -> None:
    source = "".join(file.read_text() for file in Path(grpc_inference.__file__).parent.glob("*.py"))
    for status in range(400, 600):
        assert status in CODES or f"Rejection({status}" not in source.replace("\n", "").replace(" ", "")


def test_a_token_is_needed_but_for_health() -> None:
    async def test(client: Client) -> None:
        assert (await client("ServerLive")).live and (await client("ServerReady")).ready
        data = message("ModelReadyRequest")(name="twice").SerializeToString()
        for metadata in (
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", "secret"),),
            (("authorization", "Basic secret"),),
            (("authorization", "Bearer secret"), ("authorization", "Bearer secret")),
        ):
            code, text = await client.code(client.send("ModelReady", data, metadata=metadata))
            assert code == Code.UNAUTHENTICATED and "authorization: Bearer TOKEN" in text
        assert (await client.send("ModelReady", data, metadata=(("authorization", "bearer secret"),))).ready

    run(test, token="secret")


CANCELLED = 'zoo_requests_total{code="CANCELLED",route="grpc_infer"} 1.0'


class Waits:
    """A predictor that waits until it may go on."""

    classes = ("a", "b")
    preprocess = numbers_model().predictor.preprocess
    device = "none"

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def logits(self, photographs: Any) -> Any:
        self.begun.set()
        assert self.go.wait(SECONDS)
        return np.ones((len(photographs), 2), np.float32)


def test_a_full_queue_says_when_to_try_again_and_who_leaves_makes_room() -> None:
    predictor = Waits()
    service = Service([served(predictor, "waits", 1)], workers=1, bounds=Bounds(queue=1))

    async def test(client: Client) -> None:
        data = message("ModelInferRequest")(**image_request(encoded(numbered(1)), model="waits")).SerializeToString()
        first = asyncio.ensure_future(client.send("ModelInfer", data))
        assert await asyncio.to_thread(predictor.begun.wait, SECONDS)
        second = asyncio.ensure_future(client.send("ModelInfer", data))
        while service.pool.queued < 1:
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.send("ModelInfer", data)
        assert caught.value.code() == Code.UNAVAILABLE and "1 image is waiting" in caught.value.details()
        told = dict(caught.value.trailing_metadata())
        assert int(told["retry-after"]) >= 1 and int(told["grpc-retry-pushback-ms"]) == 1000 * int(told["retry-after"])
        assert (await client("ServerReady")).ready  # health answers all the same
        second.cancel()
        while CANCELLED not in service.metrics.text().decode():
            await asyncio.sleep(0.01)
        predictor.go.set()
        assert floats(await first, 0) == [1, 1]
        assert floats(await client.send("ModelInfer", data), 0) == [1, 1]

    run(test, service=service)
    counted = service.metrics.text().decode()
    assert 'zoo_requests_total{code="UNAVAILABLE",route="grpc_infer"} 1.0' in counted
    assert CANCELLED in counted
    assert 'zoo_requests_total{code="OK",route="grpc_infer"} 2.0' in counted


def test_a_message_that_does_not_come_ends_the_call() -> None:
    service = Service([numbers_model()], workers=1, bounds=Bounds(body_seconds=0.05))

    async def test(client: Client) -> None:
        async def nothing() -> AsyncIterator[bytes]:
            await asyncio.sleep(SECONDS)
            yield b""

        async def none_at_all() -> AsyncIterator[bytes]:
            for one in list[bytes]():
                yield one

        call = client.channel.stream_unary(f"/{SERVICE}/ModelInfer")
        code, text = await client.code(call(nothing(), timeout=SECONDS))
        assert (code, text) == (Code.DEADLINE_EXCEEDED, "the request did not arrive in time")
        assert await client.code(call(none_at_all())) == (Code.INVALID_ARGUMENT, "the request has no message")

    run(test, service=service)


def test_a_fault_in_the_server_is_told_without_details() -> None:
    service = Service([numbers_model()], workers=1, bounds=BOUNDS)
    service.model = None  # type: ignore[assignment, method-assign]

    async def test(client: Client) -> None:
        assert await client.code(client("ModelReady", name="numbers")) == (Code.INTERNAL, "a fault in the server")
        assert (await client("ServerLive")).live

    run(test, service=service)


def test_many_at_once_get_their_own_answers() -> None:
    service = Service(
        [numbers_model("twice", 2, 4), numbers_model("thrice", 3, 4)],
        workers=2,
        bounds=Bounds(queue=5000, connections=5000),
    )

    async def test(client: Client) -> None:
        async def one(number: int) -> None:
            model, factor = (("twice", 2), ("thrice", 3))[number % 2]
            fields = image_request(encoded(numbered(number)), model=model, raw=number % 3 == 0, id=str(number))
            answer = await client("ModelInfer", **fields)
            assert answer.id == str(number) and floats(answer, 0) == [number, factor * number]

        await asyncio.gather(*(one(number) for number in range(2000)))

    run(test, service=service)


def test_calls_over_the_bound_are_told_so() -> None:
    """Of one client and of several at once: each call is answered or rejected, and none is cancelled."""
    service = Service([numbers_model()], workers=2, bounds=Bounds(queue=5000, connections=50))

    async def test(client: Client) -> None:
        fields = image_request(encoded(numbered(5)), model="numbers")
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
        channels = [grpc.aio.insecure_channel(client.address, options=options) for _ in range(10)]
        clients = [*map(Client, channels), *[client] * 20]
        found = await asyncio.gather(
            *(one("ModelInfer", **fields) for one in clients for _ in range(100)), return_exceptions=True
        )
        rejected = [one.code() for one in found if isinstance(one, grpc.aio.AioRpcError)]
        answered = [floats(one, 0) for one in found if not isinstance(one, BaseException)]
        assert set(rejected) <= {Code.RESOURCE_EXHAUSTED} and len(answered) + len(rejected) == 3000
        assert answered == [[5, 10]] * len(answered) and len(answered) >= 50
        for channel in channels:
            await channel.close()

    run(test, service=service)


def test_a_port_that_is_held_can_be_listened_on_and_one_that_is_taken_cannot() -> None:
    held, address = hold("127.0.0.1", 0)
    with held:
        service = Service([numbers_model()], workers=1, bounds=BOUNDS)

        async def test() -> None:
            server = GrpcServer(service, address)
            await server.start()
            assert address == f"127.0.0.1:{server.port}"
            with pytest.raises(ZooError, match=f"cannot listen on {address}: address already in use"):
                hold("127.0.0.1", server.port)
            await server.stop(0)

        asyncio.run(test())
        service.close()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ZooError, match="already in use") as caught:
        hold("127.0.0.1", taken.getsockname()[1])
    assert caught.value.hint == "pass another `--grpc-port`, or 0 for a free one"


@pytest.mark.parametrize(("missing", "named"), [("grpc", "`grpc`"), ("google", "`google.protobuf`")])
def test_without_the_extra_one_line_says_so_before_anything_is_loaded(tmp_path: Path, missing: str, named: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    absent = (missing, "numpy", "onnx", "onnxruntime", "torch")  # to import one of them is an error
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from zoo_cli.main import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", code, "serve", str(tmp_path / "model.onnx"), "--grpc-port", "0"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1 and told.stdout == "", told.stderr
    assert told.stderr.splitlines()[0] == f"Error: `zoo serve --grpc-port` needs {named}, which is not installed"
    assert "hint: `pip install grpcio protobuf`" in told.stderr and len(told.stderr.split("\n\n")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no supervisor")
def test_the_program_serves_grpc_again_after_a_crash_and_drains(exported_run: Path, tmp_path: Path) -> None:
    file = shutil.copy(exported_run / "model.onnx", tmp_path / "model.onnx")
    command = [sys.executable, "-m", "zoo_cli.main", "serve", file, "--port", "0", "--grpc-port", "0", "--drain", "0.2"]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    try:
        address = _grpc_address(program)
        asked = message("ModelInferRequest")(**image_request(encoded(numbered(1)), model="model"))
        data = asked.SerializeToString()
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            first = call(data, timeout=SECONDS)
            (child,) = psutil.Process(program.pid).children()
            child.kill()
            assert _grpc_address(program) == address
            assert call(data, timeout=SECONDS, wait_for_ready=True) == first
            calls = [call.future(data, timeout=SECONDS) for _ in range(20)]
            calls[0].result()
            program.terminate()
            assert all(one.result() == first for one in calls)  # also what comes while the server drains
        assert program.wait(SECONDS) == 0
    finally:
        program.kill()
        program.wait()
        program.stderr.close()


def _grpc_address(program: subprocess.Popen[str]) -> str:
    """The address that the next line with one names."""
    assert program.stderr is not None
    for line in program.stderr:
        if " and gRPC on " in line:
            return line.partition(" and gRPC on ")[2].partition(",")[0]
    raise AssertionError("the program ended")


def test_a_fault_is_logged_in_one_line_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(client: Client) -> None:
        for error, code in ((OSError("odd"), Code.INTERNAL), (MemoryError(), Code.UNAVAILABLE)):

            def fail(*arguments: Any, error: Exception = error) -> Any:
                raise error

            monkeypatch.setattr("zoo.serving.grpc_inference.response", fail)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client("ModelInfer", **image_request(encoded(numbered(1))))
            assert caught.value.code() is code

    service = Service([numbers_model("twice", 2)], workers=1, bounds=BOUNDS)
    run(test, service=service)
    assert [one.message.split(" (")[0] for one in caplog.records] == ["a fault in the server: ModelInfer: OSError: odd"]
    text = service.metrics.text().decode()
    assert 'zoo_rejected_total{reason="internal"} 1.0' in text and 'zoo_rejected_total{reason="memory"} 1.0' in text


def test_bounds_that_grpc_cannot_hold() -> None:
    async def test(client: Client) -> None:
        assert (await client("ServerLive")).live

    run(test, service=Service([numbers_model()], workers=1, bounds=Bounds(body=10**30, connections=10**30)))


def test_the_bytes_of_all_messages_are_bounded() -> None:
    """They count until the answer, together with the bodies of HTTP."""
    service = Service([numbers_model()], workers=1, bounds=Bounds(bodies=5000))

    async def test(client: Client) -> None:
        fields = image_request(encoded(numbered(5)), model="numbers")
        assert floats(await client("ModelInfer", **fields), 0) == [5, 10]
        service.hold(5000)  # a request over HTTP
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("ModelInfer", **fields)
        assert caught.value.code() is Code.UNAVAILABLE and "too many requests" in str(caught.value.details())
        service.let_go(5000)
        assert floats(await client("ModelInfer", **fields), 0) == [5, 10]
        service.hold(5000)  # nothing is held any more
        service.let_go(5000)

    run(test, service=service)


def test_as_many_messages_are_received_at_once_as_fit_and_slow_ones_make_room() -> None:
    bounds = Bounds(body=1000, bodies=1000, header_seconds=0.2, body_seconds=SECONDS)
    service = Service([numbers_model()], workers=1, bounds=bounds)

    async def test(client: Client) -> None:
        calls = [client.channel.stream_unary(f"/{SERVICE}/ServerLive")() for _ in range(LEAST_PLACES)]
        for call in calls:
            await call.wait_for_connection()
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)  # slow, and in nobody's way
        assert (await client("ServerLive")).live  # waits for a place
        async with asyncio.timeout(SECONDS):
            while not any(call.done() for call in calls):  # the one that made room is told at its own time
                await asyncio.sleep(0.01)
        codes = {await call.code() for call in calls if call.done()}
        assert codes == {Code.DEADLINE_EXCEEDED}
        for call in calls:
            call.cancel()

    run(test, service=service)
