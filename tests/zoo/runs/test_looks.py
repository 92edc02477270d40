"""Looks at locked images: which studies looked at the same images before."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.runs.looks import earlier_looks, read_locked, write_locked
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
