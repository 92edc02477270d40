"""Looks at locked images: which studies looked at the same images before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo.runs.looks import STUDY_FILE, TRIALS, earlier_looks, note_look, read_locked, read_looks, study_of, write_locked
from zoo.runs.run import LEDGER_FILE


def make(folder: Path, contents: str, looks: int) -> Path:
    folder.mkdir()
    write_locked(folder, contents)
    (folder / LEDGER_FILE).write_text("{}\n" * looks)
    return folder


@pytest.mark.parametrize(
    ("contents", "looks", "found"),
    [
        ("abc", 2, {"other": 2}),  # the same images
        ("cdef", 1, {"other": 1}),  # one image of them is enough
        ("a", 3, {"other": 3}),
        ("abcdef", 1, {"other": 1}),
        ("def", 5, {}),
        ("abc", 0, {}),
    ],
)
def test_studies_that_looked_at_some_of_the_same_images(
    contents: str, looks: int, found: dict[str, int], tmp_path: Path
) -> None:
    study = make(tmp_path / "this", "abc", 4)
    make(tmp_path / "other", contents, looks)
    assert read_locked(study) == {"a", "b", "c"}
    assert earlier_looks(study) == found


def test_a_study_without_locked_images_has_no_earlier_looks(tmp_path: Path) -> None:
    study = make(tmp_path / "this", "", 0)
    make(tmp_path / "other", "abc", 1)
    assert earlier_looks(study) == {}


@pytest.mark.parametrize(
    ("locked", "split", "contents", "images"),
    [
        ("abc", "test", "abx", 2),
        ("abc", "anything", "c", 1),  # whatever the split is called
        ("abc", "test", "xyz", None),
        ("", "test", "abc", 0),  # of an older version, which knows its locked images by name only
        ("", "all", "abc", 0),
        ("", "val", "abc", None),
    ],
)
def test_a_look_is_an_evaluation_that_saw_a_locked_image(
    locked: str, split: str, contents: str, images: int | None, tmp_path: Path
) -> None:
    study = make(tmp_path / "study", locked, 0)
    if not locked:
        (study / "locked.json").unlink()
    (study / STUDY_FILE).touch()
    run = SimpleNamespace(is_final=False, path=study / TRIALS / "trial", record={"id": "r"})
    told = note_look(run, split, contents, 0.5)  # type: ignore[arg-type]
    looks = [(look["split"], look["name"], look["by"], look["images"], look["accuracy"]) for look in read_looks(study)]
    assert looks == ([] if images is None else [(split, "trial", "evaluate", images, 0.5)])
    assert told == (None if images is None else study)
    alone = SimpleNamespace(is_final=False, path=tmp_path / "runs" / "r", record={"id": "r"})
    assert note_look(alone, split, contents, 0.5) is None  # type: ignore[arg-type]


def test_folds_and_final_runs_belong_to_the_study_of_their_trial(tmp_path: Path) -> None:
    study = tmp_path / "s"
    study.mkdir()
    (study / STUDY_FILE).write_text("{}")
    trial, outside = study / TRIALS / "trial", tmp_path / "final"

    def found(path: Path, of: Path | None = None) -> Path | None:
        record = {"final": {"run": str(of)}} if of is not None else {}
        return study_of(SimpleNamespace(path=path, record=record, is_final=of is not None))  # type: ignore[arg-type]

    assert found(trial) == found(trial / "folds" / "2") == found(study / "finals" / "trial", trial) == study
    assert found(outside, trial) == study
    assert found(outside) is None and found(outside, tmp_path / "run") is None
