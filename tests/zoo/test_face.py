"""The public Python API: names, docstrings, reprs, progress."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import logging
import pydoc
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests_support import TINY

import zoo
import zoo.progress
from zoo.experiment import attribute_docs
from zoo.progress import LogProgress, epoch_line

VERBS = (
    "train", "resume", "rerun", "plan", "evaluate", "predict", "export", "verify", "inspect", "bench", "study",
    "advise", "compare", "diff", "report",
)  # fmt: skip


def test_dir_and_help_show_the_verbs() -> None:
    assert set(VERBS) <= set(dir(zoo)) and set(zoo.__all__) <= set(dir(zoo))
    text = pydoc.render_doc(zoo, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    for verb in VERBS:
        assert re.search(rf"^    {verb}\(", text, re.MULTILINE), verb
    assert "Experiment(" in text


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_s_docstring_says_what_it_raises(verb: str) -> None:
    text = getattr(zoo, verb).__doc__
    assert text and "Raises:" in text and not text.splitlines()[0].endswith(":")


def test_arguments_of_evaluate_are_for_its_users() -> None:
    assert set(inspect.signature(zoo.evaluate).parameters) == {
        "model", "data", "split", "split_seed", "device", "workers", "levels", "exclude", "unknown",
            "plugins", "advance",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [zoo.Experiment, zoo.Study])
def test_every_setting_is_explained(kind: type) -> None:
    fields = [field.name for field in dataclasses.fields(kind)]
    found = attribute_docs(kind)
    assert list(found) == fields
    assert all(text.endswith(".") and len(text) > 15 for text in found.values())


def test_names_of_the_public_modules_stay() -> None:
    """What a plugin imported before the core was divided into packages."""
    for path, names in {
        "zoo.backbone": ("Backbone", "BuildSpec", "Network", "Weights", "build_network", "is_at_hand"),
        "zoo.dataset": ("Dataset", "Images", "Sample", "absolute", "choose_split", "open_images", "LOCKED", "ROLES"),
        "zoo.exporter": ("Check", "Exporter", "ExportSpec", "Calibration", "StageDifference", "find_exporter"),
        "zoo.predictor": ("Predictor", "TorchPredictor", "open_model", "softmax"),
        "zoo.solver": ("Task", "features"),
        "zoo.stage": ("Anatomy", "Stage", "cut", "group_parameters", "HEAD"),
        "zoo.strategy": ("Group", "Phase", "Strategy", "option_help"),
        "zoo.errors": ("UsageError", "ZooError", "did_you_mean"),
        "zoo.testing": ("check_backbone", "check_strategy", "check_export"),
    }.items():
        module = importlib.import_module(path)
        assert all(getattr(module, name) is not None for name in names), path
    with pytest.raises(AttributeError, match=r"`zoo\.backbone` has no attribute `nothing`"):
        importlib.import_module("zoo.backbone").nothing  # noqa: B018 - it is what is tested


def test_repr_of_a_run(two_splits: Path, tmp_path: Path) -> None:
    run = zoo.train(replace(TINY, data=str(two_splits), epochs=1), out=tmp_path / "run")
    assert repr(zoo.Run.open(run.path)) == repr(run) and "\n" not in repr(run) and len(repr(run)) < 300
    assert f"{run.metrics['accuracy']:.4f} on val" in repr(run) and "finished" in repr(run)


def test_a_run_reports_to_the_logger(
    two_splits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="zoo"):
        run = zoo.train(replace(TINY, data=str(two_splits), epochs=1), out=tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("device cpu") for line in lines)
    assert epoch_line(run.history[0]) in lines
    assert any(
        record.levelno == logging.WARNING and "--weights none" in record.getMessage() for record in caplog.records
    )
    assert capsys.readouterr() == ("", "")  # and to nobody else


RECORD = {"epoch": 3, "phase": "[full]", "train_loss": 0.5, "train_accuracy": 0.75, "images_per_second": 12.3}


def test_progress_bars_are_drawn_in_terminals_and_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(**settings: bool) -> str:
        text = io.StringIO()
        progress = zoo.ProgressBar(Console(file=text, width=100, **settings))  # type: ignore[arg-type]
        progress.start("scan", 10)
        progress.advance(4)
        assert progress.done == 4
        progress.epoch(RECORD)
        progress.warn("[careful]")
        progress.stop()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())

    plain, terminal = shown(force_terminal=False), shown(force_terminal=True)
    assert "scan" not in plain and "scan" in terminal and "4/10" in terminal
    for text in (plain, terminal):  # brackets are no markup
        assert "epoch   3 [full]  train loss 0.5000 accuracy 0.750  12 images/s" in text and "[careful]" in text
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    notebook = zoo.ProgressBar(Console(file=io.StringIO(), force_jupyter=True))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not notebook._draws_bars()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert notebook._draws_bars()


@pytest.mark.parametrize("unit", ["images", "trials"])
def test_a_bar_tells_the_speed_of_images_only_and_gives_way_to_the_next(unit: str) -> None:
    text = io.StringIO()
    progress = zoo.ProgressBar(Console(file=text, width=100, force_terminal=True))
    progress.start("[scan]", 10, unit)
    progress.advance(4)
    progress.start("next", 20, unit)  # the one before has not ended
    progress.advance(5)
    progress.stop()
    progress.note("[noted]")
    progress.warn("[bold]")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "[scan]" in shown and "4/10" in shown and "5/20" in shown and "9/20" not in shown
    assert ("images/s" in shown) == (unit == "images")
    assert "[noted]" in shown and "[bold]" in shown  # brackets are no markup
    assert text.getvalue().count("\x1b[1A\x1b[2K") >= 2  # both were wiped away


@pytest.mark.parametrize(
    ("task", "after", "line"),
    [
        (("epoch 2/4 full", 1000, "images", 2000), (0, 250), "epoch 2/4 full: 250 of 1,000 images, 100 s so far"),
        (("trials", 8, "trials"), (2, 1), "trials: 3 of 8 trials, 100 s so far, about 8 min left"),
        (("trials", 8, "trials"), (2, 0), "trials: 2 of 8 trials, 100 s so far"),
        (("write .onnx in fp32", 0), (0, 0), "write .onnx in fp32: 100 s so far"),
    ],
)
def test_how_far_a_task_is_and_how_long_it_takes(
    task: tuple[Any, ...], after: tuple[int, int], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr(zoo.progress, "perf_counter", lambda: now[0])
    monkeypatch.setattr(zoo.ProgressBar, "_end_silence", lambda *_: None)
    progress = zoo.ProgressBar(Console(file=io.StringIO()))
    progress.start(*task)
    progress.advance(after[0])  # at once: done before
    now[0] += 100
    progress.advance(after[1])
    if task[3:]:
        line += ", about 5 min left, with all that follows 18 min"
    assert progress.standing() == line.replace("100 s", "2 min")
    progress.stop()


def test_silence_without_a_terminal_is_ended_until_the_task_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.progress, "SILENCE", 0.01)
    text, before = io.StringIO(), set(threading.enumerate())
    progress = zoo.ProgressBar(Console(file=text, width=100))
    progress.start("write .onnx in [fp32]", 0)
    while text.getvalue().count("write .onnx in [fp32]: 0 s so far\n") < 2:
        time.sleep(0.005)
    (thread,) = set(threading.enumerate()) - before
    progress.stop()
    thread.join(60)
    assert not thread.is_alive()
    drawn = io.StringIO()
    terminal = zoo.ProgressBar(Console(file=drawn, width=100, force_terminal=True))
    terminal.start("write", 0)  # a bar moves, and there is no thread
    assert not [one for one in set(threading.enumerate()) - before if "_end_silence" in one.name]
    terminal.stop()


def test_epoch_line_of_validated_and_solved_epochs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="zoo"):
        LogProgress().start("a task is no line of its own", 3)
        LogProgress().epoch({**RECORD, "choice_loss": 0.25, "choice_accuracy": 0.5})
        LogProgress().epoch({**RECORD, "solved": {}})
    assert caplog.messages[0].endswith("validation loss 0.2500 accuracy 0.500  12 images/s")
    assert caplog.messages[1].startswith("solved")
