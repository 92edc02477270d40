"""`--exclude`: what a person has marked is left out, all else stays, and what cannot be understood is told."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused
from tests_support import TINY

from zoo import Images, Plugins, Run, Sample, UsageError, ZooError, evaluate, resume, train, train_final
from zoo.data.exclusion import exclude, match, read_exclusion
from zoo.data.spreadsheet import FORMULA, csv_text, defused, read_csv, restored

IDS = ("train/a/1.jpg", "train/a/2.jpg", "=1+1.jpg", "'quoted", 'b, "c".jpg', "two\nlines.jpg", "+x", "@x", "\tx")

MARKED = (2, 3, 4, 5, 8)


def images(ids: tuple[str, ...] = IDS) -> Images:
    pixels = np.zeros((2, 2, 3), np.uint8)
    train_part = tuple(Sample(name, "ab"[index % 2], pixels) for index, name in enumerate(ids))
    val_part = (Sample("val/a", "a", pixels), Sample("val/b", "b", pixels))
    return Images(name="some", classes=("a", "b"), splits={"train": train_part, "val": val_part})


@given(st.text(max_size=8))
def test_cells_come_back_and_none_is_a_formula(text: str) -> None:
    cell = defused(text)
    assert restored(cell) == text
    assert not cell.startswith(FORMULA[:-1])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, unique=True))
def test_every_id_comes_back_exactly(ids: list[str]) -> None:
    text = csv_text(("exclude", "id"), [["yes", name] for name in ids])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [restored(row[1]) for row in rows[1:]] == ids


def test_marked_rows_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "doctor.csv"
    file.write_text(
        csv_text(("exclude", "id", "why"), [["yes" if i in MARKED else "", name, "-"] for i, name in enumerate(IDS)])
    )
    kept, left_out = exclude(images(), read_exclusion(file))
    assert left_out == {IDS[index] for index in MARKED}
    assert [sample.id for sample in kept.splits["train"]] == [
        name for index, name in enumerate(IDS) if index not in MARKED
    ]


def test_a_spreadsheet_s_own_spelling_is_understood(tmp_path: Path) -> None:
    """A byte order mark, semicolons, capitals, other line ends, columns in another order, and empty lines."""
    file = tmp_path / "doctor.csv"
    file.write_bytes("\ufeffID;why;Exclude\r\ntrain/a/1.jpg;x;YES\r\n;;\r\ntrain/a/2.jpg;y;no\r\n".encode())
    assert read_exclusion(file).ids == ("train/a/1.jpg",)


def test_a_plain_list_of_ids_counts_whole(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("id\ntrain/a/1.jpg\ntrain/a/1.jpg\ntrain/a/2.jpg\n")
    assert read_exclusion(file).ids == ("train/a/1.jpg", "train/a/2.jpg")


def test_ids_that_are_not_in_the_data_are_told(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("id\ntrain/a/1.jpg\ngone.jpg\n")
    found, notes = match(images(), read_exclusion(file))
    assert found == {"train/a/1.jpg"} and any("`gone.jpg`" in note for note in notes)
    file.write_text("id\ngone.jpg\n")
    with refused(ZooError, "other data", "gone.jpg"):
        match(images(), read_exclusion(file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["doctor.csv", "empty"]),
        ("name,why\nx,y\n", ["no column `id`", "name"]),
        ("exclude,id\nmaybe,train/a/1.jpg\n", ["line 2", "maybe", "yes"]),
        ("exclude,id\nyes\n", ["line 2", "1 cell"]),
        ("exclude,id\nyes,\n", ["line 2", "`id` is empty"]),
        ("id,id\na,b\n", ["doctor.csv", "two columns `id`"]),
        ('exclude,id\nyes,"open\n', ["doctor.csv", "not a CSV file"]),
        (b"\xff\xfe\x00i", ["doctor.csv", "not a text in UTF-8"]),
    ],
)
def test_a_badly_edited_file_is_one_clear_line(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    file = tmp_path / "doctor.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with refused(ZooError, *words):
        read_exclusion(file)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with refused(UsageError, "none.csv", "no such file"):
        read_exclusion(tmp_path / "none.csv")
    with refused(UsageError, "--exclude", "is a folder"):
        read_exclusion(tmp_path)


def test_a_class_is_never_emptied(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("id\nval/a\n")
    with refused(ZooError, "--exclude", "class `a`", "`val`"):
        exclude(images(), read_exclusion(file))


def test_read_csv_bounds_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.spreadsheet.MOST_BYTES", 10)
    (tmp_path / "big.csv").write_text("id\n" + "x" * 20)
    with refused(ZooError, "big.csv", "larger"):
        read_csv(tmp_path / "big.csv", "--exclude")


def test_a_run_records_what_it_left_out_and_is_scored_without_it(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(two_splits, tmp_path / "data")
    gone = ["train/red/000.jpg", "val/blue/001.jpg"]
    monkeypatch.chdir(tmp_path)
    Path("doctor.csv").write_text(csv_text(("exclude", "id"), [["yes", name] for name in gone]))
    experiment = replace(TINY, data=str(data), exclude="doctor.csv", strategy="linear")
    run = train(experiment, out=tmp_path / "run", plugins=plugins)
    record = json.loads((run.path / "run.json").read_text())
    assert record["exclude"]["images"] == gone and len(record["exclude"]["sha256"]) == 64
    assert record["experiment"]["exclude"] == str(tmp_path / "doctor.csv")
    used = {name for ids in run.splits()["roles"].values() for name in ids}
    assert not used & set(gone)
    Path("doctor.csv").unlink()  # the run knows what it left out
    monkeypatch.chdir("/")
    scored = evaluate(run, plugins=plugins)
    assert "val/blue/001.jpg" not in scored.predictions.ids and len(scored.predictions) == 11
    (tmp_path / "more.csv").write_text("id\nval/red/002.jpg\n")
    assert len(evaluate(run, exclude=tmp_path / "more.csv", plugins=plugins).predictions) == 10


@pytest.mark.parametrize("folds", [None, 2])
def test_a_run_keeps_its_list(folds: int | None, two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    marked = tmp_path / "marked.csv"
    marked.write_text("id\ntrain/red/000.jpg\n")
    asked = replace(TINY, data=str(two_splits), exclude=str(marked), strategy="linear", folds=folds)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    assert (run.path / "exclude.csv").read_bytes() == marked.read_bytes()
    marked.write_text("id\ntrain/red/001.jpg\n")  # a stopped run goes on as it began
    lost = run.path if folds is None else run.path / "folds" / "2"
    (lost / "predictions-val.safetensors").unlink()
    for path in {run.path, lost}:
        Run.open(path).update(status="interrupted")
    again = resume(run.path, plugins=plugins)
    assert again.status == "finished" and (again.predictions().logits == run.predictions().logits).all()
    marked.unlink()
    final = train_final(again, out=tmp_path / "final", plugins=plugins)
    assert "train/red/000.jpg" not in final.fitted() and "train/red/001.jpg" in final.fitted()
    assert (final.path / "exclude.csv").read_bytes() == b"id\ntrain/red/000.jpg\n"
    (run.path / "exclude.csv").write_text("id\ntrain/red/002.jpg\n")
    with refused(ZooError, "exclude.csv", "has changed since the run began"):
        train_final(again, out=tmp_path / "other", plugins=plugins)
    (run.path / "exclude.csv").unlink()  # as in a run of an earlier version
    with refused(ZooError, str(marked), "is gone", "under `exclude`"):
        train_final(again, out=tmp_path / "other", plugins=plugins)
