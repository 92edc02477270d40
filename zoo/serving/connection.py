"""Connections: uvicorn's HTTP protocol with deadlines for headers and bodies, and bounds of headers and connections.

uvicorn itself keeps a half-sent request open for ever, and takes headers of any length.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zoo.serving.bounds import Bounds
from zoo.storage.files import json_text

LINGER_SECONDS = 2.0  # in which a client may go on sending after its answer, so that it can read the answer

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Connection(HttpToolsProtocol):
    """One connection. `bounded` makes the class for a server's bounds."""

    bounds = Bounds()

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._header_bytes = 0
        self._in_headers = True  # from the end of one request to the end of the next one's headers
        self._timer: asyncio.TimerHandle | None = None
        self.requests = 0  # whose headers came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(503, "too many connections are open")
        else:
            self._start_timer(self.bounds.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            if self._timer is None:  # the next request of a kept connection
                self._start_timer(self.bounds.header_seconds)
            self._header_bytes += len(data)
            # The data may hold the end of the headers and a part of the body, so it is looked at first
            if self._header_bytes > self.bounds.header_bytes and data.find(b"\r\n\r\n") < 0:
                self._refuse(431, f"the headers are longer than {self.bounds.header_bytes:,} bytes")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self.requests += 1
        size = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
        if size > self.bounds.header_bytes:
            self._refuse(431, f"the headers are longer than {self.bounds.header_bytes:,} bytes")
            return
        self._start_timer(self.bounds.body_seconds)
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = _Lingering(self.transport, self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_headers, self._header_bytes = True, 0
        if self.cycle is not None:
            super().on_message_complete()

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun and its body is not complete."""
        return not self._in_headers

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not HTTP")

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        self._refuse(408, "the request did not arrive in time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = json_text({"error": message}).encode()
            head = (
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application must not answer too
            self.cycle.message_event.set()


class _Lingering:
    """A transport that, while the request's body is still coming, closes only its own side at first.

    To close a socket that has unread data resets it, and the client may lose the answer that it was sent.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._connection.is_receiving or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._connection.flow.resume_reading()
        self._transport.write_eof()
        self._connection.loop.call_later(LINGER_SECONDS, self._transport.close)


def bounded(bounds: Bounds) -> type[Connection]:
    """The class of connections with these bounds."""
    return type("BoundedConnection", (Connection,), {"bounds": bounds})
