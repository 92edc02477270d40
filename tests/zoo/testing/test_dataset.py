"""The laws of datasets hold for the built-in ones, and find those that break them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import refused, unsaid
from with_row import with_row

from zoo.dataset import Dataset, Images, Sample
from zoo.errors import UsageError, ZooError
from zoo.plugin import Plugins
from zoo.testing import NotChecked, Violation, check_dataset


@pytest.fixture(scope="module")
def folder(two_splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs as a folder, an archive, a table and a list."""
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(two_splits, root / "photos")
    shutil.make_archive(str(root / "photos"), "zip", root / "photos")
    files = sorted(file.relative_to(root) for file in (root / "photos").rglob("*.jpg"))
    rows = [f"{file},{file.parent.name},{file.parts[1]}" for file in files]
    (root / "table.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    for split in ("train", "val"):
        mine = [f"{file} {file.parent.name}" for file in files if file.parts[1] == split]
        (root / f"{split}.txt").write_text("\n".join(mine) + "\n")
    return root


@pytest.mark.parametrize(
    "data",
    ["digits", "folder:photos", "folder:photos/train", "folder-leaf:photos/train", "folder-top:photos/train",
     "zip:photos.zip", "csv:table.csv", "list:train.txt,val.txt"],
)  # fmt: skip
def test_built_in_datasets(data: str, folder: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    check_dataset(data, plugins=plugins)
    assert Path.cwd() == folder


def test_every_built_in_dataset_explains_an_argument_that_is_missing(plugins: Plugins) -> None:
    checked = []
    for entry in plugins.datasets:
        try:
            check_dataset(entry.name, plugins=plugins)
            checked.append(entry.name)
        except NotChecked as reason:
            assert reason.hint is not None and f"`--data {entry.name}:ARGUMENT`" in reason.hint
    assert checked == ["digits"]


PIXELS = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)


def good(seed: int = 0, **changes: Any) -> Images:
    """Sixteen images of two classes, a quarter of them drawn for `val`."""
    order = random.Random(seed).sample(range(16), 16)
    samples = [Sample(f"{place:02d}", "ab"[place % 2], PIXELS[place]) for place in order]
    splits: dict[Any, Any] = {"train": tuple(samples[4:]), "val": tuple(samples[:4])}
    return replace(Images(name="good", classes=("a", "b"), splits=splits, drawn=True), **changes)


class Once:
    """A source that can be read once."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def open(self) -> Any:
        found, self.pixels = self.pixels, 255 - self.pixels
        return found


class Failing:
    def open(self) -> Any:
        raise KeyError("image")


def with_source(make: Callable[[Any], Any]) -> Images:
    images = good()
    splits: dict[Any, Any] = {
        role: tuple(Sample(one.id, one.label, make(PIXELS[int(one.id)])) for one in part)
        for role, part in images.splits.items()
    }
    return replace(images, splits=splits)


def refuse(error: Exception) -> Images:
    raise error


@pytest.mark.parametrize(
    ("opened", "words"),
    [
        (lambda argument, seed: good(random.randrange(10**9)), ("split seed", "random.Random(split_seed)")),
        (lambda argument, seed: good(seed, drawn=False), ("follow the split seed", "`drawn=True`")),
        (lambda argument, seed: replace(good(), splits={**good().splits, "val": good().splits["val"][: 4 - seed]}),
         ("another split seed gives other images",)),
        (lambda argument, seed: good(classes=("b", "a")), ("not sorted", "b a")),
        (lambda argument, seed: good(splits={"train": good().splits["train"]}), ("no split but train",)),
        (lambda argument, seed: good(classes=("a", "b", "c")), ("class `c`", "no image in `train`")),
        (lambda argument, seed: good(classes=("a",)), ("the label `b`", "not a class")),
        (lambda argument, seed: with_source(Once), ("other pixels", "read again")),
        (lambda argument, seed: with_source(lambda pixels: Failing()), ("none of the images", "Failing")),
        (lambda argument, seed: with_source(lambda pixels: Path("nowhere.jpg")), ("none of the images", "nowhere.jpg")),
        (lambda argument, seed: refuse(KeyError("column")), ("names nothing", "KeyError: 'column'", "zoo.UsageError")),
        (lambda argument, seed: None, ("NoneType", "zoo.Images")),
        (lambda argument, seed: good() if argument in ("", "x") else refuse(ValueError("no file")), ("ValueError",)),
    ],
)  # fmt: skip
def test_a_broken_dataset_is_found(opened: Callable[[str, int], Any], words: tuple[str, ...]) -> None:
    plugins = with_row("datasets", Dataset(name="broken", summary="x", open=opened))
    for data in ("broken", "broken:x"):
        with pytest.raises((Violation, ZooError)) as caught:
            check_dataset(data, plugins=plugins)
        told = str(caught.value)
        assert "\n" not in told.partition("\n\nhint: ")[0] and not unsaid(told, "broken", *words), told


def test_a_good_dataset_passes() -> None:
    check_dataset("good", plugins=with_row("datasets", Dataset(name="good", summary="x", open=lambda a, s: good(s))))


def test_a_path_that_is_not_made_absolute_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    from zoo_datasets.folder import open_folder

    row = Dataset(name="broken", summary="x", open=open_folder)
    with refused(Violation, "broken:photos", "another folder") as caught:
        check_dataset("broken:photos", plugins=with_row("datasets", row))
    assert caught.value.hint is not None and "`absolute`" in caught.value.hint
    again = replace(row, absolute=lambda argument: os.path.relpath(argument))
    with refused(Violation, "another folder", "broken"):
        check_dataset("broken:photos", plugins=with_row("datasets", again))
    check_dataset(
        "broken:photos", plugins=with_row("datasets", replace(row, absolute=lambda one: str(Path(one).resolve())))
    )


def test_images_that_are_left_out_when_they_are_scored_are_found() -> None:
    def without_train(argument: str) -> Images:
        return good(splits={"val": good().splits["val"]})

    row = Dataset(name="broken", summary="x", open=lambda argument, seed: good(seed), open_to_score=without_train)
    with refused(Violation, "broken", "`open_to_score` leaves out"):
        check_dataset("broken", plugins=with_row("datasets", row))


def test_a_wrong_argument_is_a_usage_error(plugins: Plugins) -> None:
    for data in ("folder:nowhere", "csv:nowhere.csv"):
        with refused(UsageError, "nowhere", "does not exist"):
            check_dataset(data, plugins=plugins)
