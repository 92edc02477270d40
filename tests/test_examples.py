"""The scripts and the notebook in `examples/` run as they stand, on less data."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT
from make_fruit import COLOURS, make_fruit
from shared import made_once

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    counts = dict.fromkeys(COLOURS, 8)
    yield from made_once(tmp_path_factory.getbasetemp(), "fruit", lambda folder: make_fruit(folder, counts))


def script(name: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_drawn_data_are_the_same_on_every_call(tmp_path: Path) -> None:
    script("make_fruit.py", "a", "--count", 2, "--count-of", "lemon", 1, cwd=tmp_path)
    make_fruit(tmp_path / "b", {"apple": 2, "lemon": 1, "orange": 2})
    one, other = ({file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.jpg")}
                  for name in "ab")  # fmt: skip
    assert one == other and len(one) == 5 and len(set(one.values())) == 5


@pytest.mark.slow  # as the README does on every push, by command and in Python
def test_train_export_and_predict_with_onnxruntime_alone(fruit: Path, tmp_path: Path) -> None:
    printed = script("train_and_export.py", fruit, "run", cwd=tmp_path)
    assert "labels are the run's" in printed and "9 of 9 checks passed" in printed
    photographs = sorted(fruit.glob("*/000.jpg"))
    lines = script("predict_with_onnxruntime.py", "run/model.onnx", *photographs, cwd=tmp_path).splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(file) for file in photographs]
    assert all(line.split("\t")[1] in COLOURS for line in lines)


def test_predicting_imports_neither_zoo_nor_torch() -> None:
    tree = ast.parse((EXAMPLES / "predict_with_onnxruntime.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "json", "sys", "numpy", "onnxruntime", "PIL"}


@pytest.mark.slow
def test_compare_strategies(fruit: Path, tmp_path: Path) -> None:
    printed = script("compare_strategies.py", fruit, "study", cwd=tmp_path)
    assert printed.count("accuracy on val") == 2 and "the cheapest of the best: " in printed


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run in order, and it is stored without outputs, so that no diff shows a picture."""
    from PIL import Image

    notebook = json.loads((EXAMPLES / "mistakes.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [_run_cell("".join(cell["source"]), names) for cell in cells]
    assert any(isinstance(value, Image.Image) for value in shown)
    assert Path(os.fspath(names["file"])).is_file()
    assert len(names["predictions"]) == 3


def _run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that is an expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307 - it is our own
