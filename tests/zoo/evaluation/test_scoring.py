"""Which images `evaluate` scores: of a run's own data a split, of other data all that there are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from messages import refused
from tests_support import TINY, make_photos

from zoo import ZooError, evaluate, train
from zoo.plugin import Plugins
from zoo.runs.run import Run


@pytest.fixture
def run(exported_run: Path, tmp_path: Path) -> Run:
    """A run that may be scored."""
    shutil.copytree(exported_run, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_other_data_are_scored_whole(run: Run, tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "new", {"": 5})
    found = evaluate(run, data=str(root), plugins=plugins)
    assert len(found.predictions) == 10 and found.predictions.split == "all"
    assert any("scored whole: 10 images" in note for note in found.notes) and found.to_json()["notes"] == list(
        found.notes
    )
    assert len(evaluate(run, data=str(root), split="val", plugins=plugins).predictions) == 2
    shutil.rmtree(root / "red")
    (root / "blue/IMG.HEIC").write_bytes(b"x")
    found = evaluate(run, data=str(root), plugins=plugins)
    assert len(found.predictions) == 5 and [file.id for file in found.bad] == ["blue/IMG.HEIC"]


def test_a_test_split_alone_is_scored(run: Run, tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "new", {"test": 2})
    found = evaluate(run, data=str(root), plugins=plugins)
    assert len(found.predictions) == 4 and found.predictions.split == "test"


def test_of_bad_files_those_of_the_scored_split_are_told(run: Run, tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "new", {"val": 2, "test": 2})
    for split in ("val", "test"):
        (root / split / "red/notes.txt").touch()
        found = evaluate(run, data=str(root), split="val", plugins=plugins)
        assert [file.id for file in found.bad] == ["val/red/notes.txt"]


def test_the_run_s_own_data_stay_split_wherever_they_lie(tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "photos", {"": 10})
    run = train(replace(TINY, data=str(root), strategy="linear"), out=tmp_path / "run", plugins=plugins)
    reported = run.predictions()
    (tmp_path / "link").symlink_to(root)
    shutil.copytree(root, tmp_path / "copy")
    for data in (None, str(root), f"{tmp_path}/run/../photos", str(tmp_path / "link"), str(tmp_path / "copy")):
        found = evaluate(run, data=data, plugins=plugins).predictions
        assert found.ids == reported.ids and found.split == "val", data
    grown = shutil.copytree(root, tmp_path / "grown")  # which would be divided anew, with fitted images in `val`
    for name in ("more", "still more"):
        shutil.copy(root / "red/000.jpg", grown / f"red/{name}.jpg")
    assert evaluate(run, data=str(grown), plugins=plugins).predictions.split == "all"
    for file in (tmp_path / "copy").rglob("*.jpg"):  # other photographs of the same names
        file.write_bytes((root / "red/000.jpg").read_bytes())
    assert len(evaluate(run, data=str(tmp_path / "copy"), plugins=plugins).predictions) == 20


def test_classes_are_matched_in_both_unicode_forms(run: Run, tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "new", {"": 2})
    (root / "red").rename(root / "Red")
    with refused(ZooError, "model", "`Red`") as error:
        evaluate(run, data=str(root), plugins=plugins)
    assert error.value.hint is not None and "`red`" in error.value.hint
    run = run.update(classes=["blue", "cafe\u0301"])  # as macOS writes it
    (root / "Red").rename(root / "caf\u00e9")
    assert evaluate(run, data=str(root), plugins=plugins).predictions.labels.tolist() == [0, 0, 1, 1]
    run = run.update(classes=["caf\u00e9", "cafe\u0301"])  # two classes, on a system that tells them apart
    shutil.rmtree(root / "blue")
    assert evaluate(run, data=str(root), plugins=plugins).predictions.labels.tolist() == [0, 0]
