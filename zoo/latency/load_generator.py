"""Load generator: calls a server over HTTP with a number of callers, and tells its own processor time.

It runs in a process of its own, in one thread. Requests are prepared beforehand, so that a call costs it a write and a
few reads.

    {"do": "open", ...}  -> {"model": ..., "digest": ..., "workers": ...}
    {"do": "labels"}     -> {"labels": [...]}
    {"do": "run", ...}   -> {"seconds": [...], "rejected": [...], "timed": ..., "processor": ...}
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from zoo.errors import UsageError, ZooError, quoted

CONNECT_SECONDS = 10.0
REJECTED_PAUSE = 0.05  # seconds that a caller waits after a 503, so that it does not flood the server
STATUS_REJECTED = 503
PATIENCE = 5.0  # seconds for which a single request that is answered with 503 is sent again

Answer = tuple[int, bytes]  # status and body


class LoadGenerator:
    """Holds the prepared requests; each public method answers one request of the parent process."""

    def __init__(self) -> None:
        self._server = Address("http://127.0.0.1")
        self._requests: list[bytes] = []

    def open(self, url: str, files: list[str], name: str, token: str | None) -> dict[str, Any]:
        """Prepare a request for each file, and ask which file answers it.

        Args:
            url: The server's address.
            files: Photographs.
            name: What the server calls the file, if it is not the first one there.
            token: What requests name. None: nothing.
        """
        self._server = Address(url, token)
        bodies = [Path(file).read_bytes() for file in files]
        told = self._told(self._server.request("POST", "/predict?top=1", bodies[0]), "/predict")
        path = "/predict?top=1"
        if told.get("model") != name:
            status, answer = self._ask(self._server.request("GET", f"/v2/models/{quote(name, safe='')}"))
            if status == 200:
                path += f"&model={quote(name, safe='')}"
                told = {"model": name, "digest": json.loads(answer)["parameters"]["digest"]}
        status, metrics = self._ask(self._server.request("GET", "/metrics"))
        workers = re.search(rb"^zoo_workers (\S+)", metrics, re.MULTILINE) if status == 200 else None
        self._requests = [self._server.request("POST", path, body) for body in bodies]
        return {
            "model": told.get("model"),
            "digest": told.get("digest"),
            "workers": None if workers is None else int(float(workers[1])),
        }

    def labels(self) -> dict[str, Any]:
        """The label of each file."""
        return {"labels": [self._told(request, "/predict")["label"] for request in self._requests]}

    def run(self, callers: int, count: int, start: int, limit: float) -> dict[str, Any]:
        """Call until `count` requests were answered.

        Args:
            callers: Connections; each calls again as soon as it has its answer.
            count: Requests that must be answered with a prediction; a rejected one is sent again after a pause.
            start: The file of the first request.
            limit: Seconds after which it fails.

        Returns seconds of answered and of rejected requests, of all together, and the processor time that they took.
        """
        gc.collect()
        gc.disable()
        try:
            return asyncio.run(self._run_within(limit, callers, count, start))
        except TimeoutError as error:
            raise ZooError(
                f"the server did not answer {count} requests within {limit:.0f} s", hint="look at its log"
            ) from error
        except OSError as error:
            raise self._server.unreachable(error) from error
        finally:
            gc.enable()

    async def _run_within(self, limit: float, callers: int, count: int, start: int) -> dict[str, Any]:
        return await asyncio.wait_for(self._run(callers, count, start), limit)

    async def _run(self, callers: int, count: int, start: int) -> dict[str, Any]:
        connections = [await self._server.connect() for _ in range(callers)]
        seconds: list[float] = []
        rejected: list[float] = []
        tickets = iter(range(start, start + count))

        async def call(connection: Connection) -> None:
            for ticket in tickets:
                request = self._requests[ticket % len(self._requests)]
                while True:
                    if connection.closed:
                        connection = await self._server.connect()
                        connections.append(connection)
                    begun = time.perf_counter()
                    status, body = await connection.ask(request)
                    took = time.perf_counter() - begun
                    if status == 200:
                        seconds.append(took)
                        break
                    if status != STATUS_REJECTED:
                        raise _refused("/predict", status, body)
                    rejected.append(took)
                    await asyncio.sleep(REJECTED_PAUSE)

        processor, begun = time.process_time(), time.perf_counter()
        calls = [asyncio.ensure_future(call(one)) for one in connections]
        try:
            await asyncio.gather(*calls)
        finally:
            for one in calls:
                one.cancel()
            for connection in connections:
                connection.close()
        timed, processor = time.perf_counter() - begun, time.process_time() - processor
        return {"seconds": seconds, "rejected": rejected, "timed": timed, "processor": processor}

    def _told(self, request: bytes, path: str) -> dict[str, Any]:
        """The JSON that a request is answered with. A busy server is asked again, for `PATIENCE` seconds.

        Raises:
            ZooError: it is answered with an error, or the server is no `zoo serve`.
        """
        until = time.perf_counter() + PATIENCE
        status, body = self._ask(request)
        while status == STATUS_REJECTED and time.perf_counter() < until:
            time.sleep(REJECTED_PAUSE)
            status, body = self._ask(request)
        if status != 200:
            raise _refused(path, status, body)
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if not isinstance(told, dict) or "digest" not in told:
            raise ZooError(f"{self._server} is no `zoo serve`: its answer names no file", hint="check the address")
        return told

    def _ask(self, request: bytes) -> Answer:
        async def once() -> Answer:
            connection = await self._server.connect()
            try:
                return await connection.ask(request)
            finally:
                connection.close()

        try:
            return asyncio.run(once())
        except OSError as error:
            raise self._server.unreachable(error) from error


class Address:
    """The address of a server, and requests to it."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Parse an address.

        Raises:
            UsageError: it is not one of HTTP.
        """
        try:
            parts = urlsplit(url)
            self._host, self._secure = parts.hostname or "", parts.scheme == "https"
            self._port = parts.port or (443 if self._secure else 80)
        except ValueError:
            parts, self._host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.fragment or parts.username:
            raise UsageError(f"`{url}` is not the address of a server", hint="such as `http://127.0.0.1:8080`")
        self._path = parts.path.rstrip("/")
        self._name = parts.netloc
        self._token = "" if token is None else f"Authorization: Bearer {token}\r\n"

    def __str__(self) -> str:
        return f"`{self._name}{self._path}`"

    @property
    def is_here(self) -> bool:
        """Whether it is a loopback address, so that the server shares this machine's processors."""
        return self._host in ("localhost", "::1") or self._host.startswith("127.")

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request."""
        head = f"{method} {self._path}{path} HTTP/1.1\r\nHost: {self._name}\r\n{self._token}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            OSError: the server cannot be reached.
        """
        loop = asyncio.get_running_loop()
        _, connection = await asyncio.wait_for(
            loop.create_connection(Connection, self._host, self._port, ssl=self._secure or None), CONNECT_SECONDS
        )
        return connection

    def unreachable(self, error: OSError) -> ZooError:
        """The error for a connection that failed or broke."""
        why = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error).lower()
        return ZooError(f"{self} cannot be reached: {why}", hint="start `zoo serve`, or check the address")


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._end: int | None = None  # of the body, once the headers are there
        self._head: tuple[int, int] = (0, 0)  # status, and where the body begins
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._end is None:
            begin = self._buffer.find(b"\r\n\r\n") + 4
            if begin < 4:
                return
            head = bytes(self._buffer[:begin]).lower()
            length = re.search(rb"\r\ncontent-length: *(\d+)", head)
            if length is None or not head.startswith(b"http/1.1 "):
                self._fail(ConnectionError("the answer is not that of `zoo serve`"))
                return
            self._head, self._end = (int(head[9:12]), begin), begin + int(length[1])
            self.closed = b"\r\nconnection: close" in head
        if len(self._buffer) >= self._end and self._waiting is not None:
            status, begin = self._head
            body = bytes(self._buffer[begin : self._end])
            self._buffer.clear()
            self._end = None
            if not self._waiting.done():
                self._waiting.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            OSError: the connection broke.
        """
        assert self._transport is not None
        if self.closed:
            raise ConnectionError("the server closed the connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: OSError) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def _refused(path: str, status: int, body: bytes) -> ZooError:
    try:
        told = json.loads(body)
        message, hint = str(told["error"]), told.get("hint")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint = quoted(Exception(body[:200].decode(errors="replace"))), None
    return ZooError(f"the server answers `{path}` with {status}: {message}", hint=hint)
