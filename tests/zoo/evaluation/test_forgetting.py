"""Forgetting: a run that goes on from another is scored on what that one could do; and files beside runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests_support import TINY, make_photos

from zoo import Plugins, Predictions, Run, UsageError, ZooError, compare, diff, report, train
from zoo.evaluation.forgetting import measure_forgetting
from zoo.evaluation.reported_images import answers_among
from zoo.evaluation.statistics import paired_difference_interval, paired_group_interval
from zoo_cli.main import run as run_zoo


@pytest.fixture(scope="module")
def later(exported_run: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Path:
    """A run that goes on from `exported_run`, of `red` and a new class; `blue` is gone."""
    folder = tmp_path_factory.mktemp("later")
    data = make_photos(folder / "data", {"train": 6, "val": 4}, classes=("green", "red"))
    asked = replace(TINY, data=str(data), from_run=str(exported_run), strategy="linear,solver=sgd", epochs=1)
    return train(asked, out=folder / "run", plugins=plugins).path


@pytest.fixture
def copy(later: Path, tmp_path: Path) -> Path:
    return shutil.copytree(later, tmp_path / "copy")


def test_what_is_answered_among_some_classes() -> None:
    table = Predictions(
        split="val", classes=("a", "b", "c"), ids=("1", "2", "3"), labels=np.array([0, 1, 1]),
        logits=np.array([[1, 0, 5], [3, 1, 0], [0, 1, 2]], np.float32),
    )  # fmt: skip
    assert table.correct.tolist() == [False, False, False]
    assert answers_among(table, ("b", "a")).tolist() == [True, False, True]


def test_both_are_scored_on_the_images_of_the_earlier_run(copy: Path, exported_run: Path, plugins: Plugins) -> None:
    earlier, run = Run.open(exported_run), Run.open(copy)
    found = measure_forgetting(copy, device="cpu", plugins=plugins)
    table = earlier.predictions()
    red = table.labels == table.classes.index("red")
    assert found.classes == ("red",) and found.images == red.sum() == 6 and found.dropped == 6
    assert (found.before, found.after, found.change) == (1.0, 1.0, 0.0)  # of one class, nothing else can be answered
    from zoo import evaluate

    whole = evaluate(copy, data=make_red(exported_run, copy.parent), device="cpu", plugins=plugins)
    assert found.after_all_classes == whole.metrics["accuracy"]
    assert found.trained_on == 0 and (found.changed, found.gone) == (0, 0)
    kept = Run.open(copy).record["forgetting"]
    assert kept["images"] == 6 and kept["interval_95"] == list(found.interval) and found.interval[0] < 0
    assert not list(copy.glob("predictions-*"))[1:] and len(run.predictions()) == 8
    page = report(copy, plugins=plugins)
    assert "On 6 images of val that it was scored on" in page.html.read_text()
    assert "the one class that both have, where every answer is right" in page.html.read_text()


def test_what_a_new_class_takes_away_is_told_apart(
    exported_run: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Of a run that learnt the earlier run's images of `red` as a new class."""
    data = shutil.copytree(two_splits, tmp_path / "data")
    for split in ("train", "val"):
        shutil.copytree(two_splits / "val" / "red", data / split / "green")
    asked = replace(TINY, data=str(data), from_run=str(exported_run), strategy="linear")
    found = measure_forgetting(train(asked, out=tmp_path / "run", plugins=plugins), device="cpu", plugins=plugins)
    assert (found.images, found.trained_on) == (12, 6) and set(found.classes) == {"blue", "red"}
    assert found.after > found.after_all_classes


def make_red(run: Path, folder: Path) -> Path:
    """The images of `red` alone that a run was scored on."""
    images = folder / "images"
    shutil.copytree(Path(Run.open(run).experiment.data) / "val" / "red", images / "red")
    (images / "green").mkdir()
    return images


