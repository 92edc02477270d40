"""A plugin that raises anything, or prints anywhere, ends no command and spoils no output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from messages import unsaid

PLUGIN = '''
import ctypes, os, sys
import zoo

class Strange(BaseException):
    """Not derived from `Exception`."""

def shout(where):
    print("shouted by print in", where)
    os.write(1, f"shouted to descriptor 1 in {where}\\n".encode())
    ctypes.CDLL(None).printf(f"shouted by C in {where}\\n".encode())

shout("module")
if os.environ.get("RAISE") == "module":
    raise Strange("at import")

def fail(predictions):
    shout("metric")
    raise Strange("in a metric")

def leave(argument, split_seed):
    shout("dataset")
    sys.exit(3)

@zoo.hookimpl
def register_metrics(register):
    shout("hook")
    register(zoo.Metric(name="odd", summary="raises", compute=fail))
    if os.environ.get("RAISE") == "hook":
        raise Strange("in a hook")

@zoo.hookimpl
def register_datasets(register):
    register(zoo.Dataset(name="leaver", summary="leaves", open=leave))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an installed plugin."""
    (tmp_path / "odd_plugin.py").write_text(PLUGIN)
    about = tmp_path / "odd_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[zoo.plugins]\nodd = odd_plugin\n")
    return tmp_path


def zoo(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "zoo_cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}, check=False
    )


@pytest.mark.parametrize("where", ["module", "hook"])
def test_a_plugin_that_raises_anything_ends_no_command(folder: Path, where: str) -> None:
    done = zoo(folder, "list", "metrics", "--json", RAISE=where)
    assert done.returncode == 0 and len(json.loads(done.stdout)) > 3
    assert not unsaid(done.stderr, "warning", "plugin `odd`", "Strange") and "Traceback" not in done.stderr


def test_what_a_plugin_prints_is_no_data(folder: Path, exported_run: Path, two_splits: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes((exported_run / "model.onnx").read_bytes())
    done = zoo(folder, "evaluate", file, "--data", two_splits, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["metrics"]["odd"] is None
    assert not unsaid(done.stderr, "metric `odd` failed", "in a metric") and "Traceback" not in done.stderr
    for where in ("module", "hook", "metric"):
        assert not unsaid(
            done.stderr, f"shouted by print in {where}", f"to descriptor 1 in {where}", f"by C in {where}"
        )


def test_a_plugin_that_leaves_is_an_error(folder: Path, exported_run: Path) -> None:
    done = zoo(folder, "evaluate", exported_run / "model.onnx", "--data", "leaver:x")
    assert done.returncode == 1 and done.stdout == ""
    assert not unsaid(done.stderr, "Error", "plugin", "sys.exit(3)", "shouted by C in dataset")


def test_help_is_data(folder: Path) -> None:
    done = zoo(folder, "predict", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage") and "shouted" not in done.stdout
