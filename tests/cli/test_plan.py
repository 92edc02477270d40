"""`zoo plan` and `zoo list strategies --options`, as they are typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from messages import unsaid
from tests_support import make_photos

from zoo import Run
from zoo.strategy import RESERVED
from zoo_cli.main import run

SMALL = ["--backbone", "timm/test_efficientnet", "--weights", "none", "--image-size", "32"]


def test_the_table_is_on_stderr_and_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *SMALL, "--strategy", "partial:1,lr=0.5+full,ema=0.9"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "phase 1 partial:1" in said.err and "phase 2 full" in said.err and "ema 0.9" in said.err
    assert "without `--data`, 2 classes are assumed" in said.err and "parameters train, - steps" in said.err
    assert run(["plan", *SMALL, "--strategy", "partial:1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["strategy"] == "partial:1" and made["steps"] is None
    assert made["phases"][0]["stages"][-1]["stage"] == "head" and made["phases"][0]["stages"][0]["trains"] == "no"


def test_with_data_it_counts_steps(two_splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *SMALL, "--strategy", "full", "--data", str(two_splits), "--epochs", "3"]) == 0
    assert "3 epochs, 3 steps" in capsys.readouterr().err
    assert run(["plan", *SMALL, "--strategy", "full", "--lr", "find"]) == 0
    assert "x 0.05" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "full"], ("missing option", "`--backbone`")),
        ([*SMALL, "--strategy", "partial:99"], ("`partial:99`", "`test_efficientnet`", "6")),
        ([*SMALL, "--strategy", "partial:0+ful"], ("strategy", "`ful`")),
        ([*SMALL, "--strategy", "full", "--data", "./nowhere"], ("folder", "nowhere`", "exist")),
        ([*SMALL, "--strategy", "full", "--lr", "fast"], ("--lr", "fast", "number")),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert not unsaid(said, *words) and "Traceback" not in said and said.startswith("Error: ")


def test_options_have_types_defaults_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "strategies", "--options", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {(row["strategy"], row["option"]): row for row in told["options"]}
    assert rows["partial", "stages"]["required"] and rows["partial", "stages"]["type"] == "int"
    assert rows["layerdecay", "decay"] == {
        "strategy": "layerdecay", "option": "decay", "type": "float", "required": False, "default": 0.75,
        "help": "learning rate of a stage, as a fraction of that of the next stage",
    }  # fmt: skip
    assert rows["linear", "solver"]["type"] == "auto lbfgs sgd"
    assert [word["name"] for word in told["of_every_phase"]] == list(RESERVED)
    assert run(["list", "strategies", "partial", "--options"]) == 0
    said = capsys.readouterr().err
    assert "required" in said and "counted from the head" in said and "layerdecay" not in said
    assert run(["list", "backbones", "--options"]) == 2
    assert "`--options`" in capsys.readouterr().err


def test_options_are_listed_without_torch() -> None:
    code = (
        "import sys; from zoo_cli.main import run; assert run(['list', 'strategies', '--options']) == 0; "
        "print(sorted({'peft', 'torch', 'sklearn', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow  # 20 s; the option itself is tested with its datasets
def test_classes_from_is_for_every_command_that_opens_data(
    tmp_path: Path, exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, upper in (("train", "upper"), ("val", "above them")):
        make_photos(tmp_path / split, {upper: 3})
        (tmp_path / split / upper / "blue").rename(tmp_path / split / "blue")
    small = ["--backbone", "timm/test_resnet", "--weights", "none", "--strategy", "linear", "--image-size", "32"]
    data = ["--data", str(tmp_path), "--classes-from", "leaf"]
    assert run(["plan", *small, *data]) == 0
    assert "2 classes: blue red; train 6 images, 3 a class; val 6, 3 a class" in capsys.readouterr().err
    assert run(["train", *small, *data, "--out", str(tmp_path / "run")]) == 0
    assert "2 classes: blue red" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").experiment.data == f"folder-leaf:{tmp_path}"
    moved = shutil.copytree(tmp_path / "val", tmp_path / "moved")
    own = ["evaluate", str(tmp_path / "run"), "--device", "cpu"]
    assert run([*own, "--data", str(moved)]) == 0
    assert not unsaid(capsys.readouterr().err, "lowest folders", "as in training", "--classes-from top")
    assert run([*own, "--data", str(moved), "--classes-from", "leaf"]) == 0
    assert "as in training" not in capsys.readouterr().err
    for other in (["--data", str(moved), "--classes-from", "top"], ["--data", f"folder:{moved}"]):
        assert run([*own, *other]) == 1
        assert not unsaid(capsys.readouterr().err, "no class `above them`")
    (moved / "blue").rename(moved / "green")
    assert run([*own, "--data", str(moved)]) == 1
    assert not unsaid(capsys.readouterr().err, "no class `green`", "lowest folders", "--classes-from top")
    for part in ("train", "val"):
        shutil.copytree(tmp_path / part, tmp_path / "copy" / part)
    steps = [*small, "--strategy", "full", "--epochs", "1", *data, "--out", str(tmp_path / "steps")]
    assert run(["train", *steps]) == 0
    assert run(["export", str(tmp_path / "steps"), "--data", str(tmp_path / "copy"), "--device", "cpu"]) == 0
    capsys.readouterr()
    shutil.copytree(exported_run, tmp_path / "other")
    assert run(["evaluate", str(tmp_path / "other"), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6
    assert run(["study", *small, *data, "--seed", "0", "--out", str(tmp_path / "study")]) == 0
    assert "2 classes: blue red" in capsys.readouterr().err
    assert run(["evaluate", str(tmp_path / "other"), "--classes-from", "leaf"]) == 2
    assert "`--classes-from` needs `--data`" in capsys.readouterr().err


def test_a_precision_of_steps_that_are_not_taken_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", *SMALL, "--device", "cpu", "--strategy", "knn"]
    assert run([*command, "--precision", "bf16"]) == 0
    assert not unsaid(capsys.readouterr().err, "`--precision bf16` needs optimiser steps", "`knn` takes none")
    for other in ([], ["--precision", "fp32"]):  # in which heads are solved
        assert run([*command, *other]) == 0
        assert "--precision" not in capsys.readouterr().err
