"""Supervisor: keeps the listening socket and a server process, and starts that again if native code crashes it.

Connections that come meanwhile wait in the socket's backlog.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.storage.files import json_text
from zoo.system.worker_process import python_command

FAST = 10.0  # seconds: a process that lives shorter is started again with a delay
LONGEST_DELAY = 10.0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ZooError: the address is not of this machine, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(2048)
        except OSError:
            opened.close()
            raise
    except (OSError, ValueError) as error:
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


def _cannot_listen(error: OSError | ValueError, host: str, port: int, option: str) -> ZooError:
    """The error of an address; a `ValueError` is that of what cannot be a host's name, such as `a..b`."""
    by_name = isinstance(error, (ValueError, socket.gaierror)) or error.errno == errno.EADDRNOTAVAIL
    hint = "pass another `--host`" if by_name else f"pass another `{option}`, or 0 for a free one"
    if by_name and (set(host) & set("[]/") or host.count(":") == 1):
        hint = "`--host` is a name or an address alone, such as `localhost` or `::1`"
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "that is no host name"
    return ZooError(f"cannot listen on {host}:{port}: {reason}", hint=hint)


def supervise(settings: dict[str, Any], sockets: list[socket.socket]) -> int:
    """Run the server process until it ends by itself; returns its exit status.

    SIGTERM, SIGINT and SIGHUP are passed on. A process that was ready and dies is started again.

    Raises:
        ZooError: the first process could not start; the message is its own.
    """
    if os.name != "posix":  # no sockets are passed on there
        return _run_here(settings, sockets)
    return _Supervisor(settings, sockets).run()


class _Supervisor:
    """Starts server processes, one after another, and passes signals on to the current one."""

    def __init__(self, settings: dict[str, Any], sockets: list[socket.socket]) -> None:
        self._settings, self._sockets = settings, sockets
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False  # the current process; before, SIGHUP would end it
        self._was_ready = False  # any process
        self._known: dict[str, Any] = {"measured": {}, "verified": {}}  # by digest: a new process need not repeat it
        self._stopping = self._look = False
        self._terminal = False  # whose end ends the server, unless it was started by `nohup`

    def run(self) -> int:
        """Run until a process ends by itself; returns its exit status."""
        self._terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        delay = 0.0
        while True:
            began = time.monotonic()
            status = self._run_once()
            if status == 0 or (self._stopping and status in (-signal.SIGTERM, -signal.SIGINT)):
                return 0
            if self._stopping:
                if status < 0:
                    _say(f"the server process died ({_ended(status)}) while it stopped")
                return max(status, 1)
            if not self._was_ready:
                raise ZooError(f"the server process died before it was ready ({_ended(status)})")
            delay = 0.0 if time.monotonic() - began > FAST else min(2 * delay + 0.5, LONGEST_DELAY)
            _say(f"the server process died ({_ended(status)}) and is started again")
            until = time.monotonic() + delay
            while time.monotonic() < until:
                if self._stopping:
                    return 0
                time.sleep(0.05)

    def _run_once(self) -> int:
        """Start a process and wait for its end; returns its exit status, or minus the signal that ended it."""
        read, write = os.pipe()
        descriptors = [one.fileno() for one in self._sockets]
        request = {**self._settings, "sockets": descriptors, "told": write, **self._known}
        line = json_text(request, ascii_only=True).encode() + b"\n"
        self._is_ready = self._look = False
        process = self._process = subprocess.Popen(
            python_command(f"{__name__}:server_process"),
            pass_fds=(*descriptors, write),
            stdin=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on once
        )
        os.close(write)
        assert process.stdin is not None
        with os.fdopen(read, encoding="utf-8") as told, process.stdin as asked:
            with contextlib.suppress(BrokenPipeError):  # the token is among it, and must not be an argument
                asked.write(line)
                asked.flush()
            if self._stopping:
                process.terminate()
            first = told.readline()  # empty if it dies
            if first.startswith("{") and not self._was_ready:
                process.wait()
                failure = json.loads(first)
                raise (UsageError if failure["usage"] else ZooError)(failure["message"], hint=failure["hint"])
            if first.startswith("{"):
                _say(json.loads(first)["message"])
            if first.startswith("ready "):
                self._is_ready = self._was_ready = True
                self._known = json.loads(first.removeprefix("ready "))
                if self._look:
                    process.send_signal(signal.SIGHUP)
            return process.wait()  # `asked` stays open until then: the process ends when this one dies

    def _signalled(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP and self._terminal and not _has_terminal():
            number = signal.SIGINT  # it was closed, and nobody asks for a look at the files
        if number == signal.SIGHUP:
            self._look = True
            if not self._is_ready:
                return
        else:
            self._stopping = True
            if not self._is_ready:
                number = signal.SIGTERM  # ends a process that starts, which has no handlers, without a traceback
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, which is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr, flush=True)


