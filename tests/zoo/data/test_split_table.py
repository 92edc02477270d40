"""`--splits`: a table divides any data, and is part of the text of `--data`."""

from __future__ import annotations

from pathlib import Path

import pytest
from messages import refused
from tests_support import make_photos

from zoo import UsageError, ZooError
from zoo.data.opening import absolute, open_images, with_classes_from
from zoo.data.split_table import split_table_of, with_split_table
from zoo.plugin import Plugins


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", {"": 3})


def rows(*some: str) -> str:
    return "path,split\n" + "".join(
        f"{label}/00{i}.jpg,{word}\n" for label in ("blue", "red") for i, word in enumerate(some)
    )


def test_a_table_divides_a_folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a "b".csv').write_text(rows("train", "val", "test"))
    monkeypatch.chdir(tmp_path)
    text = absolute(with_split_table('a "b".csv', "photos"), Plugins())
    monkeypatch.chdir("/")
    assert split_table_of(text) == (str(tmp_path / 'a "b".csv'), str(photos))
    images = open_images(text, 5, Plugins())
    assert {role: [one.id for one in part] for role, part in images.splits.items()} == {
        role: [f"blue/00{i}.jpg", f"red/00{i}.jpg"] for i, role in enumerate(("train", "val", "test"))
    }
    assert not images.drawn and list(images.files) == [str(tmp_path / 'a "b".csv')]
    assert with_classes_from(text, "leaf", Plugins()).endswith(f"folder-leaf:{photos}")


def test_images_without_a_split_are_left_out(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(rows("train", "val") + "nowhere.jpg,val\n")
    images = open_images(with_split_table(tmp_path / "s.csv", str(photos)), 0, Plugins())
    assert [name for name, _ in images.rejected] == ["blue/002.jpg", "red/002.jpg"]
    assert any("nowhere.jpg" in note for note in images.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (rows("train", "trian"), ["trian", "did you mean `train`", "line 3"]),
        (rows("train"), ["`train` alone", "s.csv"]),
        (rows("train", "val").replace("red/001", "red/000"), ["red/000.jpg", "two splits"]),
        (rows("train", "val").replace("red/001.jpg,val\n", ""), ["class `red`", "missing", "val"]),
        (rows("train", "val").replace(".jpg", ".png"), ["none", "blue/000.png", "blue/000.jpg"]),
        ("a,b,c\n1,2,3\n", ["s.csv", "`path` and `split`"]),
    ],
)
def test_bad_tables_of_splits(photos: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "s.csv").write_text(text)
    with refused(ZooError, *words):
        open_images(with_split_table(tmp_path / "s.csv", str(photos)), 0, Plugins())
    with refused(UsageError, "nowhere.csv", "--splits"):
        open_images(with_split_table(tmp_path / "nowhere.csv", str(photos)), 0, Plugins())
