"""Supervisor: keeps the listening socket and a server process, and starts that again if native code crashes it.

Connections that come meanwhile wait in the socket's backlog.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from zoo.errors import UsageError, ZooError, first_line
from zoo.storage.files import json_text
from zoo.system.worker_process import python_command

FAST = 10.0  # seconds: a process that lives shorter is started again with a delay
LONGEST_DELAY = 10.0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address is not of this machine, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        if os.name == "posix":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        raise _cannot_listen(error, host, port, "--port") from error
    opened.set_inheritable(True)
    return opened


def hold(host: str, port: int) -> tuple[socket.socket, str]:
    """A port for gRPC, whose library opens its sockets itself: it is ours, and a child process can listen on it.

    Returns:
        A socket that must stay open meanwhile and does not listen itself; and the address, with the port.

    Raises:
        UsageError: the address is not of this machine, or the port is taken or not allowed.
    """
    shared = getattr(socket, "SO_REUSEPORT", None)  # not on Windows, where nothing is held
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:  # fails if others listen, be it with `SO_REUSEPORT`
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            address = probe.getsockname()
        held = socket.socket(family, kind, protocol)
        if shared is not None:
            held.setsockopt(socket.SOL_SOCKET, shared, 1)
            held.bind(address)
    except OSError as error:
        raise _cannot_listen(error, host, port, "--grpc-port") from error
    return held, f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _cannot_listen(error: OSError, host: str, port: int, option: str) -> UsageError:
    hint = f"pass another `{option}`, or 0 for a free one" if error.errno != -2 else "pass another `--host`"
    return UsageError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}", hint=hint)


def supervise(settings: dict[str, Any], sockets: list[socket.socket]) -> int:
    """Run the server process until it ends by itself; returns its exit status.

    SIGTERM, SIGINT and SIGHUP are passed on. A process that was ready and dies is started again.

    Raises:
        ZooError: the first process could not start; the message is its own.
    """
    if os.name != "posix":  # no sockets are passed on there
        return _run_here(settings, sockets)
    current: subprocess.Popen[bytes] | None = None
    stopping = False

    def passed_on(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = stopping or number != signal.SIGHUP
        if current is not None:
            with contextlib.suppress(ProcessLookupError):
                current.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, passed_on)
    was_ready, delay = False, 0.0
    while True:
        read, write = os.pipe()
        descriptors = [one.fileno() for one in sockets]
        request = {**settings, "sockets": descriptors, "told": write, "again": was_ready}
        began = time.monotonic()
        current = subprocess.Popen(
            python_command(f"{__name__}:server_process"), pass_fds=(*descriptors, write), stdin=subprocess.PIPE
        )
        os.close(write)
        assert current.stdin is not None
        with contextlib.suppress(BrokenPipeError), current.stdin as asked:  # a token must not be an argument
            asked.write(json_text(request).encode())
        if stopping:
            current.terminate()
        with os.fdopen(read, encoding="utf-8") as told:
            first = told.readline()  # empty if it dies
            if first.startswith("{") and not was_ready:
                current.wait()
                failure = json.loads(first)
                raise (UsageError if failure["usage"] else ZooError)(failure["message"], hint=failure["hint"])
            was_ready = was_ready or first == "ready\n"
            status = current.wait()
        if status == 0 or stopping:
            return max(status, 0)
        if not was_ready:
            raise ZooError(f"the server process died before it was ready ({_ended(status)})")
        delay = 0.0 if time.monotonic() - began > FAST else min(2 * delay + 0.5, LONGEST_DELAY)
        print(f"the server process died ({_ended(status)}) and is started again", file=sys.stderr, flush=True)
        time.sleep(delay)


def _ended(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def server_process() -> None:
    """Serve, as a process of `supervise`; what to serve comes as JSON on stdin."""
    from zoo.serving.server import log_to_stderr, serve

    told = json.load(sys.stdin)
    sockets = [socket.socket(fileno=number) for number in told.pop("sockets")]
    parent, again = told.pop("told"), told.pop("again")

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(parent, line.encode() + b"\n")

    log_to_stderr()
    try:
        serve(_settings(told), sockets, lambda models: _started(models, sockets, tell, told, again))
    except ZooError as error:
        tell(json_text({"message": error.message, "hint": error.hint, "usage": isinstance(error, UsageError)}))
        os._exit(1)
    except Exception as error:
        tell(json_text({"message": f"the server failed: {first_line(error)}", "hint": None, "usage": False}))
        raise
    os._exit(0)


def _run_here(settings: dict[str, Any], sockets: list[socket.socket]) -> int:
    from zoo.serving.server import log_to_stderr, serve

    log_to_stderr()
    serve(_settings(settings), sockets, lambda models: _started(models, sockets, lambda line: None, settings, False))
    return 0


def _settings(told: dict[str, Any]) -> Any:
    from pathlib import Path

    from zoo.serving.bounds import Bounds
    from zoo.serving.server import ServerSettings

    values = {**told, "files": tuple(map(Path, told["files"])), "origins": tuple(told["origins"])}
    if told.get("shadow") is not None:
        values["shadow"] = Path(told["shadow"])
    return ServerSettings(**{**values, "bounds": Bounds(**told["bounds"])})


def _started(models: Any, sockets: list[socket.socket], tell: Any, told: dict[str, Any], again: bool) -> None:
    from zoo.serving.server import LOGGER

    tell("ready")
    for model in models:
        LOGGER.info(
            "`%s`: %s, %s on %s, %s", model.name, model.digest[:16], model.precision, model.provider, model.batching
        )
    host, port = sockets[0].getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    threads = f"{told['workers']} workers of {told['threads']} thread{'s' * (told['threads'] != 1)}"
    grpc = f" and gRPC on {told['grpc']}" if told.get("grpc") else ""
    LOGGER.info("%s http://%s:%d%s, %s", "serving again on" if again else "serving on", host, port, grpc, threads)
