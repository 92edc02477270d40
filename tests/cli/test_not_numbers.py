"""What is not a number is an error by name, and a metric that failed is a `-`: never a label, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from messages import unsaid
from onnx import numpy_helper

import zoo_metrics.classification
from zoo_cli.main import run


def zoo(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def damaged(exported_run: Path, tmp_path: Path) -> Path:
    """An exported file of which one bias of the head is NaN."""
    model = onnx.load(exported_run / "model.onnx")
    bias = next(
        tensor
        for tensor in reversed(model.graph.initializer)
        if list(tensor.dims) == [2] and tensor.data_type == onnx.TensorProto.FLOAT
    )
    values = numpy_helper.to_array(bias).astype(np.float32)
    bias.CopyFrom(numpy_helper.from_array(np.array([np.nan, values[1]], np.float32), bias.name))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_file_that_gives_no_numbers(capsys: pytest.CaptureFixture[str], damaged: Path, two_splits: Path) -> None:
    photograph = two_splits / "val/red/000.jpg"
    code, out, err = zoo(capsys, "predict", damaged, photograph)
    assert code == 1 and out == "" and not unsaid(err, str(photograph), "`blue`", "nan", "zoo verify")
    code, out, err = zoo(capsys, "predict", damaged, photograph, "--json")
    assert code == 1 and "NaN" not in out and "Traceback" not in err
    code, out, err = zoo(capsys, "evaluate", damaged, "--data", two_splits)
    assert code == 1 and out == "" and not unsaid(err, "Error", "`blue`", "nan") and "plugin" not in err
    code, out, err = zoo(capsys, "verify", damaged)
    assert code == 1 and not unsaid(out + err, "golden inputs", "`blue`", "nan")


def test_metrics_that_failed_are_dashes(
    capsys: pytest.CaptureFixture[str],
    exported_run: Path,
    two_splits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("accuracy", "loss", "f1_macro"):
        monkeypatch.setattr(zoo_metrics.classification, name, lambda predictions: float("nan"))
    folder = Path(shutil.copytree(exported_run, tmp_path / "run"))
    code, _, err = zoo(capsys, "evaluate", folder / "model.onnx", "--data", two_splits)
    assert code == 0 and not unsaid(err, "metric `loss` failed: it gave nan", "metric `accuracy` failed: it gave nan")
    record = json.loads((folder / "run.json").read_text())
    record["metrics"] = dict.fromkeys(record["metrics"])
    (folder / "run.json").write_text(json.dumps(record))
    commands: tuple[list[str | Path], ...] = (
        ["compare", folder, exported_run],
        ["compare", folder, exported_run, "--json"],
        ["report", folder],
        ["inspect", folder / "model.onnx"],
        ["diff", folder, exported_run],
    )
    for command in commands:
        code, _, err = zoo(capsys, *command)
        assert code == 0 and "Traceback" not in err, err
