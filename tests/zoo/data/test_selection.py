"""`--on-leak drop` and `--leak-check near`: what leaks is left out of the earlier split, and said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from messages import refused
from PIL import Image, ImageOps
from tests_support import TINY

from zoo import Plugins, ZooError, train
from zoo.data.leakage import digests, find_leaks
from zoo.data.selection import select_images
from zoo.studies.runner import study
from zoo.studies.study import Study


@pytest.fixture
def leaking(three_splits: Path, tmp_path: Path) -> Path:
    """Copies of train in val and test, of val in test, with two labels, and within train; and a mirrored one."""
    data = shutil.copytree(three_splits, tmp_path / "data")
    for source, target in (
        ("train/red/000.jpg", "val/red/copy.jpg"),
        ("val/blue/000.jpg", "test/blue/copy.jpg"),
        ("train/red/001.jpg", "train/blue/copy.jpg"),
        ("train/blue/002.jpg", "train/blue/again.jpg"),
    ):
        shutil.copyfile(data / source, data / target)
    with Image.open(data / "train/red/003.jpg") as image:
        ImageOps.mirror(image).save(data / "test/red/mirrored.jpg", quality=95)
    return data


GONE = {"train/red/000.jpg", "val/blue/000.jpg", "train/red/001.jpg", "train/blue/copy.jpg", "train/blue/again.jpg"}


def test_drop_leaves_no_leak(leaking: Path, plugins: Plugins) -> None:
    chosen = select_images(replace(TINY, data=str(leaking), on_leak="drop"), plugins)
    assert set(chosen.dropped) == GONE
    assert not find_leaks({role: digests(part) for role, part in chosen.images.splits.items()})
    assert any("--on-leak drop" in note and "5 images" in note for note in chosen.images.notes)
    assert all((leaking / name).is_file() for name in chosen.dropped)  # nothing is deleted


def test_near_duplicates_are_leaks_only_where_asked_for(leaking: Path, plugins: Plugins) -> None:
    experiment = replace(TINY, data=str(leaking))
    assert select_images(experiment, plugins).near == ()
    near = select_images(replace(experiment, leak_check="near"), plugins).near
    assert {sample.id for leak in near for _, sample in leak.images} == {"train/red/003.jpg", "test/red/mirrored.jpg"}
    dropped = select_images(replace(experiment, leak_check="near", on_leak="drop"), plugins)
    assert "train/red/003.jpg" in dropped.dropped and dropped.near == ()


def test_train_drops_and_records(leaking: Path, tmp_path: Path, plugins: Plugins) -> None:
    experiment = replace(TINY, data=str(leaking), strategy="linear", leak_check="near")
    with refused(ZooError, "mirrored", "--on-leak drop"):
        train(replace(experiment, on_leak="fail"), out=tmp_path / "failed", plugins=plugins)
    run = train(replace(experiment, on_leak="drop"), out=tmp_path / "run", plugins=plugins)
    record = json.loads((run.path / "run.json").read_text())
    assert "train/red/003.jpg" in record["dropped"] and record["leaks"] == []
    used = {name for ids in run.splits()["roles"].values() for name in ids}
    assert not used & set(record["dropped"])


def test_a_study_may_drop_what_overlaps_its_locked_split(
    leaking: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"weights": "none", "image_size": 32, "device": "cpu"}
    asked = Study(data=str(leaking), backbones=(TINY.backbone,), strategies=("linear",), seeds=(0,), settings=settings)
    with refused(ZooError, "overlaps another", "--on-leak drop"):
        study(asked, out=tmp_path / "refused", plugins=plugins)

    class Begun(Exception):
        """The leaks were checked, and the study begins."""

    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr("zoo.studies.runner.StudySession", begin)
    with pytest.raises(Begun):
        study(replace(asked, settings={**settings, "on_leak": "drop"}), out=tmp_path / "study", plugins=plugins)
