"""Which heavy libraries each command imports, since imports are most of a short command's time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "IPython", "datasets", "fsspec", "jinja2", "matplotlib", "onnx", "onnxruntime", "optuna", "pandas", "pyarrow",
    "scipy.optimize", "scipy.stats", "skimage", "sklearn", "starlette", "timm", "torch", "torchvision",
)  # fmt: skip

CODE = """
import contextlib, io, json, sys
from zoo_cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    code = run(sys.argv[2:])
assert not code, code
names = [name for name in json.loads(sys.argv[1]) if name in sys.modules and hasattr(sys.modules[name], "__path__")]
print(json.dumps(names))
"""


def imported(*words: str) -> set[str]:
    """The heavy libraries that a process has imported after a command."""
    command = [sys.executable, "-c", CODE, json.dumps(HEAVY), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(names)


# What is registered is described by these; each takes a millisecond or more to import
KINDS = (
    "augmentation",
    "backbone",
    "callback",
    "dataset",
    "exporter",
    "loss",
    "metric",
    "optimizer",
    "preprocess",
    "runtime",
    "schedule",
    "strategy",
)


def test_help_imports_nothing_of_what_is_registered_but_commands() -> None:
    code = CODE.replace('and hasattr(sys.modules[name], "__path__")', "")
    names = json.dumps([*(f"zoo.{kind}" for kind in KINDS), "zoo.command", "rich"])
    done = subprocess.run([sys.executable, "-c", code, names, "--help"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["zoo.command"]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["list", "strategies"], ["list", "optimizers"]])
def test_help_and_lists_need_no_heavy_library(words: list[str]) -> None:
    assert imported(*words) == set()


def test_training_needs_what_its_network_and_its_head_need(two_splits: Path, tmp_path: Path) -> None:
    words = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--device", "cpu"]
    run = ["train", "--data", str(two_splits), "--out", str(tmp_path / "run"), *words]
    # torchvision comes with timm
    assert imported(*run, "--strategy", "linear") == {"torch", "timm", "torchvision"}
    assert imported("evaluate", str(tmp_path / "run")) == {"torch", "timm", "torchvision"}


def test_a_file_answers_without_torch(exported_run: Path, two_splits: Path, tmp_path: Path) -> None:
    file = shutil.copy(exported_run / "model.onnx", tmp_path)  # scoring is noted beside it
    (photo, *_) = sorted((two_splits / "val").rglob("*.jpg"))
    assert imported("predict", str(file), str(photo)) == {"onnxruntime"}
    assert imported("evaluate", str(file), "--data", str(two_splits)) == {"onnxruntime"}
