"""Folders as users have them, and what is wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused
from tests_support import make_photos

from zoo import UsageError, ZooError
from zoo.data.folder_walk import why_unprintable
from zoo.data.opening import absolute, choose_split, found_text, open_images, with_classes_from
from zoo.inference.prediction import find_photographs
from zoo.plugin import Plugins
from zoo_datasets.folder import open_folder, open_to_score


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
    assert images.rejected == (("'train/red/caf\\udce9.jpg'", "its name is not valid UTF-8"),)
    assert len(images.splits["train"]) == 3


def test_a_class_folder_without_photographs_is_an_error(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    (root / "train/green").mkdir()
    with refused(ZooError, "`train/green`", "photographs"):
        open_folder(str(root), 0)
    (root / "train/green/a.jxl").touch()
    with refused(ZooError, "`train/green`", "`train/green/a.jxl`"):
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


def test_prediction_names_a_broken_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"": 2}, ("red",))
    (root / "red/alive.jpg").symlink_to(root / "red/000.jpg")
    (root / "red/dead.jpg").symlink_to(root / "nowhere.jpg")
    os.mkfifo(root / "red/pipe.jpg")
    assert [path.name for path in find_photographs([str(root)])] == ["000.jpg", "001.jpg", "alive.jpg", "dead.jpg"]


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


@pytest.mark.parametrize("spec", ["", " ", "folder:", "folder-leaf:", "locked:folder-top: "])
def test_an_empty_text_is_not_the_current_folder(spec: str, two_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_splits)
    with refused(UsageError, "`--data`", "empty"):
        open_images(spec, 0, Plugins())


@pytest.mark.parametrize(
    "name",
    [
        "Screenshot 2026-01-01 at 9.41.00\u202fAM.jpg",  # macOS: narrow no-break space
        "Sn\u00edmek\u00a0obrazovky.jpg",  # no-break space
        "\u5199\u771f\u30001.jpg",  # ideographic space
        "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645.jpg",  # zero-width non-joiner
        "\U0001f468\u200d\U0001f467.jpg",  # zero-width joiner
        "\u200f\u05d0.jpg",  # right-to-left mark
    ],
)
def test_names_of_every_script_are_used(name: str, tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    for split in ("train", "val"):
        (root / split / "red").rename(root / split / Path(name).stem)
        (root / split / "blue/000.jpg").rename(root / split / "blue" / name)
    images = open_folder(str(root), 0)
    assert images.rejected == () and set(images.classes) == {"blue", Path(name).stem}
    assert {sample.id for sample in images.splits["train"]} >= {f"train/blue/{name}"}


@given(st.text(min_size=1, max_size=20))
def test_every_name_that_json_and_a_terminal_take_is_used(name: str) -> None:
    """What is refused cannot be encoded, or is a control character; both ways."""
    harmless = all(letter >= " " and not "\x7f" <= letter <= "\x9f" for letter in name)
    assert (why_unprintable(name) is None) == harmless
    assert why_unprintable(name + "\udce9") == "its name is not valid UTF-8"


def test_a_name_that_controls_a_terminal_is_left_out(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    (root / "train/red/000.jpg").rename(root / "train/red/\x1b[31m.jpg")
    assert open_folder(str(root), 0).rejected == ((r"'train/red/\x1b[31m.jpg'", "its name has control characters"),)
    (root / "train/red/001.jpg").rename(root / "train/red/a\nb.jpg")
    with refused(ZooError, "`train/red`", "control characters"):
        open_folder(str(root), 0)


def test_both_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    """Linux wrote train, macOS wrote val; the spelling of train is that of the model."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    (root / "train/red").rename(root / "train" / decomposed)
    (root / "val/red").rename(root / "val" / composed)
    images = open_folder(str(root), 0)
    assert images.classes == ("blue", decomposed)
    assert {sample.label for sample in images.splits["val"]} == {"blue", decomposed}
    assert f"val/{composed}/000.jpg" in {sample.id for sample in images.splits["val"]}
    assert any("NFC" in note for note in images.notes)


