"""Workers end with the process that started them, take their own with them, and answer in JSON whatever is printed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from zoo.errors import DiskFull
from zoo.system.worker_process import LOG_LINES, WorkerFailed, WorkerProcess

CODE = (
    "import sys; sys.path.insert(0, sys.argv[3]); import zoo.system.worker_process as w; "
    "w.serve(sys.argv[1], parent=int(sys.argv[2]))"
)


class Noting:
    """A worker that leaves a mark in the file system."""

    def note(self, path: str) -> dict[str, str]:
        Path(path).touch()
        return {"noted": path}

    def loud(self) -> dict[str, int]:
        os.write(1, b"words of a library in C\n")
        print("words of a library in Python")
        return {"pid": os.getpid(), "group": os.getpgid(0)}

    def child(self) -> dict[str, int]:
        return {"pid": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]).pid}

    def threads(self) -> dict[str, str]:
        return {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

    def killed(self) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def full(self) -> dict[str, str]:
        for number in range(5 * LOG_LINES):
            print(number, file=sys.stderr)
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.parametrize("orphan", [False, True])
def test_a_worker_whose_parent_died_while_it_started_does_nothing(tmp_path: Path, orphan: bool) -> None:
    """The request waits in its pipe; carried out, it would train in a folder that the next session needs."""
    parent = os.getppid() if orphan else os.getpid()
    process = subprocess.run(
        [sys.executable, "-c", CODE, "test_worker_process:Noting", str(parent), str(Path(__file__).parent)],
        input=json.dumps({"do": "note", "path": str(tmp_path / "mark")}) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (tmp_path / "mark").exists() is not orphan
    assert process.returncode == int(orphan) and bool(process.stdout) is not orphan


NOTING = "test_worker_process:Noting"


def test_what_libraries_print_is_no_answer_and_ctrl_c_does_not_reach_the_worker() -> None:
    with WorkerProcess(NOTING) as worker:
        answer = worker.ask("loud")
        assert set(answer) == {"pid", "group"} and answer["group"] == answer["pid"] != os.getpgid(0)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX only")
def test_processes_that_a_worker_started_end_with_it() -> None:
    with WorkerProcess(NOTING) as worker:
        child = psutil.Process(worker.ask("child")["pid"])
        assert child.is_running()
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    alive = _is_alive(child)
    if alive:
        child.kill()
    assert not alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # where nobody collects orphans
    except psutil.NoSuchProcess:
        return False


def test_a_worker_takes_no_module_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    with WorkerProcess(NOTING, threads=3) as worker:
        assert worker.ask("threads") == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
def test_a_worker_needs_no_folder_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a read-only root and no `/tmp`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with WorkerProcess(NOTING) as worker:
        with pytest.raises(WorkerFailed, match="No space left") as caught:
            worker.ask("full")
        assert caught.value.log.splitlines()[-1].startswith("OSError")


def test_a_failure_has_its_kind_and_the_last_lines() -> None:
    with WorkerProcess(NOTING) as worker:
        with pytest.raises(WorkerFailed, match="No space left") as caught:
            worker.ask("full")
        assert caught.value.kind is DiskFull
        lines = caught.value.log.splitlines()
        assert len(lines) == LOG_LINES and lines[-1].startswith("OSError") and "0" not in lines
        with pytest.raises(WorkerFailed, match="AttributeError"):
            worker.ask("nothing")
        assert worker.ask("loud")  # it goes on


def test_a_killed_worker_is_told_with_lack_of_memory_as_its_likely_cause() -> None:
    with WorkerProcess(NOTING) as worker:
        with pytest.raises(WorkerFailed, match="killed by SIGKILL, perhaps for lack of memory"):
            worker.ask("killed")
        assert not worker.alive
