"""Runs that end before their last epoch: a budget, a signal; and what is said of options that cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from filelock import FileLock
from messages import unsaid
from tests_support import make_photos

from zoo import Run
from zoo.studies.deployment_cost import DeploymentCost
from zoo_cli.main import run

SMALL = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--batch-size", "4"]


def test_a_time_budget_ends_a_run_in_good_order(
    two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(1, 10_000))
    monkeypatch.setattr("zoo.system.clock.Clock.total", lambda self: float(next(steps)))  # every look takes a second
    settings = [*SMALL, "--data", str(two_splits), "--strategy", "partial:1,epochs=2+full,epochs=3"]
    assert run(["train", *settings, "--out", str(tmp_path / "run"), "--time-budget", "8s"]) == 0
    said = capsys.readouterr().err
    assert "ended by the time budget of 8 s in epoch 2, batch 2 of 6" in said
    ended = Run.open(tmp_path / "run")
    assert ended.status == "finished" and "time budget" in ended.record["ended_by"] and ended.record["steps"] == 8
    assert [line["phase"] for line in ended.history] == ["partial:1", "partial:1"]
    assert len(ended.predictions()) == 12 and (ended.path / "model.safetensors").is_file()


def test_a_sufficient_time_budget_has_no_effect(two_splits: Path, tmp_path: Path) -> None:
    settings = [*SMALL, "--data", str(two_splits), "--strategy", "partial:1", "--epochs", "1"]
    assert run(["train", *settings, "--out", str(tmp_path / "run"), "--time-budget", "2h"]) == 0
    ended = Run.open(tmp_path / "run")
    assert ended.record["ended_by"] is None and ended.experiment.time_budget == 7200


def test_sigterm_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", {"train": 24, "val": 4})
    zoo = [sys.executable, "-m", "zoo_cli.main", "train"]
    settings = [*SMALL, "--data", str(photos), "--strategy", "full", "--epochs", "5", "--save-every", "0"]
    folder = tmp_path / "run"
    process = subprocess.Popen([*zoo, *settings, "--out", str(folder)], stderr=subprocess.PIPE, text=True)
    while not (folder / "checkpoint.safetensors").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    assert not unsaid(said, "hint", f"`zoo train --resume {folder}`", "last checkpoint")
    assert Run.open(folder).status == "interrupted"
    with FileLock(folder / ".lock", timeout=0):  # free again
        pass
    assert run(["train", "--resume", str(folder)]) == 0 and Run.open(folder).status == "finished"
    assert len(Run.open(folder).history) == 5


def test_after_ctrl_c_it_is_said_how_to_go_on(
    two_splits: Path,
    exported_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("training.recipe.Recipe.fit", "exporting.writing._write", "studies.executor.LocalProcess.submit"):
        monkeypatch.setattr(f"zoo.{place}", stopped)
    asked = [*SMALL, "--data", str(two_splits), "--strategy", "full"]
    copied = tmp_path / "copied"
    shutil.copytree(exported_run, copied)
    cost = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x")  # measuring takes seconds
    monkeypatch.setattr("zoo.studies.runner.StudySession._deployment_costs", lambda _: defaultdict(lambda: cost))
    for command, goes_on in (
        (["train", *asked, "--out", str(tmp_path / "run")], (f"`zoo train --resume {tmp_path / 'run'}`", "beginning")),
        (["export", str(copied), "--out", str(tmp_path / "x.onnx")], (f"`zoo export {copied}`", "again")),
        (["study", *asked, "--out", str(tmp_path / "study")], (f"`zoo study {tmp_path / 'study'}`", "continues")),
    ):
        assert run(command) == 130
        assert not unsaid(capsys.readouterr().err, "interrupted", "hint", *goes_on)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--time-budget", "1x"], ("1x", "90s")),
        (["--time-budget", "-5"], ("-5", "30m")),
        (["--time-budget", "0"], ("`--time-budget 0`", "1")),
        (["--save-every", "often"], ("often", "30m")),
        (["--accumulate", "0"], ("`--accumulate 0`", "1 to 1,000,000")),
        (["--epochs", "0", "--lr", "nan"], ("`--epochs 0`", "1 to 1,000,000", "`--lr nan`", "number")),
        (["--backbone", "nett", "--strategy", "fulll"], ("backbone", "`nett`", "strategy", "`fulll`")),
        (["--strategy", "full,lr=1e6"], ("`full`", "rate", "5000", "1e-12 to 1000")),
        (["--lr", "found"], ("--lr", "found", "number")),
        (["--lr", "nan"], ("--lr", "nan", "number")),
        (["--strategy", "full,lr=nan"], ("full,lr=nan", "positive number")),
        (["--strategy", "knn+full"], ("`knn`", "joined")),
        (["--strategy", "truncate:99"], ("`truncate:99`", "99 stages")),
        (["--strategy", "knn", "--epochs", "3"], ("`--epochs 3`", "steps", "`knn`")),
        (["--strategy", "lora:2,head=x"], ("`lora`", "option", "`head`")),
        (
            ["--strategy", "linear+full,norm=frozen", "--norm", "train"],
            ("`norm=frozen`", "`--norm train`", "leave one"),
        ),
        (["--epochs", "9" * 400], ("`--epochs 9999999999...`", "1 to 1,000,000")),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    arguments: list[str], words: tuple[str, ...], two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = [] if "--strategy" in arguments else ["--strategy", "full"]
    settings = [*SMALL, "--data", str(two_splits), *strategy, *arguments, "--out", str(tmp_path / "run")]
    assert run(["train", *settings]) == 2
    said = capsys.readouterr().err
    assert not unsaid(said, *words) and said.count("Error") == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "9"], ("`--epochs`", "longer", "new run", "`--epochs 9`", "`--out`", "run.json")),
        (["--lr", "1"], ("`--lr`", "settings", "new run")),
        (["--data", "x", "--out", "y"], ("`--data`", "`--out`", "new run")),
    ],
)
def test_settings_cannot_be_changed_when_resuming(
    arguments: list[str], words: tuple[str, ...], exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--resume", str(exported_run), *arguments]) == 2
    said = capsys.readouterr().err
    assert not unsaid(said, f"`{exported_run}`", *words) and ("longer" in said) == ("--epochs" in arguments)


@pytest.mark.parametrize("arguments", [[], ["--epochs", "9"]])
def test_a_folder_that_is_no_run_is_not_resumed(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--resume", str(tmp_path), *arguments]) == 2
    assert not unsaid(capsys.readouterr().err, f"`{tmp_path}`", "run", "`run.json`")


@pytest.mark.parametrize("name", [["--resume", ""], [*SMALL, "--data", "digits", "--strategy", "full", "--out", ""]])
def test_an_empty_folder_name_is_a_usage_error(name: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *name]) == 2
    assert "is empty\n\nhint: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "linear", "--augment", "light"], ("augmentation", "`--epochs 5`", "steps")),
        (["--strategy", "linear,solver=lbfgs"], ("settings", "rates, epochs, augmentation")),
        (["--strategy", "knn:100000"], ("`knn:100000`", "24 training images")),
        (
            ["--strategy", "linear", "--time-budget", "60", "--save-every", "1", "--compile"],
            ("`--time-budget`", "`--save-every`", "`--compile` need", "steps", "`linear`"),
        ),
        (
            ["--strategy", "full", "--epochs", "1", "--accumulate", "100"],
            ("`--accumulate 100`", "batch of 4", "4 parts"),
        ),
        (["--strategy", "linear", "--compile"], ("`--compile` needs", "`linear`")),
        (
            ["--strategy", "full,norm=train", "--epochs", "1", "--accumulate", "3"],
            ("`--accumulate 3`", "batch of 4", "2 parts"),
        ),
        (
            ["--strategy", "linear,solver=sgd,epochs=1+full,epochs=3", "--epochs", "4", "--early-stopping", "2"],
            ("`--early-stopping 2`", "4 epochs", "best"),
        ),
    ],
)
def test_settings_without_effect_are_noted(
    arguments: list[str], words: tuple[str, ...], two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(["train", *SMALL, "--data", str(two_splits), *arguments, "--out", str(folder)]) == 0
    assert not unsaid(capsys.readouterr().err, *words)
    parts = (2 if "norm=train" in str(arguments) else 4) if "--accumulate" in arguments else 1
    assert Run.open(folder).history[0].get("parts", parts) == parts


@pytest.mark.parametrize("strategy", ["full,epochs=4", "linear,solver=sgd,epochs=1+full,epochs=4"])
def test_a_patience_that_can_end_a_phase_needs_no_note(
    strategy: str, two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--data", str(two_splits), "--strategy", strategy, "--early-stopping", "2"]
    assert run(["train", *SMALL, *settings, "--out", str(tmp_path / "run")]) == 0
    assert "`--early-stopping 2`" not in capsys.readouterr().err


def test_a_finished_run_is_said_to_be(two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert run(["train", *SMALL, "--data", str(two_splits), "--strategy", "linear", "--out", str(folder)]) == 0
    capsys.readouterr()
    assert run(["train", "--resume", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert "is finished, there is nothing to resume" in said.err and json.loads(said.out)["status"] == "finished"
