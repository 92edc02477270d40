"""The server process: uvicorn with an application, hot swaps, and an end without lost requests."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from zoo.serving.app import make_app
from zoo.serving.bounds import Bounds
from zoo.serving.connection import Connection, bounded
from zoo.serving.served_model import ServedModel, open_served
from zoo.serving.service import Service
from zoo.serving.swap import Swaps

if TYPE_CHECKING:
    from zoo.serving.grpc_server import GrpcServer

LOGGER = logging.getLogger("zoo.serve")
FINISH_SECONDS = 30.0  # for the requests that are there when the server stops listening
FIRST_REQUEST_SECONDS = 1.0  # for connections that were accepted last
QUIET_SECONDS = 0.2  # without a new connection, after which the backlog is empty


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of `zoo serve`.

    Attributes:
        files: Exported files; the first answers requests that name no model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: Threads that decode and classify.
        threads: Threads that each of them computes with.
        token: What requests must name. None: nothing.
        origins: Web pages' origins that may call the server.
        drain: Seconds from the signal to end until the server stops listening.
        watch: Seconds between looks at the files, for new versions. 0: only when SIGHUP comes.
        version: Of zoo.
        shadow: A file that classifies a share of the images of the first file, too. None: none does.
        shadow_share: That share, from 0 to 1.
        grpc: Address of the Open Inference Protocol over gRPC, such as `127.0.0.1:8081`. None: HTTP only.
        bounds: What is accepted.
    """

    files: tuple[Path, ...]
    device: str = "auto"
    workers: int = 1
    threads: int = 1
    token: str | None = None
    origins: tuple[str, ...] = ()
    drain: float = 5.0
    watch: float = 2.0
    version: str = "0"
    shadow: Path | None = None
    shadow_share: float = 0.1
    grpc: str | None = None
    bounds: Bounds = field(default_factory=Bounds)


def open_models(settings: ServerSettings) -> list[ServedModel]:
    """Verify and open all files.

    Raises:
        UsageError: a file is missing, or cannot be served.
        ZooError: a file fails verification.
    """
    from zoo.plugin import Plugins

    plugins = Plugins()
    return [
        open_served(path, name=path.stem, device=settings.device, threads=settings.threads, plugins=plugins)
        for path in settings.files
    ]


def open_shadow(settings: ServerSettings) -> ServedModel | None:
    """Verify and open the shadow, with one thread; errors as for every file."""
    from zoo.plugin import Plugins

    if settings.shadow is None:
        return None
    path = settings.shadow
    return open_served(path, name=path.stem, device=settings.device, threads=1, plugins=Plugins())


def serve(
    settings: ServerSettings, sockets: Sequence[socket.socket], ready: Callable[[list[ServedModel]], None]
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once.

    Args:
        settings: What to serve, and how.
        sockets: Listening sockets.
        ready: Called once every model is verified and warm.

    Raises:
        UsageError: a file is missing, or cannot be served.
        ZooError: a file fails verification, or the shadow does not fit the first file.
    """
    models = open_models(settings)
    shadow = open_shadow(settings)
    service = Service(models, workers=settings.workers, bounds=settings.bounds)
    if shadow is not None:
        service.compare_with(shadow, settings.shadow_share)
        LOGGER.info(
            "shadow `%s`: %s, %s", shadow.name, shadow.digest[:16], f"{settings.shadow_share:.0%} of the images"
        )
    app = make_app(service, version=settings.version, token=settings.token, origins=settings.origins)
    config = uvicorn.Config(
        app,
        http=bounded(settings.bounds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(settings.bounds.idle_seconds),
        backlog=2048,
    )
    server = _Server(config, service, settings, lambda: ready(models))
    try:
        server.run(sockets=list(sockets))
    finally:
        service.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops."""

    def __init__(
        self, config: uvicorn.Config, service: Service, settings: ServerSettings, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service, self._settings, self._ready = service, settings, ready
        self._swaps = Swaps(service, settings.device, settings.threads)
        self._background: set[asyncio.Task[None]] = set()
        self._grpc: GrpcServer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._settings.grpc is not None:
            self._grpc = await self._start_grpc(self._settings.grpc)
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._swaps.look(force=True)))
        if self._settings.watch:
            self._start(self._swaps.watch(self._settings.watch))
        self._ready()

    async def _start_grpc(self, address: str) -> GrpcServer:
        from zoo.serving.grpc_server import GrpcServer

        started = GrpcServer(self._service, address, version=self._settings.version, token=self._settings.token)
        await started.start()
        return started

    def _start(self, task: object) -> None:
        started = asyncio.ensure_future(task)  # type: ignore[call-overload]
        self._background.add(started)
        started.add_done_callback(self._background.discard)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self._service.draining:  # the second signal
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        LOGGER.info("stopping: not ready, and listening for %g s more", self._settings.drain)
        asyncio.get_event_loop().call_soon_threadsafe(self._start, self._drain())

    async def _drain(self) -> None:
        """Go on answering, tell clients to close, and stop when new connections end."""
        await asyncio.sleep(self._settings.drain)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.drain
        known = set(self.server_state.connections)
        quiet = loop.time()
        while loop.time() < until and loop.time() - quiet < QUIET_SECONDS:
            await asyncio.sleep(0.02)
            now = set(self.server_state.connections)
            if now - known:
                quiet = loop.time()
            known = now
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._background:
            task.cancel()
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + FIRST_REQUEST_SECONDS
        while not self.force_exit and loop.time() < until and any(map(_is_new, self.server_state.connections)):
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = int(FINISH_SECONDS)
        ending = [asyncio.ensure_future(super().shutdown(sockets))]
        if self._grpc is not None:
            ending.append(asyncio.ensure_future(self._grpc.stop(FINISH_SECONDS)))
        while ending and not self.force_exit:  # the second signal
            _, waiting = await asyncio.wait(ending, timeout=0.1)
            ending = list(waiting)
        if self._grpc is not None:
            await self._grpc.stop(0)
        await asyncio.gather(*ending)


def _is_new(connection: object) -> bool:
    """Whether a connection was accepted and its first request is to come, or a request is on its way."""
    return isinstance(connection, Connection) and (connection.requests == 0 or connection.is_receiving)


def log_to_stderr() -> None:
    """Let the server's lines go to stderr, one each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
