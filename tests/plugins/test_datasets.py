"""Folders as users have them, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from messages import refused
from tests_support import make_photos

from zoo import UsageError, ZooError
from zoo.data.opening import choose_split, open_images
from zoo.plugin import Plugins
from zoo_datasets.folder import open_folder


def test_split_folders_by_any_of_their_names(tmp_path: Path) -> None:
    images = open_folder(str(make_photos(tmp_path, {"Training": 3, "valid": 2, "testing": 2})), 0)
    assert {role: len(samples) for role, samples in images.splits.items()} == {"train": 6, "val": 4, "test": 4}
    assert images.classes == ("blue", "red") and images.reported == "val" and images.may_choose


def test_two_splits_leave_nothing_to_choose_on(two_splits: Path) -> None:
    images = open_folder(str(two_splits), 0)
    assert images.reported == "val" and not images.may_choose


def test_class_folders_are_split(tmp_path: Path) -> None:
    images = open_folder(str(make_photos(tmp_path, {"": 20})), 0)
    assert {role: len(samples) for role, samples in images.splits.items()} == {"train": 28, "val": 6, "test": 6}
    assert "split seed 0" in images.notes[0]


def test_nested_class_folders_and_clutter(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    deeper = root / "train/red/2024/summer"
    deeper.mkdir(parents=True)
    (root / "train/red/000.jpg").rename(deeper / "a.jpg")
    (root / "train/red/.DS_Store").touch()
    (root / "train/red/Thumbs.db").touch()
    (root / ".cache").mkdir()
    images = open_folder(str(root), 0)
    assert "train/red/2024/summer/a.jpg" in {sample.id for sample in images.splits["train"]}
    assert images.rejected == ()


def test_layout_errors_name_the_folder(tmp_path: Path) -> None:
    with refused(UsageError, "nowhere", "exist"):
        open_folder(str(tmp_path / "nowhere"), 0)
    (tmp_path / "empty").mkdir()
    with refused(ZooError, "empty", "photographs"):
        open_folder(str(tmp_path / "empty"), 0)
    with refused(ZooError, "one", "class", "`red`"):
        open_folder(str(make_photos(tmp_path / "one", {"train": 2, "val": 2}, ("red",))), 0)
    with refused(ZooError, "no_train", "val", "`train`"):
        open_folder(str(make_photos(tmp_path / "no_train", {"val": 2})), 0)
    root = make_photos(tmp_path / "missing", {"train": 2, "val": 2})
    make_photos(root, {"train": 2}, ("green",))
    with refused(ZooError, "`green`", "missing", "`val`"):
        open_folder(str(root), 0)
    root = make_photos(tmp_path / "extra", {"train": 2, "val": 2})
    make_photos(root, {"val": 2}, ("green",))
    with refused(ZooError, "`green`", "`val`", "missing", "`train`"):
        open_folder(str(root), 0)
    make_photos(tmp_path / "twice", {"train": 2, "val": 2, "valid": 2})
    with refused(ZooError, "twice", "`val`", "`valid`"):
        open_folder(str(tmp_path / "twice"), 0)


def test_data_specs(two_splits: Path) -> None:
    plugins = Plugins()
    assert open_images(f"folder:{two_splits}", 0, plugins).splits == open_images(str(two_splits), 0, plugins).splits
    digits = open_images("digits", 0, plugins)
    assert digits.classes == tuple("0123456789") and sum(map(len, digits.splits.values())) == 1797
    assert choose_split(digits, "all")[1] == tuple(s for part in digits.splits.values() for s in part)
    with refused(UsageError, "`digit`", "folder", "dataset") as error:
        open_images("digit", 0, plugins)
    assert error.value.hint is not None and "`digits`" in error.value.hint
    with refused(UsageError, "`digits`", "argument", ":3"):
        open_images("digits:3", 0, plugins)
    with refused(UsageError, "split", "`test`", "train val all"):
        choose_split(open_images(str(two_splits), 0, plugins), "test")


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    photo = root / "train/red/000.jpg"
    photo.rename(photo.parent / os.fsdecode(b"caf\xe9.jpg"))
    images = open_folder(str(root), 0)
    assert images.rejected == (("'train/red/caf\\udce9.jpg'", "its name cannot be printed"),)
    assert len(images.splits["train"]) == 3


def test_a_class_folder_without_photographs_is_an_error(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    (root / "train/green").mkdir()
    with refused(ZooError, "`train/green`", "photographs"):
        open_folder(str(root), 0)
    (root / "train/green/a.heic").touch()
    with refused(ZooError, "`train/green`", "`train/green/a.heic`"):
        open_folder(str(root), 0)


def test_links_are_followed_once_and_dead_ones_reported(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "data", {"train": 2, "val": 2})
    elsewhere = make_photos(tmp_path / "elsewhere", {"": 3}, ("red",))
    (root / "train/red/more").symlink_to(elsewhere / "red")
    (root / "train/red/loop").symlink_to(root / "train/red")
    (root / "train/red/dead.jpg").symlink_to(root / "nowhere.jpg")
    (root / "train/loose.jpg").write_bytes(b"x")
    images = open_folder(str(root), 0)
    assert sum(sample.label == "red" for sample in images.splits["train"]) == 5
    assert dict(images.rejected) == {
        "train/red/dead.jpg": "is a broken link",
        "train/loose.jpg": "lies outside the class folders",
    }


def test_an_unreadable_class_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    scandir = os.scandir

    def refuse(path: object) -> object:  # root reads everything, so the refusal is made up
        if str(path).endswith("train/red"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    with refused(ZooError, "train/red`", "permissions"):
        open_folder(str(root), 0)


@pytest.mark.parametrize("spec", ["", " ", "folder:"])
def test_an_empty_text_is_not_the_current_folder(spec: str, two_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_splits)
    with refused(UsageError, "`--data`", "empty"):
        open_images(spec, 0, Plugins())
