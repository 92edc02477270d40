"""The text of `--data` in its parts; and a run's own division wherever its data are opened again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from messages import refused
from tests_support import TINY, make_photos

from zoo import Plugins, Run, ZooError, evaluate, export, train, train_final, verify
from zoo.data.division import Division, divided_like, undivided
from zoo.data.opening import open_to_score
from zoo.data.split_table import with_split_table
from zoo.evaluation.statistics import accuracy_interval
from zoo_cli.main import run as run_zoo

TABLE = 'splits:"/a ""b"".csv":'


def test_parts_of_the_text() -> None:
    for text in ("photos", "locked:photos", f"{TABLE}photos", f"fold:2/5:locked:{TABLE}csv:a.csv,path=b"):
        assert str(Division.of(text)) == text
    assert Division.of(f"{TABLE}locked:photos") == Division("locked:", '/a "b".csv', "photos")
    own = f"fold:1/2:{TABLE}photos"
    assert divided_like(own, "moved") == f"fold:1/2:{TABLE}moved"
    assert divided_like(own, "moved", words=False) == f"{TABLE}moved"
    assert divided_like(own, 'locked:splits:"/c.csv":moved') == 'locked:splits:"/c.csv":moved'
    assert undivided(own) == "photos"


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Run:
    """A run on class folders that a table divides against the order of names, with groups in the names."""
    folder = tmp_path_factory.mktemp("divided")
    photos = make_photos(folder / "photos", {"": 12})
    rows = [
        f"{label}/{index:03d}.jpg,{'test' if index < 2 else 'val' if index < 5 else 'train'}"
        for label in ("blue", "red")
        for index in range(12)
    ]
    (folder / "splits.csv").write_text("path,split\n" + "\n".join(rows) + "\n")
    data = with_split_table(folder / "splits.csv", str(photos))
    asked = replace(TINY, data=data, strategy="full", epochs=1, group=r"(\d)\.jpg")
    return train(asked, out=folder / "run", plugins=plugins)


def _copy(run: Run, to: Path) -> tuple[Run, Path]:
    """A copy of the run, and of its photographs, which are gone from where they were."""
    where = shutil.copytree(run.path.parent, to / "all")
    record = (where / "run" / "run.json").read_text().replace(str(run.path.parent / "photos"), str(to / "gone"))
    (where / "run" / "run.json").write_text(record.replace(str(run.path.parent), str(where)))
    return Run.open(where / "run"), where / "photos"


def test_every_command_divides_moved_data_as_the_run_did(divided: Run, tmp_path: Path, plugins: Plugins) -> None:
    run, moved = _copy(divided, tmp_path)
    ids = set(run.predictions().ids)
    with refused(ZooError, "gone", "--data"):
        export(run, plugins=plugins)
    file = export(run, data=str(moved), plugins=plugins).path
    assert verify(file, data=str(moved), plugins=plugins)[-1].passed
    for model in (run, file):
        found = evaluate(model, data=str(moved), plugins=plugins)
        assert set(found.predictions.ids) == ids and found.predictions.split == "val" and found.fitted == 0
        assert found.predictions.groups is not None
        assert found.interval() == pytest.approx(accuracy_interval(run.predictions()))
        assert len(evaluate(model, data=str(moved), split="test", plugins=plugins).predictions) == 4


def test_a_deleted_table_of_splits(divided: Run, tmp_path: Path, plugins: Plugins) -> None:
    """Exporting needs the images by their names alone; what needs splits says how to pass them."""
    run, moved = _copy(divided, tmp_path)
    table = tmp_path / "elsewhere.csv"
    (run.path.parent / "splits.csv").rename(table)
    file = export(run, data=str(moved), plugins=plugins).path
    with refused(ZooError, "splits.csv", "--splits"):
        evaluate(run, data=str(moved), split="val", plugins=plugins)
    assert run_zoo(["verify", str(file), "--data", str(moved), "--splits", str(table)]) == 0
    assert run_zoo(["export", str(run.path), "--data", str(moved), "--splits", str(table), "--force"]) == 0
    assert run_zoo(["evaluate", str(run.path), "--data", str(moved), "--splits", str(table)]) == 0


def test_a_final_run_of_a_table_of_splits(divided: Run, tmp_path: Path, plugins: Plugins) -> None:
    final = train_final(divided, out=tmp_path / "final", plugins=plugins)
    photos = str(divided.path.parent / "photos")
    assert len(final.fitted()) == 20 and len(evaluate(final, split="test", plugins=plugins).predictions) == 4
    file = export(final, plugins=plugins).path
    before = len((final.path / "ledger.jsonl").read_text().splitlines())
    stored = {name.name: name.read_bytes() for name in final.path.glob("predictions-*")}
    for split, count in ((None, 6), ("test", 4)):
        checks = verify(file, data=photos, split=split, plugins=plugins)
        assert checks[-1].passed and f"{count} of {count} labels" in checks[-1].detail
    lines = (final.path / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == before + 2  # one for each: what the file gave
    assert all(json.loads(line)["model"] == str(file) for line in lines[before:])
    assert stored == {name.name: name.read_bytes() for name in final.path.glob("predictions-*")}


def test_groups_are_read_where_a_run_is_scored_again(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = replace(TINY, data=str(two_splits), strategy="linear", group=r"(\d)\.jpg")
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    assert run.predictions().groups is not None
    assert evaluate(run, plugins=plugins).predictions.groups == run.predictions().groups
    moved = shutil.copytree(two_splits, tmp_path / "moved")
    assert evaluate(run, data=moved, plugins=plugins).predictions.groups == run.predictions().groups
    assert open_to_score(str(moved), 0, plugins).splits["val"][0].group is None