def test_names_that_differ_in_case_are_told(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    (root / "val/red").rename(root / "val/Red ")
    with refused(ZooError, "`red`", "missing", "`val`") as error:
        open_folder(str(root), 0)
    assert error.value.hint is not None and "`Red `" in error.value.hint
    for split in ("train", "val"):
        (root / split / "blue").rename(root / split / "RED")
    (root / "val/Red ").rename(root / "val/red")
    images = open_folder(str(root), 0)
    assert images.classes == ("RED", "red") and any("`RED` `red`" in note for note in images.notes)


def test_names_that_differ_in_width_are_told(tmp_path: Path) -> None:
    """Full-width letters, as Japanese and Chinese keyboards write them."""
    root, wide = make_photos(tmp_path, {"train": 2, "val": 2}), "\uff32\uff45\uff44"
    (root / "val/red").rename(root / "val" / wide)
    with refused(ZooError, "`red`", "missing", "`val`") as error:
        open_folder(str(root), 0)
    assert error.value.hint is not None and f"`{wide}`" in error.value.hint


CLUTTER = (
    "red/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg",
    "red/._000.jpg",
    "__MACOSX/red/._000.jpg",
    "__MACOSX/red/000.jpg",
    "$RECYCLE.BIN/$R1.jpg",
    "lost+found/1.jpg",
    "System Volume Information/x.jpg",
    ".thumbnails/x.jpg",
    "#recycle/x.jpg",
    "red/Thumbs.db",
)


@pytest.mark.parametrize("split", ["", "train", "val"])
def test_training_evaluation_and_prediction_find_the_same_photographs(split: str, tmp_path: Path) -> None:
    """What systems leave in folders is found by none of them, wherever it lies."""
    root = make_photos(tmp_path, {"": 5} if not split else {"train": 3, "val": 2})
    files = {file.relative_to(root).as_posix() for file in root.rglob("*.jpg")}
    for name in CLUTTER:
        file = root / split / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((root / min(files)).read_bytes())
    for images in (open_folder(str(root), 0), open_to_score(str(root))):
        assert {sample.id for part in images.splits.values() for sample in part} == files
        assert images.rejected == ()
    assert {path.relative_to(root).as_posix() for path in find_photographs([str(root)])} == files
    assert {Path(path).relative_to(root).as_posix() for path in find_photographs([f"{root}/**/*.jpg"])} == files


def test_a_pattern_that_names_a_hidden_folder_finds_what_is_in_it(tmp_path: Path) -> None:
    hidden = make_photos(tmp_path / ".cache", {"": 2}, ("red",))
    (hidden / "@eaDir").mkdir()
    (hidden / "@eaDir/000.jpg").write_bytes(b"x")
    names = [path.relative_to(hidden).as_posix() for path in find_photographs([f"{hidden}/**/*.jpg"])]
    assert names == ["red/000.jpg", "red/001.jpg"]


def test_a_photograph_of_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    for name in ("IMG_1.JXL", "b.jp2", "c.txt"):
        (root / "train/red" / name).write_bytes(b"x")
    reasons = dict(open_folder(str(root), 0).rejected)
    assert "JPEG XL" in reasons["train/red/IMG_1.JXL"] and "JPEG 2000" in reasons["train/red/b.jp2"]
    names = [path.name for path in find_photographs([str(root / "train/red")])]
    assert names == ["000.jpg", "001.jpg", "IMG_1.JXL", "b.jp2"]


@pytest.mark.parametrize("unlabelled", ["test/1.jpg", "test/unknown/1.jpg"])
@pytest.mark.parametrize("counts", [{"train": 4, "val": 2}, {"train": 4}])
def test_a_test_split_without_labels_does_not_stop_training(
    counts: dict[str, int], unlabelled: str, tmp_path: Path
) -> None:
    before = open_folder(str(make_photos(tmp_path, counts)), 0)
    (tmp_path / unlabelled).parent.mkdir(parents=True)
    (tmp_path / unlabelled).write_bytes((tmp_path / "train/red/000.jpg").read_bytes())
    images = open_folder(str(tmp_path), 0)
    assert images.splits == before.splits and images.rejected == ()
    assert any("`test/` is left out" in note for note in images.notes)


def test_data_to_score_need_less_than_data_to_train(tmp_path: Path) -> None:
    few = open_to_score(str(make_photos(tmp_path / "few", {"": 2})))
    assert few.drawn and choose_split(few, "all")[0] == "all" and len(choose_split(few, "all")[1]) == 4
    one = open_to_score(str(make_photos(tmp_path / "one", {"": 1}, ("red",))))
    assert one.classes == ("red",)
    test = open_to_score(str(make_photos(tmp_path / "test", {"test": 2})))
    assert not test.drawn and test.reported == "test" and len(test.splits["test"]) == 4
    (tmp_path / "few/nothing").mkdir()
    assert open_to_score(str(tmp_path / "few")).rejected == (("nothing/", "holds no photographs"),)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/1.jpg").write_bytes(b"x")
    with refused(ZooError, "loose", "class folders") as error:
        open_to_score(str(tmp_path / "loose"))
    assert error.value.hint is not None and "`zoo predict`" in error.value.hint


def nest(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """animals/{cat,dog} and plants/{fern,rose}, in splits."""
    for split in splits:
        for upper, lower in (("animals", ("cat", "dog")), ("plants", ("fern", "rose"))):
            for name in lower:
                make_photos(root / split / upper, {name: 4}, ("red",))
                for file in (root / split / upper / name / "red").iterdir():
                    file.rename(file.parents[1] / file.name)
                (root / split / upper / name / "red").rmdir()
    return root


@pytest.mark.parametrize("splits", [("train", "val"), ("",)])
def test_folders_in_folders_are_told_and_read_either_way(splits: tuple[str, ...], tmp_path: Path) -> None:
    root, plugins = nest(tmp_path, splits), Plugins()
    images = open_images(str(root), 0, plugins)
    assert images.classes == ("animals", "plants")
    note = next(note for note in images.notes if "--classes-from leaf" in note)
    assert "`animals/cat`" in note and "`animals`" in note
    leaf = with_classes_from(str(root), "leaf", plugins)
    assert leaf == f"folder-leaf:{root}" and absolute(leaf, plugins) == leaf
    for found in (open_images(leaf, 0, plugins), open_to_score(str(root), "leaf")):
        assert found.classes == ("cat", "dog", "fern", "rose") and found.notes[1:] == () and found.name == leaf
        assert {sample.id for part in found.splits.values() for sample in part} == {
            file.relative_to(root).as_posix() for file in root.rglob("*.jpg")
        }
    assert with_classes_from(f"locked:{root}", "leaf", plugins) == f"locked:{leaf}"
    with refused(UsageError, "`--classes-from leaf`", "`digits`"):
        with_classes_from("digits", "leaf", plugins)


def test_leaves_of_one_name_are_one_class_and_told(tmp_path: Path) -> None:
    root = nest(tmp_path, ("",))
    (root / "plants/rose").rename(root / "plants/cat")
    images = open_folder(str(root), 0, "leaf")
    assert images.classes == ("cat", "dog", "fern")
    assert any("`animals/cat` `plants/cat`" in note and "one class" in note for note in images.notes)


@pytest.mark.parametrize("name", ["test", "train", "val"])
def test_a_class_named_as_a_split(name: str, tmp_path: Path) -> None:
    """A vehicle may be a train: the message offers the reading in which it is a class."""
    root = make_photos(tmp_path, {"": 4}, ("blue", "green", "red"))
    (root / "red").rename(root / name)
    with refused(ZooError, f"`{name}`", "`--classes-from top`"):
        open_folder(str(root), 0)
    images = open_folder(str(root), 0, "top")
    assert images.classes == tuple(sorted(("blue", "green", name)))
    assert open_to_score(str(root), "top").classes == images.classes


def test_one_folder_too_many_is_told(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos/photos", {"": 4})
    with refused(ZooError, "one class only, `photos`", f"`--data {tmp_path}/photos/photos`", "`blue` `red`"):
        open_folder(str(tmp_path / "photos"), 0)


def test_what_was_found_is_one_line(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 3, "val": 2})
    (root / "train/red/000.jpg").unlink()
    images = open_folder(str(root), 0)
    assert found_text(images) == "2 classes: blue red; train 5 images, 2 to 3 a class; val 4, 2 a class"
    digits = found_text(open_images("digits", 0, Plugins()))
    assert digits.startswith("10 classes: 0 1 2 3 4 5 6 7 8 9; train ")


@pytest.mark.parametrize("name", ["dev", "Development", "validate"])
def test_more_names_of_the_validation_split(tmp_path: Path, name: str) -> None:
    images = open_folder(str(make_photos(tmp_path, {"train": 3, name: 2, "test": 2})), 0)
    assert list(images.splits) == ["train", "val", "test"] and images.rejected == ()


@pytest.mark.parametrize("splits", [("train", "eval"), ("train", "vali", "test"), ("train", "holdout", "test")])
def test_a_split_of_another_name_does_not_unlock_the_test_split(tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = make_photos(tmp_path, dict.fromkeys(splits, 3))
    with refused(ZooError, f"`{splits[1]}`", "no folder `val`", "classes of `train`"):
        open_folder(str(root), 0)
    (root / splits[1]).rename(root / "val")
    assert "val" in open_folder(str(root), 0).splits


def test_links_upwards_bring_no_images_of_other_classes(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"": 4})
    (root / "red/up").symlink_to("..")
    (root / "red/far").symlink_to(tmp_path.parent)
    images = open_folder(str(root), 0)
    assert sum(len(samples) for samples in images.splits.values()) == 8
    assert len(find_photographs([str(root / "red")])) == 4


def test_runs_below_the_data_are_no_class(tmp_path: Path) -> None:
    """`--data .` writes its run to `./runs`, where the next command finds it."""
    root = make_photos(tmp_path, {"": 4})
    run = root / "runs/first"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    images = open_folder(str(root), 0)
    assert images.classes == ("blue", "red") and images.rejected == () and "runs/" in " ".join(images.notes)
    assert open_to_score(str(root)).rejected == ()
    for name in ("train", "val"):
        (root / name).mkdir()
        for label in ("red", "blue"):
            (root / name / label).mkdir()
            (root / label / f"00{0 if name == 'train' else 1}.jpg").rename(root / name / label / "a.jpg")
    assert [name for name, _ in open_folder(str(root), 0).rejected if name.startswith("runs")] == []


def test_a_class_that_cannot_be_named_gets_a_hint_about_names(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"": 4})
    (root / "blue").rename(root / "bl\nue")
    with pytest.raises(ZooError) as found:
        open_folder(str(root), 0)
    assert "control characters" in found.value.message and found.value.hint == "rename the folder"


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (("train_set/a", "train_set/b", "val_set/a", "val_set/b"), ("`train_set` `val_set`", "`a` `b`", "leaf")),
        (("a/train", "a/val", "b/train", "b/val"), ("`a` `b`", "`train` `val`", "they are mixed")),
    ],
)
def test_levels_that_look_like_splits_are_named(
    tmp_path: Path, layout: tuple[str, ...], words: tuple[str, ...]
) -> None:
    for place in layout:
        top, lower = place.split("/")
        (tmp_path / top).mkdir(exist_ok=True)
        (make_photos(tmp_path / "made" / place.replace("/", "-"), {"": 4}, ("red",)) / "red").rename(
            tmp_path / top / lower
        )
    shutil.rmtree(tmp_path / "made")
    notes = " ".join(open_folder(str(tmp_path), 0).notes)
    assert all(word in notes for word in words)


def test_one_folder_too_many_above_the_splits(tmp_path: Path) -> None:
    make_photos(tmp_path / "data", {"train": 3, "val": 2})
    with pytest.raises(ZooError) as found:
        open_folder(str(tmp_path), 0)
    assert "the splits `train` `val`" in str(found.value.hint) and str(tmp_path / "data") in str(found.value.hint)


def test_a_folder_that_lists_files_and_opens_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_photos(tmp_path, {"": 4})
    access = os.access

    def refuse(path: object, mode: int) -> bool:  # root may do everything, so the refusal is made up
        return not str(path).endswith("red") and access(path, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "access", refuse)
    with refused(ZooError, "red`", "permission"):
        open_folder(str(root), 0)


def test_a_split_seed_that_changes_nothing_is_named(tmp_path: Path, plugins: Plugins) -> None:
    split, plain = make_photos(tmp_path / "split", {"train": 3, "val": 2}), make_photos(tmp_path / "plain", {"": 6})
    for spec, seed, said in ((split, 5, True), (split, 0, False), (plain, 5, False), (f"locked:{split}", 5, False)):
        notes = " ".join(open_images(str(spec), seed, plugins).notes)
        assert ("`--split-seed 5` changes nothing" in notes) == said
