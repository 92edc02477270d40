"""Workers end with the process that started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = (
    "import sys; sys.path.insert(0, sys.argv[3]); import zoo.system.worker_process as w; "
    "w.serve(sys.argv[1], parent=int(sys.argv[2]))"
)


class Noting:
    """A worker that leaves a mark in the file system."""

    def note(self, path: str) -> dict[str, str]:
        Path(path).touch()
        return {"noted": path}


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
