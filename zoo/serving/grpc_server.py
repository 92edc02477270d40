"""The gRPC server: the Open Inference Protocol beside HTTP, in the same event loop and with the same service."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from zoo.errors import UsageError
from zoo.serving import grpc_inference, open_inference
from zoo.serving.bounds import Rejection, fault, no_memory
from zoo.serving.fault import where
from zoo.serving.grpc_messages import METHODS, SERVICE, message
from zoo.serving.open_inference import printable
from zoo.serving.service import Service
from zoo.serving.sniffing import refuse_format

LOGGER = logging.getLogger("zoo.serve")
LARGE = 2**16  # bytes of a message from which on it is parsed in a thread
ENVELOPE = 2**16  # bytes of a message beside its images
LEAST_PLACES = 4  # messages that are received at once
MOST_INT = 2**31 - 1  # that gRPC's settings hold
MOST_PENDING = 100_000  # calls between gRPC's core and this loop; beyond its own 1,000 it cancels some at random
OPEN_METHODS = ("ServerLive", "ServerReady")  # need no token
ROUTES = {"ModelInfer": "grpc_infer", "ServerLive": "grpc_health", "ServerReady": "grpc_health"}

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself says of a message over its bound
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class GrpcServer:
    """Serves a service over gRPC, on one port."""

    def __init__(self, service: Service, address: str, *, version: str = "0", token: str | None = None) -> None:
        """Bind the port.

        Args:
            service: The models and the workers.
            address: Such as `127.0.0.1:8081`; the port 0 takes a free one.
            version: What the server calls its version.
            token: What requests must name in the metadata `authorization`, as `Bearer TOKEN`. None: nothing.

        Raises:
            UsageError: the port cannot be bound.
        """
        self._service, self._version = service, version
        self._token = None if token is None else token.encode()
        bounds = service.bounds
        self._places = asyncio.Semaphore(max(bounds.bodies // (bounds.body + ENVELOPE), LEAST_PLACES))
        self._waiting = 0  # calls without a place
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", min(bounds.body + ENVELOPE, MOST_INT)),
                ("grpc.max_send_message_length", -1),
                ("grpc.server_handshake_timeout_ms", int(bounds.header_seconds * 1000)),
                ("grpc.max_connection_idle_ms", int(bounds.idle_seconds * 1000)),
                ("grpc.server.max_pending_requests", MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
                ("grpc.http2.bdp_probe", 0),  # on a fast line it takes megabytes of messages that nobody reads yet
                ("grpc.so_reuseport", 1),  # the supervisor holds the port too
            ],
            maximum_concurrent_rpcs=min(bounds.connections, MOST_INT),
        )
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._handler(name))  # so that reading has a deadline
            for name in METHODS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address} for gRPC", hint="pass another `--grpc-port`") from error

    async def start(self) -> None:
        """Take requests from now on."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more requests, and give those that are there some seconds to end."""
        await self._server.stop(seconds)

    def _handler(self, name: str) -> Callable[[Any, Any], Awaitable[bytes]]:
        answer = getattr(self, f"_{name}")

        async def handle(requests: Any, context: Any) -> bytes:
            arrived, code = time.monotonic(), "CANCELLED"
            try:
                if name not in OPEN_METHODS:
                    self._check_token(context)
                if name == "ModelInfer":
                    self._service.pool.check_room()
                async with self._message(name, context) as request:
                    told: bytes = (await answer(request, arrived)).SerializeToString()
                code = "OK"
                return told
            except Rejection as rejection:
                self._service.metrics.rejected.labels(rejection.reason).inc()
                code = CODES[rejection.status].name
                await _abort(context, rejection)
                raise  # not reached
            except Exception as error:
                met = no_memory() if isinstance(error, MemoryError) else fault()
                if not isinstance(error, MemoryError):
                    LOGGER.error("a fault in the server: %s: %s", name, where(error))
                self._service.metrics.rejected.labels(met.reason).inc()
                code = CODES[met.status].name
                await _abort(context, met)
                raise
            finally:
                route = ROUTES.get(name, "grpc_metadata")
                self._service.metrics.requests.labels(route, code).inc()
                self._service.metrics.request_seconds.labels(route).observe(time.monotonic() - arrived)

        return handle

    def _check_token(self, context: Any) -> None:
        if self._token is None:
            return
        given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        scheme, _, token = str(given[0]).partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip(" ").encode(), self._token):
            raise Rejection(
                401, "token", "this server needs a token", "send the metadata `authorization: Bearer TOKEN`"
            )

    @asynccontextmanager
    async def _message(self, name: str, context: Any) -> AsyncIterator[Any]:
        """The request's message, whose bytes count among those of all bodies until it is answered.

        Raises:
            Rejection: it does not come in time, is none, or there is no room for it now.
        """
        data = await self._receive(context)
        if not isinstance(data, bytes):  # the end of the stream
            raise open_inference.bad("the request has no message")
        held = len(data)
        self._service.hold(held)
        try:
            read = message(f"{name}Request").FromString
            try:
                request = await asyncio.to_thread(read, data) if held > LARGE else read(data)
            except MemoryError:
                raise
            except Exception:  # protobuf's DecodeError, which has several homes
                raise open_inference.bad(f"the message is not a `{name}Request`") from None
            del data
            yield request
        finally:
            self._service.let_go(held)

    async def _receive(self, context: Any) -> Any:
        """The bytes of a message.

        gRPC keeps what has come of a message once it is read, and tells its length at the end only. So as many are read
        at once as fit into the bound of all bodies, and while others wait none may take longer than headers may.

        Raises:
            Rejection: it does not come in time.
        """
        bounds = self._service.bounds
        self._waiting += 1
        try:
            await asyncio.wait_for(self._places.acquire(), bounds.body_seconds)
        except TimeoutError:
            raise self._service.pool.later("bodies", "too many requests are being received") from None
        finally:
            self._waiting -= 1
        begun, reading = time.monotonic(), asyncio.ensure_future(context.read())
        try:
            while not (await asyncio.wait({reading}, timeout=min(1.0, bounds.header_seconds)))[0]:
                spent = time.monotonic() - begun
                if spent >= (bounds.header_seconds if self._waiting else bounds.body_seconds):
                    raise Rejection(408, "slow", "the request did not arrive in time")
            return reading.result()
        finally:
            reading.cancel()
            self._places.release()

    # one for each method of the service

    async def _ServerLive(self, request: Any, arrived: float) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ServerReady(self, request: Any, arrived: float) -> Any:
        return message("ServerReadyResponse")(ready=self._service.is_ready())

    async def _ModelReady(self, request: Any, arrived: float) -> Any:
        model = self._service.model(request.name, request.version or None)
        return message("ModelReadyResponse")(ready=self._service.is_ready(model.name))

    async def _ServerMetadata(self, request: Any, arrived: float) -> Any:
        return message("ServerMetadataResponse")(
            name="zoo", version=self._version, extensions=open_inference.EXTENSIONS
        )

    async def _ModelMetadata(self, request: Any, arrived: float) -> Any:
        return grpc_inference.metadata(self._service.model(request.name, request.version or None))

    async def _ModelInfer(self, request: Any, arrived: float) -> Any:
        model = self._service.model(request.model_name, request.model_version or None)
        arguments = (request, self._service.bounds, len(model.classes), model.scores_unknown)
        if request.ByteSize() > LARGE:
            asked, raw = await asyncio.to_thread(grpc_inference.parse, *arguments)
        else:
            asked, raw = grpc_inference.parse(*arguments)
        for image in asked.images:
            if isinstance(image, bytes):
                refuse_format(image, self._service.bounds.accept)
        return grpc_inference.response(await self._service.ask(model, asked.images, arrived), asked, raw)


async def _abort(context: Any, rejection: Rejection) -> None:
    """Answer with a status; raises what ends the call."""
    text = rejection.message if rejection.hint is None else f"{rejection.message}; {rejection.hint}"
    seconds = rejection.headers.get("Retry-After")
    trailing = []
    if seconds is not None:  # the second one is heeded by gRPC's own retries
        trailing = [("retry-after", seconds), ("grpc-retry-pushback-ms", str(math.ceil(float(seconds) * 1000)))]
    await context.abort(CODES[rejection.status], printable(text[:500]), tuple(trailing))