def test_images_that_have_changed_or_gone_are_left_out(
    exported_run: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    """Of a parent whose photographs were touched since; without any, a line says so."""
    data = shutil.copytree(two_splits, tmp_path / "data")
    parent = train(replace(TINY, data=str(data), strategy="full", epochs=1), out=tmp_path / "parent", plugins=plugins)
    asked = replace(TINY, data=str(two_splits), from_run=str(parent.path), strategy="full", epochs=1)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    (data / "val" / "red" / "000.jpg").unlink()
    shutil.copy(data / "val" / "red" / "001.jpg", data / "val" / "red" / "002.jpg")
    found = measure_forgetting(run, device="cpu", plugins=plugins)
    assert (found.images, found.changed, found.gone, found.dropped) == (10, 1, 1, 0)
    table = run.predictions()  # the same images: what the run says of them is known
    rows = [index for index, name in enumerate(table.ids) if name not in ("val/red/000.jpg", "val/red/002.jpg")]
    assert found.after == table.correct[rows].mean()
    with pytest.raises(ZooError, match=r"`val/red/002.jpg` has changed since run .* was scored on it, so"):
        diff(exported_run / "model.onnx", parent, plugins=plugins)
    shutil.rmtree(data / "val")
    with pytest.raises(ZooError):
        measure_forgetting(run, device="cpu", plugins=plugins)
    shutil.rmtree(parent.path)
    with pytest.raises(ZooError, match="is gone"):
        measure_forgetting(run, device="cpu", plugins=plugins)


def test_a_run_that_goes_on_from_none_is_told(exported_run: Path, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="goes on from no other run"):
        measure_forgetting(exported_run, plugins=plugins)


def test_the_command_says_what_was_forgotten(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_zoo(["evaluate", str(copy), "--forgotten", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "on 6 images of val" in said and "6 images left out: of classes that the run no longer has" in said
    assert "`red` is the only class of both" in said
    assert run_zoo(["evaluate", str(copy), "--forgotten", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == 6
    assert run_zoo(["evaluate", str(copy), "--forgotten", "--data", "x"]) == 2
    assert "`--data` cannot be given with `--forgotten`" in capsys.readouterr().err


def test_the_interval_over_groups_is_wider() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 6)
    before = np.ones(60, bool)
    after = np.repeat(generator.random(10) < 0.6, 6)  # whole groups are forgotten
    plain, grouped = paired_difference_interval(after, before), paired_group_interval(after, before, groups)
    assert grouped[0] < plain[0] and plain[1] <= grouped[1] <= 1
    same, of_groups = paired_difference_interval(before, before), paired_group_interval(before, before, groups)
    assert of_groups[0] < same[0] < 0 < same[1] < of_groups[1]
    assert paired_group_interval(after, before, np.zeros(60, np.int64)) == (-1.0, 1.0)


def test_a_file_is_compared_with_a_run_by_the_names_of_classes(
    later: Path, exported_run: Path, plugins: Plugins
) -> None:
    """Images of a class that the file does not know are left out, on whichever side the file stands."""
    file = exported_run / "model.onnx"
    found = diff(file, later, plugins=plugins)
    assert found.images == 4 and found.files[0].lacks == ("green",) and found.files[0].more == ("blue",)
    assert found.files[0].left_out == 4 and found.files[0].trained_on is not None
    table = Run.open(later).predictions()
    red = table.labels == table.classes.index("red")
    assert found.after == table.correct[red].mean()
    other = diff(later, file, plugins=plugins)
    assert (other.before, other.after) == (found.after, found.before)
    assert [change.id for change in other.fixed] == [change.id for change in found.broken]
    whole = compare([later, file], plugins=plugins)
    assert whole is not None and whole.accuracies[str(file)] == found.before
    assert whole.accuracies["timm/test_resnet linear,solver=sgd"] == found.after


def test_a_file_says_of_its_own_run_s_images_what_the_run_says(
    exported_run: Path, plugins: Plugins, tmp_path: Path
) -> None:
    found = diff(exported_run, exported_run / "model.onnx", plugins=plugins)
    assert found.images == 12 and not found.fixed and not found.broken and not found.files[0].notes()
    with pytest.raises(UsageError, match="compared only with a run"):
        diff(exported_run / "model.onnx", exported_run / "model.onnx", plugins=plugins)
    with pytest.raises(UsageError, match="compared only with a run"):
        compare([exported_run / "model.onnx"], plugins=plugins)
    with pytest.raises(UsageError, match="there is no run or file"):
        diff(exported_run, tmp_path / "none.onnx", plugins=plugins)
    text = tmp_path / "notes.txt"
    text.write_text("x")
    with pytest.raises(UsageError, match="is not an exported file"):
        diff(exported_run, text, plugins=plugins)


def test_the_commands_take_files(later: Path, exported_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(exported_run / "model.onnx")
    assert run_zoo(["compare", str(later), file]) == 0
    said = capsys.readouterr().err
    assert f"`{file}` does not know `green`: 4 of 8 images are left out" in said and "exported file" in said
    assert run_zoo(["diff", file, str(later)]) == 0
    assert "4 photographs of val" in capsys.readouterr().err
    assert run_zoo(["compare", file]) == 2
