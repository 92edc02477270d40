"""`zoo serve` as processes on a free port, and clients that ask it without a pause; for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from hostile_images import encoded, photograph
from serving_support import post, read_answer, until

JPEG = encoded(photograph())
ZOO = [sys.executable, "-m", "zoo_cli.main"]


class Server:
    """`zoo serve` on a free port."""

    def __init__(self, log: Path, file: Path, *options: str) -> None:
        self.log = log
        command = [*ZOO, "serve", str(file), "--port", "0", *options]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, start_new_session=True)
        until(lambda: "serving on" in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        self.address = "127.0.0.1", int(self.said().split("http://127.0.0.1:")[1].split(",")[0])

    def said(self) -> str:
        return self.log.read_text()

    def child(self) -> int:
        """The id of the server process, which the supervisor started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(listed[0]) if listed else 0

    def ask(self, request: bytes) -> tuple[int, Any]:
        with socket.create_connection(self.address, 100) as connection:
            connection.sendall(request)
            status, body = read_answer(connection)
            return status, json.loads(body)

    def predict(self) -> dict[str, Any]:
        status, answer = self.ask(post("/predict", JPEG))
        assert status == 200, answer
        return dict(answer)

    def metrics(self) -> str:
        with socket.create_connection(self.address, 100) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: s\r\n\r\n")
            return read_answer(connection)[1].decode()

    def ends(self) -> int:
        """The exit status, once it has ended by itself; what it said has no traceback."""
        status = self.process.wait(200)
        assert "Traceback" not in self.said()
        return status


class Load:
    """Clients that ask again and again: with a connection for each request, and with kept ones."""

    def __init__(self, address: tuple[str, int], clients: int = 4) -> None:
        self.answered, self._ends = 0, False
        self.lost: list[str] = []
        self._address = address
        self._threads = [
            threading.Thread(target=self._fresh if number % 2 else self._kept, daemon=True) for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, connection: socket.socket) -> bool:
        """Whether the connection goes on after an answer."""
        try:
            connection.sendall(post("/predict", JPEG))
            found = b""
            while b"\r\n\r\n" not in found or not found.endswith(b"}"):
                part = connection.recv(65_536)
                if not part:
                    raise EOFError(found)
                found += part
        except (OSError, EOFError) as error:
            self.lost.append(repr(error))
            return False
        if b"HTTP/1.1 200 " not in found:
            self.lost.append(found.decode())
        self.answered += 1
        return b"connection: close" not in found

    def _connect(self) -> socket.socket | None:
        """A connection, or None if the server listens no more; one that was accepted is not to be lost."""
        with contextlib.suppress(OSError):
            return socket.create_connection(self._address, 100)
        return None

    def _fresh(self) -> None:
        while not self._ends and (connection := self._connect()):
            with connection:
                self._ask(connection)

    def _kept(self) -> None:
        while not self._ends and (connection := self._connect()):
            with connection:
                while self._ask(connection) and not self._ends:
                    pass

    def stop(self) -> None:
        self._ends = True
        for thread in self._threads:
            thread.join(200)
