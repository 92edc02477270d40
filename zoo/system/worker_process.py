"""Worker: a process that does what it is told line by line, and whose death is an answer like another.

A request is one line of JSON on stdin, `{"do": METHOD, ...}`; its answer is one line on what was stdout. Between
requests the process is blocked on its pipe. What libraries print goes to stderr, whose end is kept with a failure.
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
import traceback
from types import TracebackType
from typing import IO, Any, TextIO

from zoo.errors import DiskFull, Diverged, UsageError, ZooError, is_disk_full
from zoo.target import load_target

# torch.compile of a large network takes minutes on a small machine; a session that hangs must end some day
ANSWER_SECONDS = 1200.0
LOG_LINES = 20  # of the worker's stderr, kept with a failure


class WorkerFailed(Exception):
    """A worker reported an error or died: the reason in one line, a hint, and the last lines of its log.

    `kind` is the type of an error that the worker raised on purpose; None for a bug, or for a process that died.
    """

    def __init__(
        self, reason: str, *, hint: str | None = None, log: str = "", kind: type[ZooError] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.log = log
        self.kind = kind


# Errors whose type is handed from a worker to its parent
KINDS: dict[str, type[ZooError]] = {kind.__name__: kind for kind in (ZooError, UsageError, Diverged, DiskFull)}


class WorkerProcess:
    """A process that answers requests. Leaving the `with` block kills it and all that it started."""

    def __init__(self, target: str, *, threads: int | None = None) -> None:
        """Start the process; each method of the class `target` ("module:class") answers the requests of its name.

        With `threads`, its libraries compute on that many.
        """
        # The working directory stays off the path, and this process's own path is handed on, as multiprocessing does
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "import zoo.system.worker_process as w; w.serve(sys.argv[2], parent=int(sys.argv[3]))"
        )
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                code,
                json.dumps([path for path in sys.path if path]),
                target,
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, **limits},
            start_new_session=True,  # Ctrl-C is the main process's to handle; and its children can be killed with it
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

        Raises:
            WorkerFailed: the worker reports an error, dies, or does not answer within `timeout` seconds, if any.
        """
        try:
            self._requests.write(json.dumps({"do": do, **request}) + "\n")
            self._requests.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerFailed(f"no answer within {timeout:.0f} seconds", log=self._tail()) from None
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            raise WorkerFailed(self._epitaph(), log=self._tail())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = KINDS.get(answer["kind"])
            raise WorkerFailed(answer["error"], hint=answer["hint"], log=self._tail(), kind=kind)
        return answer

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _epitaph(self) -> str:
        status = self._process.wait(timeout=10)
        if status >= 0:
            return f"its process ended with status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"its process was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")

    def _tail(self) -> str:
        self._log.seek(0)  # the worker writes at the same offset, which reading puts back to the end
        lines = self._log.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def close(self) -> None:
        """Kill the process and what it started; there is nothing in it to be saved."""
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


def _forward(responses: IO[str], answers: queue.SimpleQueue[str]) -> None:
    """Lines of a pipe into a queue, which can be waited on for a limited time; an empty one at the end."""
    for line in responses:
        answers.put(line)
    answers.put("")


def serve(target: str, parent: int) -> None:
    """Answer requests until the pipe closes: the worker's side. `parent` is the process id of who started it."""
    die_with_parent(parent)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not reach the parent's parser
    sys.stdout = sys.stderr
    worker = load_target(target)()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except ZooError as error:
            answer = {"error": error.message, "hint": error.hint, "kind": type(error).__name__}
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().splitlines()[0] if str(error).strip() else ""
            kind = DiskFull.__name__ if is_disk_full(error) else ""
            answer = {"error": f"{type(error).__name__}: {text}".rstrip(": "), "hint": None, "kind": kind}
        _send(answers, answer)


PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies; elsewhere it ends at the next request that does not come.

    A parent that is killed cannot kill its workers, and one in the middle of a call would compute on for minutes. One
    whose parent died while it was starting would carry out the request that waits in its pipe, so it ends here.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    except BrokenPipeError:
        sys.exit(0)  # the parent has gone
