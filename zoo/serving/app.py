"""The ASGI application: routes, access and headers. It runs on any ASGI server; `zoo serve` runs it on uvicorn."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo.serving import open_inference
from zoo.serving.bounds import Rejection, fault, no_memory
from zoo.serving.fault import where
from zoo.serving.metrics import CONTENT_TYPE
from zoo.serving.model_card import model_card
from zoo.serving.openapi import openapi
from zoo.serving.page import page
from zoo.serving.service import Service, prediction
from zoo.serving.sniffing import refuse_format
from zoo.storage.files import json_text

LOGGER = logging.getLogger("zoo.serve")
LARGE = 2**16  # bytes of a body from which on it is parsed in a thread
TOP = 5  # classes that `/predict` names by default
OPEN_ROUTES = ("/", "/v2/health/live", "/v2/health/ready")  # need no token; the page holds nothing of the models
ROUTES = {
    "/": "page",
    "/models": "models",
    "/predict": "predict",
    "/metrics": "metrics",
    "/drift": "drift",
    "/shadow": "shadow",
    "/openapi.json": "openapi",
}

PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": f"authorization, content-type, {open_inference.HEADER_LENGTH}",
    "access-control-max-age": "600",
}

CURL = "curl --data-binary @photo.jpg http://HOST/predict"


def make_app(
    service: Service, *, version: str = "0", token: str | None = None, origins: tuple[str, ...] = ()
) -> ASGIApp:
    """The application that answers for a service.

    Args:
        service: The models and the workers.
        version: What the server calls its version.
        token: What requests must name as `Authorization: Bearer TOKEN`; health routes and the page need none. None:
            nothing.
        origins: Web pages' origins that may call it, such as `https://example.org`. Others are not named to browsers.
    """

    def route(path: str, endpoint: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        return Route(path, endpoint, methods=list(methods))

    model = "/v2/models/{model}"
    handlers = _Handlers(service, version)
    routes = [
        route("/", handlers.page, "GET"),
        route("/models", handlers.cards, "GET"),
        route("/predict", handlers.predict, "POST"),
        route("/metrics", handlers.metrics, "GET"),
        route("/drift", handlers.drift, "GET"),
        route("/shadow", handlers.shadow, "GET"),
        route("/openapi.json", handlers.openapi, "GET"),
        route("/v2", handlers.server, "GET"),
        route("/v2/health/live", handlers.live, "GET"),
        route("/v2/health/ready", handlers.ready, "GET"),
        *(
            one
            for prefix in (model, model + "/versions/{version}")
            for one in (
                route(prefix, handlers.model, "GET"),
                route(prefix + "/ready", handlers.model_ready, "GET"),
                route(prefix + "/infer", handlers.infer, "POST"),
            )
        ),
    ]
    handled: dict[Any, Any] = {
        Rejection: handlers.rejected,
        HTTPException: handlers.http_error,
        ClientDisconnect: handlers.left,
        MemoryError: handlers.no_memory,
        Exception: handlers.fault,
    }
    app = Starlette(routes=routes, exception_handlers=handled)
    app.router.redirect_slashes = False
    return _Around(app, service, token, origins)


class _Around:
    """What holds for every request: the token, common headers, metrics, and an answer for a fault in the server."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None, origins: tuple[str, ...]) -> None:
        self._app, self._service, self._origins = app, service, origins
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        scope["arrived"] = begun
        route, status = _route_name(scope["path"]), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *self._headers(scope)]
            await send(message)

        try:
            if self._is_preflight(scope):
                await Response(status_code=204, headers=PREFLIGHT)(scope, receive, sending)
            elif self._allowed(scope):
                await self._app(scope, receive, sending)
            else:
                rejection = Rejection(
                    401,
                    "token",
                    "this server needs a token",
                    "send the header `Authorization: Bearer TOKEN`",
                    {"WWW-Authenticate": "Bearer"},
                )
                self._service.metrics.rejected.labels("token").inc()
                await _told(rejection)(scope, receive, sending)
        except Exception as error:  # Starlette answers and raises it again
            LOGGER.error("a fault in the server: %s %s: %s", scope["method"], route, where(error))
        finally:
            self._service.metrics.requests.labels(route, str(status or 499)).inc()  # 499: the client left
            self._service.metrics.request_seconds.labels(route).observe(time.monotonic() - begun)

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in OPEN_ROUTES:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self._token)

    def _origin(self, scope: Scope) -> bytes | None:
        """The origin of the web page that asks, if it may."""
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        return origin if origin.decode("latin-1") in self._origins else None

    def _is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks if a page that may call the server may send a certain request. It sends no token."""
        names = {name for name, _ in scope["headers"]}
        asked = scope["method"] == "OPTIONS" and b"access-control-request-method" in names
        return asked and self._origin(scope) is not None

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        found = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
        if self._service.draining:
            found.append((b"connection", b"close"))
        if self._origins:
            found.append((b"vary", b"origin"))
            origin = self._origin(scope)
            if origin is not None:
                exposed = f"{open_inference.HEADER_LENGTH}, retry-after".encode()
                found += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed)]
        return found


def _route_name(path: str) -> str:
    """What metrics call a path; few names, whatever clients ask for."""
    if path in ROUTES:
        return ROUTES[path]
    parts = path.strip("/").split("/")
    if parts[0] != "v2":
        return "other"
    if parts[1:2] == ["health"]:
        return "health"
    return "infer" if parts[-1] == "infer" else "metadata"


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_text(value), status, headers, media_type="application/json")


def _told(rejection: Rejection) -> Response:
    told = {"error": rejection.message} | ({"hint": rejection.hint} if rejection.hint else {})
    return _json(told, rejection.status, dict(rejection.headers))


class _Handlers:
    """The routes."""

    def __init__(self, service: Service, version: str) -> None:
        self._service, self._version = service, version
        self._parsing = asyncio.Semaphore()

    async def predict(self, request: Request) -> Response:
        arrived = request.scope["arrived"]
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith("multipart/"):
            raise Rejection(415, "format", "a form cannot be read, only the image's bytes", CURL)
        model = self._service.model(request.query_params.get("model"))
        top = _top(request.query_params.get("top"), len(model.classes))
        self._service.pool.check_room()
        try:
            async with self._body(request) as body:
                refuse_format(body, self._service.bounds.accept)
                (answer,) = await self._ask(request, model, [body])
        except Rejection as rejection:
            if rejection.reason == "image" and kind.startswith("application/x-www-form-urlencoded"):
                rejection.hint = f"{CURL} sends a file as it is; `--data` drops line breaks and zeros"
            raise
        return _json(prediction(answer, top, arrived))

    async def infer(self, request: Request) -> Response:
        model = self._model(request)
        length = request.headers.get(open_inference.HEADER_LENGTH)
        self._service.pool.check_room()
        async with self._body(request) as body:
            arguments = (body, length, self._service.bounds, len(model.classes), model.scores_unknown)
            if len(body) > LARGE:
                async with self._parsing:  # JSON takes up to 25 times its length of memory
                    asked = await asyncio.to_thread(open_inference.parse, *arguments)
            else:
                asked = open_inference.parse(*arguments)
            for image in asked.images:
                if isinstance(image, bytes):
                    refuse_format(image, self._service.bounds.accept)
            answers = await self._ask(request, model, asked.images)
        content, header = open_inference.response(answers, asked)
        if header is None:
            return Response(content, media_type="application/json")
        headers = {open_inference.HEADER_LENGTH: str(header)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def server(self, request: Request) -> Response:
        extensions = list(open_inference.EXTENSIONS)
        return _json({"name": "zoo", "version": self._version, "extensions": extensions})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self._service.is_ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        return _json(open_inference.metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        name = self._model(request).name
        ready = self._service.is_ready(name)
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def drift(self, request: Request) -> Response:
        model = self._service.model(request.query_params.get("model"))
        return _json(self._service.drift.report(model.name))

    async def shadow(self, request: Request) -> Response:
        if self._service.shadow is None:
            raise Rejection(404, "path", "there is no shadow", "`zoo serve FILE --shadow NEW.onnx` compares with one")
        return _json(self._service.shadow.report())

    async def openapi(self, request: Request) -> Response:
        return _json(openapi(list(self._service.models), self._version))

    async def page(self, request: Request) -> Response:
        content, policy = page(tuple(self._service.bounds.accept))
        return HTMLResponse(content, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})

    async def cards(self, request: Request) -> Response:
        service, bounds = self._service, self._service.bounds
        return _json(
            {
                "models": [
                    {**model_card(model), "ready": service.is_ready(model.name)} for model in service.models.values()
                ],
                "bounds": {"body": bounds.body, "pixels": bounds.pixels, "images": bounds.images},
                "workers": service.pool.workers,
                "version": self._version,
            }
        )

    async def rejected(self, request: Request, error: Rejection) -> Response:
        self._service.metrics.rejected.labels(error.reason).inc()
        return _told(error)

    async def http_error(self, request: Request, error: HTTPException) -> Response:
        message = {404: "there is no such path", 405: f"the method {request.method} is not allowed here"}
        rejection = Rejection(
            error.status_code, "path", message.get(error.status_code, error.detail), "see /openapi.json"
        )
        self._service.metrics.rejected.labels("path").inc()
        told = _told(rejection)
        told.headers.update(error.headers or {})
        return told

    async def left(self, request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # for the metrics; nobody reads it

    async def no_memory(self, request: Request, error: MemoryError) -> Response:
        return await self.rejected(request, no_memory())

    async def fault(self, request: Request, error: Exception) -> Response:
        return await self.rejected(request, fault())

    def _model(self, request: Request) -> Any:
        return self._service.model(request.path_params["model"], request.path_params.get("version"))

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which is never longer in memory than its bound, and neither are all bodies together.

        Raises:
            Rejection: it is too long, or encoded, or there is no room for it now.
        """
        most = self._service.bounds.body
        named = ",".join(request.headers.getlist("content-encoding")).lower()
        encoding = next((one for one in map(str.strip, named.split(",")) if one not in ("", "identity")), None)
        if encoding is not None:
            raise Rejection(
                415, "encoding", f"bodies in the encoding `{encoding[:40]}` are not read", "send plain bytes"
            )
        declared = request.headers.get("content-length", "0").lstrip("0")
        if declared.isdecimal() and (len(declared) > len(str(most)) or int(declared) > most):
            raise _too_long(most)
        parts, held = [], 0
        try:
            async for part in request.stream():
                if held + len(part) > most:
                    raise _too_long(most)
                self._service.hold(len(part))
                held += len(part)
                parts.append(part)
            yield b"".join(parts)
        finally:
            self._service.let_go(held)

    async def _ask(self, request: Request, model: Any, images: list[Any]) -> list[Any]:
        """The answers to a request's images; if the client leaves, they are taken out of the queue."""
        asked = asyncio.ensure_future(self._service.ask(model, images, request.scope["arrived"]))
        left = asyncio.ensure_future(request.receive())  # after the body only a disconnect comes
        try:
            while not asked.done():
                await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    if left.result()["type"] == "http.disconnect":
                        raise ClientDisconnect
                    left = asyncio.ensure_future(request.receive())
            return asked.result()
        finally:
            for one in (asked, left):
                if not one.done():
                    one.cancel()


def _top(text: str | None, classes: int) -> int:
    if text is None:
        return min(TOP, classes)
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= classes:
        raise Rejection(400, "malformed", f"`top` must be a number from 1 to {classes}")
    return int(text)


def _too_long(most: int) -> Rejection:
    return Rejection(413, "body", f"the body is longer than {most:,} bytes", "send a smaller image")
