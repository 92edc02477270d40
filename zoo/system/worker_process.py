"""Worker processes: a process that answers requests one by one. If it dies, the request fails as with any other error.

A request is one line of JSON on stdin, `{"do": METHOD, ...}`, and its answer is one line of JSON on stdout. Between
requests the process waits for its pipe. What libraries print goes to stderr; its last lines are part of a failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from types import TracebackType
from typing import IO, Any, TextIO

from zoo.errors import (
    DiskFull,
    Diverged,
    StorageLost,
    UsageError,
    ZooError,
    is_disk_full,
    type_and_first_line,
)
from zoo.storage.files import json_text
from zoo.system.processors import SESSION
from zoo.target import load_target

# Time limit of an answer. torch.compile of a large network takes minutes on a small machine, and a request that hangs
# must end at some point
ANSWER_SECONDS = 1200.0
LOG_LINES = 20  # last lines of the worker's stderr that a failure contains


class WorkerFailed(Exception):
    """A worker reported an error, died, or did not answer.

    Attributes:
        reason: What happened, in one line.
        hint: How to fix it. None: no hint.
        log: The last lines of the worker's stderr.
        kind: Type of the `ZooError` that the worker raised. None: another exception, or the process died.
        died: Whether the process died.
    """

    def __init__(
        self,
        reason: str,
        *,
        hint: str | None = None,
        log: str = "",
        kind: type[ZooError] | None = None,
        died: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.log = log
        self.kind = kind
        self.died = died


# Types of error that a worker passes on to its parent, by name
ERROR_TYPES: dict[str, type[ZooError]] = {
    kind.__name__: kind for kind in (ZooError, UsageError, Diverged, DiskFull, StorageLost)
}


def python_command(target: str, *arguments: str) -> list[str]:
    """The command of a Python process that calls a function with `arguments`.

    The process has the import path of this one, as in multiprocessing, and not its working directory (`-P`): a
    `random.py` that lies there is a user's, and must not be imported for the library's.

    Args:
        target: `"module:function"`.
        arguments: Its arguments, which are texts.
    """
    module, _, function = target.partition(":")
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import importlib; "
        "getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(*sys.argv[4:])"
    )
    path = json_text([folder for folder in sys.path if folder], ascii_only=True)
    return [sys.executable, "-P", "-c", code, path, module, function, *arguments]


class WorkerProcess:
    """A process that answers requests. Leaving the `with` block kills it and the processes that it started."""

    def __init__(self, target: str, *, threads: int | None = None, linger: float | None = None) -> None:
        """Start the process.

        Args:
            target: `"module:class"`. Each method of the class answers the requests of its name with a dict of JSON
                values.
            threads: Threads that its libraries compute with. None: the libraries' own choice.
            linger: Seconds in which it may finish its request and end by itself where its parent has died. None: it is
                killed at once.
        """
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._log = _open_log()  # closed by `close`
        self._process = subprocess.Popen(
            python_command(
                f"{__name__}:serve_command", target, str(os.getpid()), *([] if linger is None else [str(linger)])
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={SESSION: str(os.getpid()), **os.environ, **limits},
            start_new_session=True,  # only the main process handles Ctrl-C; the worker's group can be killed as one
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._responses = self._process.stdin, self._process.stdout
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_forward, args=(self._responses, self._answers), daemon=True)
        self._reader.start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, do: str, timeout: float | None = ANSWER_SECONDS, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Args:
            do: Name of the method.
            timeout: Time limit in seconds. None: no limit.
            **request: Arguments of the method, as JSON values.

        Raises:
            WorkerFailed: the worker reports an error, dies, or does not answer in time.
        """
        try:
            self._requests.write(json_text({"do": do, **request}, ascii_only=True) + "\n")
            self._requests.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerFailed(f"no answer within {timeout:g} seconds", log=self._last_lines()) from None
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            raise WorkerFailed(self._exit_reason(), log=self._last_lines(), died=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = ERROR_TYPES.get(answer["kind"])
            raise WorkerFailed(answer["error"], hint=answer["hint"], log=self._last_lines(), kind=kind)
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def _exit_reason(self) -> str:
        status = self._process.wait(timeout=10)
        if status >= 0:
            return f"its process ended with status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"its process was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")

    def _last_lines(self) -> str:
        self._log.seek(0)  # the worker writes at this offset too; reading moves it back to the end
        lines = self._log.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def close(self) -> None:
        """Kill the process and the processes that it started. A worker has nothing to save."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        with contextlib.suppress(OSError):
            self._requests.close()
        self._responses.close()
        self._log.close()


def _open_log() -> IO[bytes]:
    """A file without a name; in memory where no folder can be written, as in a container with a read-only root."""
    try:
        return tempfile.TemporaryFile()
    except FileNotFoundError:
        if not hasattr(os, "memfd_create"):
            raise
        return os.fdopen(os.memfd_create("zoo-worker"), "w+b")


def _forward(responses: IO[str], answers: queue.SimpleQueue[str]) -> None:
    """Put the lines of a pipe into a queue, then an empty line. Unlike a pipe, a queue can be read with a timeout."""
    for line in responses:
        answers.put(line)
    answers.put("")


def serve_command(target: str, parent: str, linger: str | None = None) -> None:
    """`serve`, with its arguments as a command line has them."""
    serve(target, int(parent), None if linger is None else float(linger))


def serve(target: str, parent: int, linger: float | None = None) -> None:
    """Answer requests until the pipe closes. This is what the worker process runs.

    Args:
        target: See `WorkerProcess`.
        parent: Process id of the parent.
        linger: See `WorkerProcess`.
    """
    if linger is None:
        die_with_parent(parent)
    else:
        threading.Thread(target=_die_after_parent, args=(parent, linger), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be read as an answer
    sys.stdout = sys.stderr
    worker = load_target(target)()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = json_text(getattr(worker, request.pop("do"))(**request), ascii_only=True)
        except ZooError as error:
            answer = json_text(
                {"error": error.message, "hint": error.hint, "kind": type(error).__name__}, ascii_only=True
            )
        except Exception as error:
            traceback.print_exc()
            kind = DiskFull.__name__ if is_disk_full(error) else ""
            answer = _failure(type_and_first_line(error), None, kind)
        _send(answers, answer)


def _die_after_parent(parent: int, linger: float) -> None:
    """End this process so many seconds after its parent has died, if it has not ended by itself."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(linger)
    os._exit(1)


PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def die_with_parent(parent: int) -> None:
    """End this process when its parent dies (on Linux only).

    A parent that is killed cannot kill its workers, and a worker would otherwise finish its current request, which may
    take minutes. If the parent died while the worker was starting, a request may be waiting in the pipe; it is not
    carried out. On other systems, a worker ends when it waits for the next request and finds its pipe closed.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def _failure(message: str, hint: str | None, kind: str) -> str:
    return json_text({"error": message, "hint": hint, "kind": kind}, ascii_only=True)


def _send(answers: TextIO, answer: str) -> None:
    try:
        answers.write(answer + "\n")
        answers.flush()
    except BrokenPipeError:
        sys.exit(0)  # the parent has ended