def _ended(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def server_process() -> None:
    """Serve, as a process of `supervise`; what to serve comes as JSON on stdin."""
    from zoo.data.pixel_budget import keep_little_memory
    from zoo.serving.fault import where
    from zoo.serving.server import LOGGER, log_to_stderr, serve, silence_native_libraries

    line = sys.stdin.readline()
    if not line:  # the supervisor ended before it could ask
        return
    told = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sockets = [socket.socket(fileno=number) for number in told.pop("sockets")]
    parent, again = told.pop("told"), bool(told["measured"])

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(parent, line.encode() + b"\n")

    silence_native_libraries()
    log_to_stderr()
    keep_little_memory()
    try:
        serve(_settings(told), sockets, lambda models: _started(models, sockets, tell, told, again))
    except ZooError as error:
        tell(json_text({"message": error.message, "hint": error.hint, "usage": isinstance(error, UsageError)}))
        os._exit(1)
    except Exception as error:
        LOGGER.error("the server failed: %s", where(error))
        tell(json_text({"message": f"the server failed: {where(error)}", "hint": None, "usage": False}))
        os._exit(1)
    os._exit(0)


def _end_with_parent() -> None:
    """Stop as for SIGTERM when the supervisor was killed, which closes the pipe."""
    with contextlib.suppress(OSError):
        os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _run_here(settings: dict[str, Any], sockets: list[socket.socket]) -> int:
    from zoo.serving.server import log_to_stderr, serve

    log_to_stderr()
    serve(_settings(settings), sockets, lambda models: _started(models, sockets, lambda line: None, settings, False))
    return 0


def _settings(told: dict[str, Any]) -> Any:
    from pathlib import Path

    from zoo.serving.bounds import Bounds
    from zoo.serving.served_model import Batching
    from zoo.serving.server import ServerSettings

    measured = {
        digest: Batching(size=found["size"], seconds={int(size): one for size, one in found["seconds"].items()})
        for digest, found in told.pop("measured", {}).items()
    }
    values = {**told, "measured": measured, "files": tuple(map(Path, told["files"])), "origins": tuple(told["origins"])}
    if told.get("shadow") is not None:
        values["shadow"] = Path(told["shadow"])
    return ServerSettings(**{**values, "bounds": Bounds(**told["bounds"])})


def _started(models: Any, sockets: list[socket.socket], tell: Any, told: dict[str, Any], again: bool) -> None:
    from zoo.serving.server import LOGGER

    known = {
        "measured": {model.digest: dataclasses.asdict(model.batching) for model in models},
        "verified": {model.digest: model.record for model in models},
    }
    tell(f"ready {json_text(known)}")
    for model in models:
        LOGGER.info(
            "`%s`: %s, %s on %s, %s", model.name, model.digest[:16], model.precision, model.provider, model.batching
        )
    host, port = sockets[0].getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    threads = f"{told['workers']} workers of {told['threads']} thread{'s' * (told['threads'] != 1)}"
    grpc = f" and gRPC on {told['grpc']}" if told.get("grpc") else ""
    LOGGER.info("%s http://%s:%d%s, %s", "serving again on" if again else "serving on", host, port, grpc, threads)
