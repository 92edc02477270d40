"""A server for tests: an application over a stub of a model, and the real server with real sockets in a thread."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import numpy.typing as npt
import uvicorn

from zoo.data.image import Pixels
from zoo.predictor import Predictor
from zoo.serving.app import make_app
from zoo.serving.bounds import Bounds
from zoo.serving.connection import bounded
from zoo.serving.served_model import Batching, ServedModel
from zoo.serving.service import Service

CLASSES = ("dark", "light")


class StubPredictor:
    """Tells dark images from light ones; `before` is called with each call's images."""

    classes = CLASSES
    preprocess = SimpleNamespace(levels=None)
    device = "stub"

    def __init__(self, before: Callable[[Sequence[Pixels]], Any] = lambda images: None) -> None:
        self.before = before

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        given = self.before(photographs)
        if given is not None:
            return np.asarray(given, np.float32)
        means = np.array([image.mean() / 255 for image in photographs], np.float32)
        return np.stack([1 - means, means], axis=1)


def stub(predictor: Any = None, *, name: str = "model", batch: int = 1) -> ServedModel:
    """A served model that computes nothing."""
    record = {"precision": {"name": "fp32"}, "inputs": ["photographs uint8 (N, H, W, 3)"]}
    return ServedModel(
        name=name,
        path=Path(f"{name}.onnx"),
        digest="0" * 64,
        predictor=cast(Predictor, predictor or StubPredictor()),
        record=record,
        batching=Batching(size=batch, seconds={1: 1.0, batch: 0.1 if batch > 1 else 1.0}),
    )


@contextmanager
def served(*models: ServedModel, workers: int = 2, **bounds: Any) -> Iterator[Service]:
    """A service of models; stubs without any."""
    service = Service(models or (stub(),), workers=workers, bounds=dataclasses.replace(Bounds(), **bounds))
    try:
        yield service
    finally:
        service.close()


class Client:
    """Asks an application in this process."""

    def __init__(self, service: Service, **settings: Any) -> None:
        self.app = make_app(service, **settings)

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())

    def predict(self, image: bytes, **request: Any) -> httpx.Response:
        return self("POST", "/predict", content=image, **request)


@contextmanager
def listening(service: Service, **settings: Any) -> Iterator[tuple[str, int]]:
    """Serve on a free port of this machine; yields the address."""
    app = make_app(service, **settings)
    config = uvicorn.Config(
        app,
        http=bounded(service.bounds, lambda reason: service.metrics.rejected.labels(reason).inc()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(service.bounds.idle_seconds),
    )
    server = uvicorn.Server(config)
    opened = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield opened.getsockname()[:2]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def exchange(address: tuple[str, int], *parts: bytes, half_close: bool = False) -> bytes:
    """Send bytes and read until the server closes."""
    with socket.create_connection(address, 60) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:  # the server has answered and closed
            pass
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes; a reset ends it too, and is told by a last part."""
    found = b""
    while True:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:
            return found + b"<reset>"
        if not part:
            return found
        found += part


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer on a connection: its status and body."""
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(65_536)
        if not part:
            raise EOFError(found)
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += connection.recv(65_536)
    assert len(body) == length, "an answer has come too much"
    return int(head.split()[1]), body


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: server", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def until(condition: Callable[[], Any]) -> None:
    """Wait for what must happen soon, and fail when it has not happened after a minute."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def new_version(file: Path, to: Path, change: Callable[[Any], Any]) -> None:
    """Write a changed copy of an exported file that verifies as the original does; `to` is replaced at once."""
    import onnx

    from zoo_onnx import metadata

    model = onnx.load(str(file))
    change(model)
    said = metadata.read(model)
    digests = metadata.encode(metadata.digest_parts(model, said))
    next(entry for entry in model.metadata_props if entry.key == metadata.KEY_DIGESTS).value = digests
    beside = to.with_name(f"{to.name}.tmp")
    beside.write_bytes(metadata.seal(model))
    beside.replace(to)
