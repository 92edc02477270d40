"""Connections: uvicorn's HTTP protocol with deadlines for headers, bodies and answers, and bounds of headers.

uvicorn itself keeps a half-sent request open for ever, and takes headers of any length.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
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
    """One connection. `bounded` makes the class for a server's bounds.

    A client may send requests before earlier ones are answered. They are answered in order, one at a time: `_active` is
    answered now, the pipeline of uvicorn holds those that wait, and `cycle` is the one that came last.
    """

    bounds = Bounds()

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.requests = 0  # whose headers came
        self._header_bytes = 0
        self._is_offer = False  # to change the protocol
        self._in_headers = True  # from the end of one request to the end of the next one's headers
        self._own: Any = None  # the cycle of the request whose body is coming
        self._active: Any = None
        self._ending = False  # whatever comes is dropped
        self._refusal: tuple[int, str] | None = None  # of a request, after those before it are answered
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @classmethod
    def refused(cls, reason: str) -> None:
        """Count a request that does not reach the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.bounds.connections
        if len(self.connections) > 2 * most:  # even those that are told that there are too many
            self.refused("connections")
            transport.abort()
        elif len(self.connections) > most:
            self._refuse(503, "connections", "too many connections are open")
        else:
            self._start_timer(self.bounds.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._ending = True
        active = self._active
        super().connection_lost(exc)  # which tells only the last request
        if active is not None and not active.response_complete:
            active.disconnected = True
            active.message_event.set()
        self._stop_write_timer()
        self._own = self._active = None
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        if self._ending or self.transport.is_closing():
            return
        if self._in_headers:
            if self._timer is None:  # the next request of a kept connection
                self._start_timer(self.bounds.header_seconds)
            self._header_bytes += len(data)
        before = self.requests
        self._unset_keepalive_if_required()
        self._parse(data)
        # The data may hold the end of the headers and a part of the body, so they are counted when they were read
        if self._in_headers and self.requests == before and self._header_bytes > self.bounds.header_bytes:
            self._refuse_headers()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # Clients that know HTTP/2 offer it, such as Java's. A server may ignore that, but the parser does not
                # read the body then: it starts again without the offer
                head = self._without_offer()
                if not head:
                    return
                data = head + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("")
                return

    def _without_offer(self) -> bytes:
        """The headers that came, without an offer of another protocol, for a new parser; nothing if it is refused."""
        if self._ending or not self._is_offer:
            return b""
        self._is_offer = False
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        return b"".join([*head, b"\r\n"])

    def on_message_begin(self) -> None:
        self._own = None
        if self._timer is None and not self._ending:  # it begins in the same data as the last one ends
            self._start_timer(self.bounds.header_seconds)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:
            super().on_header(name, value)
            return
        self._header_bytes += len(name) + len(value) + 4  # a trailer, after a body in chunks: nobody reads it
        if self._header_bytes > self.bounds.header_bytes and not self._ending:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        if self._ending:
            return
        if self.parser.get_method() == b"CONNECT":
            self._refuse(400, "malformed", "this is no proxy")
            return
        if self.parser.should_upgrade():
            self._is_offer = True
            return
        self._in_headers, self._header_bytes = False, 0
        self.requests += 1
        if sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > self.bounds.header_bytes:
            self._refuse_headers()
            return
        self._start_timer(self.bounds.body_seconds)
        super().on_headers_complete()
        self._own = self.cycle
        self.cycle.transport = _Lingering(self.transport, self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if not self._ending:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._ending or self._is_offer:
            return
        self._stop_timer()
        self._in_headers, self._header_bytes, self._own = True, 0, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._refusal is not None and not self.pipeline:
            self._tell(*self._refusal)
        elif self._ending and self._refusal is None:
            self.pipeline.clear()
        else:
            super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.bounds.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun and its body is not complete."""
        return not self._in_headers and not self._ending

    @property
    def is_expecting(self) -> bool:
        """Whether the first request is still to come, or any request is on its way."""
        return not self._ending and (self.requests == 0 or self._header_bytes > 0 or not self._in_headers)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "malformed", "the request is not HTTP")

    def end(self) -> None:
        """Close this side, and the whole connection when the client has closed too or `LINGER_SECONDS` are over.

        To close a socket that has unread data resets it, and the client may lose the answer that it was sent.
        """
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._ending, self._refusal = True, None
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def close(self) -> None:
        """Close the connection, even if the client never reads its answer."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.bounds.body_seconds, self.transport.abort)
        self.transport.close()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        async def closing(scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start" and cycle.more_body:
                    cycle.keep_alive = False  # the rest of the body is not wanted
                await send(message)

            await app(scope, receive, sending)

        self._active = cycle
        super()._start_asgi_task(cycle, closing)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._too_slow, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_slow(self, seconds: float) -> None:
        self._timer = None
        if self.flow.read_paused:  # it is the server that does not read
            self._start_timer(seconds)
        else:
            self._refuse(408, "slow", "the request did not arrive in time")

    def _refuse_headers(self) -> None:
        self._refuse(431, "headers", f"the headers are longer than {self.bounds.header_bytes:,} bytes")

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Answer the request that is coming without the application, after those before it, and close."""
        if self._ending or self.transport.is_closing():
            return
        self.refused(reason)
        self._stop_timer()
        self._ending = True
        own, self._own = self._own, None
        if own is not None and own is not self._active:
            self.pipeline = deque(one for one in self.pipeline if one[0] is not own)
        if self._active is not None and self._active is not own and not self._active.response_complete:
            self._refusal = status, message
        elif own is None:
            self._tell(status, message)
        elif own.response_complete:  # it was answered before it came whole
            self.end()
        elif own.response_started:
            self.transport.abort()
        else:
            own.disconnected = True  # the application must not answer too
            own.message_event.set()
            self._tell(status, message)

    def _tell(self, status: int, message: str) -> None:
        body = json_text({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.end()


class _Lingering:
    """A connection's transport as its requests see it. While a body is still coming, it is closed as `end` does."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self._connection.is_receiving and not self._transport.is_closing():
            self._connection.end()
        else:
            self._connection.close()


def bounded(bounds: Bounds, refused: Callable[[str], None] = lambda reason: None) -> type[Connection]:
    """The class of connections with these bounds; `refused` is told why a request does not reach the application."""
    return type("BoundedConnection", (Connection,), {"bounds": bounds, "refused": staticmethod(refused)})
