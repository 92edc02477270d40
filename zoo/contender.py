"""Contender: a target and a runtime that take part in a latency measurement, and the worker process they live in."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any

from zoo.catalogue import Entry
from zoo.latency_report import Outcome, Status
from zoo.runtime import Runtime, Workload

# torch.compile of a large network takes minutes on a small machine; a session that hangs must end some day
ANSWER_SECONDS = 1200.0
LOG_LINES = 20  # of the worker's stderr, kept with a failure


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of those that take turns."""

    label: str  # how the target is called in tables: as short as it is unambiguous
    entry: Entry[Runtime]
    workload: Workload

    @property
    def name(self) -> str:
        return f"{self.label} on {self.entry.name}"

    def outcome(self, status: Status, **known: Any) -> Outcome:
        """What became of it; `known` are further fields of the outcome."""
        return Outcome(
            target=str(self.workload.target),
            label=self.label,
            runtime=self.entry.qualified,
            device=self.workload.device,
            status=status,
            **known,
        )


class ContenderFailed(Exception):
    """A contender is out: the reason in one line, a hint, and the last lines of its log."""

    def __init__(self, reason: str, *, hint: str | None = None, log: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.log = log


class WorkerProcess:
    """A process that runs `zoo.latency_worker`. Leaving the `with` block kills it and all that it started."""

    def __init__(self, threads: int) -> None:
        # The working directory stays off the path, and this process's own path is handed on, as multiprocessing does
        code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import zoo.latency_worker as w; w.main()"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, json.dumps([path for path in sys.path if path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
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

    def load(self, runtime: Runtime, workload: Workload) -> dict[str, Any]:
        """Open the session; see `zoo.latency_worker`.

        Raises:
            ContenderFailed: it cannot be opened there.
        """
        return self.ask("load", target=runtime.load, workload={**asdict(workload), "target": str(workload.target)})

    def ask(self, do: str, timeout: float = ANSWER_SECONDS, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            ContenderFailed: the worker reports an error, dies, or does not answer within `timeout` seconds.
        """
        try:
            self._requests.write(json.dumps({"do": do, **request}) + "\n")
            self._requests.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise ContenderFailed(f"no answer within {timeout:.0f} seconds", log=self._tail()) from None
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            raise ContenderFailed(self._epitaph(), log=self._tail())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"], hint=answer["hint"], log=self._tail())
        return answer

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
