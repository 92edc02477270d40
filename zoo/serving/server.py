"""The server process: uvicorn with an application, hot swaps, and an end without lost requests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from zoo.serving.app import make_app
from zoo.serving.bounds import Bounds
from zoo.serving.connection import Connection, bounded
from zoo.serving.fault import where
from zoo.serving.served_model import Batching, ServedModel, open_served
from zoo.serving.service import Service
from zoo.serving.swap import Swaps

if TYPE_CHECKING:
    from zoo.serving.grpc_server import GrpcServer

LOGGER = logging.getLogger("zoo.serve")
FINISH_SECONDS = 30  # for the requests that are there when the server stops listening
FIRST_REQUEST_SECONDS = 1.0  # for connections that were accepted last
QUIET_SECONDS = 0.2  # without a new connection, after which the backlog is empty
OTHER_FILES = 128  # that a server opens besides connections

# A filter of the Linux kernel for a listening socket: a TCP packet with SYN and without ACK asks for a new connection
SO_ATTACH_FILTER = 26
_NO_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that holds the flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # yes: drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: take it
)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of `zoo serve`.

    Attributes:
        files: Exported files; the first answers requests that name no model.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode and classify.
        threads: Threads that each of them computes with.
        token: What requests must name. None: nothing.
        origins: Web pages' origins that may call the server.
        drain: Seconds from SIGTERM until the server stops listening.
        watch: Seconds between looks at the files, for new versions. 0: only when SIGHUP comes.
        version: Of zoo.
        shadow: A file that classifies a share of the images of the first file, too. None: none does.
        shadow_share: That share, from 0 to 1.
        grpc: Address of the Open Inference Protocol over gRPC, such as `127.0.0.1:8081`. None: HTTP only.
        bounds: What is accepted.
        measured: What was measured before, by a file's digest.
        verified: What files record that were verified before, by their digest.
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
    measured: Mapping[str, Batching] = field(default_factory=dict)
    verified: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def open_models(settings: ServerSettings) -> list[ServedModel]:
    """Verify and open all files.

    Raises:
        UsageError: a file is missing, or cannot be served.
        ZooError: a file fails verification.
    """
    from zoo.plugin import Plugins

    plugins = Plugins()
    return [
        open_served(
            path,
            name=path.stem,
            device=settings.device,
            threads=settings.threads,
            plugins=plugins,
            measured=settings.measured,
            verified=settings.verified,
        )
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
    """Serve until SIGTERM or SIGINT, which skips the time to go on listening; a second signal ends it at once.

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
    _allow_files(settings.bounds.connections * 2 + OTHER_FILES)
    _silence_libraries()
    service = Service(models, workers=settings.workers, bounds=settings.bounds)
    if shadow is not None:
        service.compare_with(shadow, settings.shadow_share)
        LOGGER.info(
            "shadow `%s`: %s, %s", shadow.name, shadow.digest[:16], f"{settings.shadow_share:.0%} of the images"
        )
    app = make_app(service, version=settings.version, token=settings.token, origins=settings.origins)
    config = uvicorn.Config(
        app,
        http=bounded(settings.bounds, lambda reason: service.metrics.rejected.labels(reason).inc()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody asks where a request comes from
        timeout_keep_alive=int(settings.bounds.idle_seconds),
        backlog=2048,
    )
    server = _Server(config, service, settings, lambda: ready(models))
    try:
        server.run(sockets=list(sockets))
    finally:
        service.close()


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files, as far as it may; a connection is a file."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft not in (resource.RLIM_INFINITY,) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        LOGGER.warning("only %d files may be open, too few for all connections: raise `ulimit -Hn`", wanted)


def _silence_libraries() -> None:
    """What clients send must not fill the log, nor Python's memory of the warnings that it showed."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class _Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops."""

    def __init__(
        self, config: uvicorn.Config, service: Service, settings: ServerSettings, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service, self._settings, self._ready = service, settings, ready
        self._swaps = Swaps(service, settings.device, settings.threads)
        self._background: set[asyncio.Future[None]] = set()
        self._sockets: list[socket.socket] = []
        self._grpc: GrpcServer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_fault)
        await super().startup(sockets)
        self._sockets = sockets or []
        if self._settings.grpc is not None:
            self._grpc = await self._start_grpc(self._settings.grpc)
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

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def handle_exit(self, sig: int, frame: object) -> None:
        if self._service.draining:  # the second signal
            LOGGER.info("stopped at once")
            sys.stderr.flush()
            os._exit(1)
        self._service.draining = True
        # Who presses Ctrl-C has no balancer that must notice first
        drain = 0.0 if sig == signal.SIGINT else self._settings.drain
        more = f"listening for {drain:g} s more" if drain else "answering what has come"
        LOGGER.info("stopping: not ready, and %s", more)
        asyncio.get_event_loop().call_soon_threadsafe(lambda: self._start(self._drain(drain)))

    async def _drain(self, drain: float) -> None:
        """Go on answering, tell clients to close, and stop once all new connections are accepted."""
        await asyncio.sleep(drain)
        for one in self._sockets:
            _take_no_more(one)
        loop = asyncio.get_running_loop()
        until = loop.time() + max(drain, 2 * QUIET_SECONDS)
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
        for one in sockets or ():
            with contextlib.suppress(OSError):  # the supervisor has the socket too, and must not seem to listen
                one.shutdown(socket.SHUT_RDWR)
        loop = asyncio.get_running_loop()
        until = loop.time() + FIRST_REQUEST_SECONDS
        while loop.time() < until and any(map(_is_expecting, self.server_state.connections)):
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = FINISH_SECONDS
        ending = [super().shutdown(sockets)]
        if self._grpc is not None:
            ending.append(self._grpc.stop(FINISH_SECONDS))
        await asyncio.gather(*ending)


def _is_expecting(connection: object) -> bool:
    return isinstance(connection, Connection) and connection.is_expecting


def _take_no_more(listening: socket.socket) -> None:
    """Let the kernel ignore who asks for a connection, on Linux: there, those that it has can be accepted to the last.

    Who asks for one asks again after a second, and is refused then. Without this, connections that come just before
    the socket is closed are reset.
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEW_CONNECTIONS))
    program = struct.pack("HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(code))
    with contextlib.suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody waits for in one line; a client that leaves is no fault."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        LOGGER.error("a fault in the server: %s", context["message"] if error is None else where(error))


def log_to_stderr() -> None:
    """Let the server's lines go to stderr, one each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def silence_native_libraries() -> None:
    """Send to nowhere what C libraries write to stderr; `log_to_stderr` must come after it.

    libtiff writes a line there for each damaged row of an image, and one request may have a million of them.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
