"""Messages of the command line: one line per mistake, worded by zoo, and tables that fit the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests_support import make_photos

from zoo.errors import did_you_mean
from zoo_cli.main import run


def zoo(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_hint_that_stands_alone_starts_small() -> None:
    assert did_you_mean("qqq", ["linear"], "see `zoo list`") == "see `zoo list`"
    assert did_you_mean("linera", ["linear"], "see `zoo list`") == "did you mean `linear`? See `zoo list`"


def test_a_provider_alone_is_no_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--strategy", "linear", "--out", "nowhere"]
    code, _, err = zoo(capsys, "train", *arguments, "--backbone", "timm/")
    assert code == 2 and err == "Error: unknown backbone `timm/`\n\nhint: see `zoo list backbones 'timm/*'`\n"


def test_stages_of_a_network_that_meta_cannot_build(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = zoo(capsys, "list", "backbones", "torchvision/regnet_y_400mf", "--stages")
    assert code == 0 and "stem" in err and "head" in err


def test_no_command_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = zoo(capsys)
    assert (code, err) == (2, "") and out.startswith("Usage: zoo ") and "Commands:" in out


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["train", "--nope"], "no such option `--nope`", "did you mean `--norm`"),
        (["list", "backbones", "--stage"], "no such option `--stage`", "did you mean `--stages`? See"),
        (["bench", "x", "--threads", "1e3"], "invalid value for `--threads`: `1e3` is not a whole number", "see"),
        (["bench", "x", "--threads", "0"], "invalid value for `--threads`: `0` is less than 1", "see"),
        (["train", "--image-size", "x"], "invalid value for `--image-size`: `x` is not a size such as 224", "see"),
        (["train", "--image-size", "160x"], "invalid value for `--image-size`: `160x` is not a size", "see"),
        (["train", "--fill", "1", "2", "x"], "invalid value for `--fill`: `x` is not a whole number", "see"),
        (["train", "--dropout", "x"], "invalid value for `--dropout`: `x` is not a number", "see"),
        (["list"], "missing argument `KIND`. Choose from: backbones, strategies, datasets, augmentations,", "see"),
    ],
)
def test_a_usage_error_is_reported_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str, hint: str
) -> None:
    code, out, err = zoo(capsys, *arguments)
    first, empty, second = err.splitlines()
    assert (code, out, empty) == (2, "", "")
    assert first.startswith(f"Error: {line}") and second.startswith(f"hint: {hint}")
    assert "id you mean" not in first and "\t" not in err


def test_system_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = zoo(capsys, "verify", "a" * 300 + ".onnx")
    assert code == 1 and err == f"Error: `{'a' * 300}.onnx`: file name too long\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["list", "strategies", "--json"], ["--version"]])
def test_a_full_disk_behind_stdout_is_a_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zoo_cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1"},
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "Error: no space left on device\n")


def test_compare_truncates_no_figure_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_photos(tmp_path / "data", {"train": 4, "val": 2})
    tiny = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--epochs", "1"]
    run_folder = tmp_path / "a_run_of_a_rather_long_name_that_is_folded"
    assert zoo(capsys, "train", "--data", str(data), *tiny, "--strategy", "linear", "--out", str(run_folder))[0] == 0
    runs = [str(run_folder), str(run_folder.parent / "." / run_folder.name / ".." / run_folder.name), str(run_folder)]
    monkeypatch.setenv("COLUMNS", "500")
    [row] = [line for line in zoo(capsys, "compare", str(run_folder))[2].splitlines() if "test_resnet" in line]
    figures = [cell.strip() for cell in row.strip("│").split("│")][3:]
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        err = zoo(capsys, "compare", *runs)[2]
        assert all(len(line) <= width for line in err.splitlines())
        assert "…" not in err and "timm/test_resnet" in err
        assert all(err.count(f" {figure} ") >= len(runs) for figure in figures), width


def test_backbones_truncate_no_figure_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, _, err = zoo(capsys, "list", "backbones", "*resnet18")
    assert code == 0 and "…" not in err and "licences and weights" in err
    assert "│ resnet18 " in err and "11.7 M" in err and all(len(line) <= 80 for line in err.splitlines())
    monkeypatch.setenv("COLUMNS", "300")
    assert "licence" in zoo(capsys, "list", "backbones", "*resnet18")[2].splitlines()[1]
