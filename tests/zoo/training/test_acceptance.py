"""What is accepted: `plan` refuses what `train` refuses, with the same words; leaks of folds are found by fold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests_support import TINY, make_photos

from zoo import Plugins, Run, Study, ZooError, plan, study, train
from zoo.data.folds import make_folds
from zoo.data.opening import open_images
from zoo.progress import Silent


class Told(Silent):
    """Collects notes and warnings."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), {"": 14})


@pytest.fixture(scope="module")
def copied(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs with an exact copy in another split and another fold, and two equal files that are no images."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("copied") / "photos")
    ids = [one.id for one in open_images(str(folder), 0, Plugins()).splits["train"] if one.label == "red"]
    for number in range(3):
        shutil.copy(folder / ids[number], folder / "red" / f"copy{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def damaged(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs and some equal files that are no images, which are no leak: they are left out."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("damaged") / "photos")
    for number in range(12):
        (folder / "red" / f"bad{number}.jpg").write_text("no image")
    return folder


def _pattern(seed: int, size: int) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return Image.fromarray(colours).resize((256, 256), Image.Resampling.BICUBIC).resize((size, size))


@pytest.fixture(scope="module")
def near(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """The photographs with one image, and a smaller one of it, in two folds of `train`; and their ids."""
    folder = shutil.copytree(photos, tmp_path_factory.mktemp("near") / "photos")
    divided = make_photos(folder / "of", {"train": 8, "test": 4})
    pool = open_images(str(divided), 0, Plugins()).splits["train"]
    first, second = (next(one.id for one in fold if one.label == "red") for fold in make_folds(pool, 2, 0))
    _pattern(0, 256).save(divided / first, quality=95)
    _pattern(0, 160).save(divided / second, quality=95)
    return divided, (first, second)


CASES: dict[str, dict[str, Any]] = {
    "drop with folds": {"folds": 2, "on_leak": "drop"},
    "more folds than images": {"folds": 13},
    "a final run": {"data": "final:{photos}"},
    "folds of a final run": {"data": "final:{photos}", "folds": 2},
    "a copy in two splits": {"data": "{copied}", "on_leak": "fail"},
    "a copy in two folds": {"data": "{copied}", "on_leak": "fail", "folds": 4},
    "a near duplicate in two folds": {"data": "{near}", "on_leak": "fail", "leak_check": "near", "folds": 2},
    "groups in two splits": {"data": "{near}", "group": r"(\d)\.jpg", "on_leak": "fail"},
    "a pattern that is none": {"group": "("},
    "a pattern that matches nothing": {"group": "zebra", "folds": 2},
    "a list that is gone": {"exclude": "{photos}/gone.csv"},
    "a list of other data": {"exclude": "{tmp}/other.csv"},
    "a list that empties a class of a fold": {"exclude": "{tmp}/fold.csv", "folds": 4},
    "no such backbone": {"backbone": "inceptionv9"},
    "no such strategy": {"strategy": "lineal", "folds": 2},
    "epochs of a head that is solved alone": {"strategy": "knn:3", "epochs": 2},
    "no data": {"data": "{tmp}/nowhere"},
    "a fold that is none": {"data": "fold:3/2:{photos}"},
    "accepted": {},
    "accepted folds": {"folds": 2},
    "accepted with copies": {"data": "{copied}", "folds": 2},
    "accepted, files that are no images": {"data": "{damaged}", "on_leak": "fail"},
    "accepted folds, files that are no images": {"data": "{damaged}", "on_leak": "fail", "folds": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_plan_refuses_what_train_refuses(
    name: str,
    photos: Path,
    copied: Path,
    damaged: Path,
    near: tuple[Path, tuple[str, str]],
    tmp_path: Path,
    plugins: Plugins,
) -> None:
    (tmp_path / "other.csv").write_text("id\nzebra.jpg\n")
    pool = [one for role in ("train", "val") for one in open_images(str(photos), 0, plugins).splits[role]]
    emptied = [
        one.id for one in make_folds(pool, 4, 0)[2] if one.label == "red"
    ]  # which the first fold does not hold out
    (tmp_path / "fold.csv").write_text("id\n" + "".join(f"{one}\n" for one in emptied))
    places = {"photos": photos, "copied": copied, "damaged": damaged, "near": near[0], "tmp": tmp_path}
    settings = {
        key: value.format(**places) if key in ("data", "exclude") else value for key, value in CASES[name].items()
    }
    asked = replace(TINY, **{"data": str(photos), "strategy": "linear", **settings})
    answers = []
    for ask in (lambda: plan(asked, plugins=plugins), lambda: train(asked, out=tmp_path / "run", plugins=plugins)):
        try:
            ask()
            answers.append("accepted")
        except ZooError as error:
            answers.append(f"{type(error).__name__}: {error.message}")
    assert answers[0] == answers[1] and (answers[0] == "accepted") == name.startswith("accepted")
    assert answers[0] == "accepted" or not (tmp_path / "run").exists()  # refused before anything is trained


def test_near_duplicates_in_two_folds_are_told_once(
    near: tuple[Path, tuple[str, str]], tmp_path: Path, plugins: Plugins
) -> None:
    folder, (first, second) = near
    progress = Told()
    asked = replace(TINY, data=str(folder), strategy="linear", folds=2, leak_check="near")
    run = train(asked, out=tmp_path / "run", plugins=plugins, progress=progress)
    (told,) = [text for text in progress.warnings if "near duplicate" in text]
    assert f"`{first}` (fold 1) = `{second}` (fold 2)" in told
    (leak,) = run.record["leaks"]
    assert {image["role"] for image in leak["images"]} == {"fold 1", "fold 2"} and leak["near"]


def test_a_study_of_folds_finds_near_duplicates_in_two_folds(
    near: tuple[Path, tuple[str, str]], tmp_path: Path, plugins: Plugins
) -> None:
    folder, (first, _) = near
    settings = {"image_size": 32, "weights": "none", "folds": 2, "leak_check": "near", "on_leak": "fail"}
    asked = Study(data=str(folder), backbones=("timm/test_resnet",), strategies=("linear",), settings=settings)
    with pytest.raises(ZooError, match=rf"`{first}` \(fold 1\)"):
        study(asked, out=tmp_path / "study", plugins=plugins)
    assert not (tmp_path / "study").exists()


def test_what_folds_share_is_told_once(copied: Path, tmp_path: Path, plugins: Plugins) -> None:
    data = shutil.copytree(copied, tmp_path / "photos")
    (data / "red" / "bad.jpg").write_text("no image")
    first = open_images(str(data), 0, plugins).splits["train"][0].id
    (tmp_path / "list.csv").write_text(f"id\n{first}\n")
    progress = Told()
    asked = replace(TINY, data=str(data), strategy="linear", folds=3, exclude=str(tmp_path / "list.csv"))
    run = train(asked, out=tmp_path / "run", plugins=plugins, progress=progress)
    lines = [*progress.notes, *progress.warnings]
    assert len(lines) == len(set(lines))
    for words in (
        "2 classes: blue red",
        "left out because",
        "1 image is left out",
        "in two parts of the data",
        "fold 2 of 3",
    ):
        assert sum(words in text for text in lines) == 1, words
    for fold in run.folds:  # each of which says of itself what it would say alone
        assert any("2 classes" in note for note in fold.record["notes"]) and fold.record["bad_images"]
    assert any(fold.record["leaks"] for fold in run.folds) and Run.open(run.path).record["leaks"]
