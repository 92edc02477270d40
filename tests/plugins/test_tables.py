"""Tables of paths and labels: what is read, what is guessed, and what is wrong with them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
from messages import refused
from tests_support import TINY, make_photos

from zoo import Images, UsageError, ZooError, evaluate, train, train_final
from zoo.data.opening import absolute, open_images, open_to_score, open_unlabelled
from zoo.plugin import Plugins

GOOD = "path,label\n" + "".join(f"{label}/{index:03d}.jpg,{label}\n" for label in ("blue", "red") for index in range(4))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of four images each."""
    return make_photos(tmp_path_factory.mktemp("photos"), {"": 4})


def opened(photos: Path, tmp_path: Path, text: str | bytes, options: str = "", name: str = "t.csv") -> Images:
    """The images of a table whose paths begin at the folder of the photographs."""
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_images(f"csv:{file},root={photos}{options}", 0, Plugins())


def ids(images: Images) -> dict[str, str]:
    return {sample.id: sample.label for part in images.splits.values() for sample in part}


def test_a_table_is_the_folder_that_it_describes(photos: Path, tmp_path: Path) -> None:
    images, folder = opened(photos, tmp_path, GOOD), open_images(str(photos), 0, Plugins())
    assert images.splits == folder.splits and images.drawn and images.classes == folder.classes
    assert any("path=`path` label=`label`" in note for note in images.notes)
    assert list(images.files) == [str(tmp_path / "t.csv")] and len(images.files[str(tmp_path / "t.csv")]) == 64


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GOOD.replace(",", "\t"), "t.tsv"),
        (GOOD.replace(",", ";"), "t.csv"),
        (GOOD.replace(",", "|"), "t.txt"),
        (GOOD.replace("\n", "\r\n"), "t.csv"),
        ("\ufeff" + GOOD, "t.csv"),
        (GOOD.encode("utf-16"), "t.csv"),
        (GOOD.replace("/", "\\"), "t.csv"),
        (GOOD.replace(",", " , "), "t.csv"),
        (GOOD.replace(",", ', "').replace("\n", '"\n'), "t.csv"),
        (GOOD + "\n , \n\n", "t.csv"),
        (
            "".join(json.dumps(dict(zip(("path", "label"), row.split(",")))) + "\n" for row in GOOD.split()[1:]),
            "t.jsonl",
        ),
    ],
    ids=["tsv", "semicolon", "bar", "crlf", "bom", "utf-16", "backslash", "spaces", "quoted", "empty-rows", "jsonl"],
)
def test_forms_of_the_same_table(photos: Path, tmp_path: Path, text: str | bytes, name: str) -> None:
    assert opened(photos, tmp_path, text, name=name).splits == opened(photos, tmp_path, GOOD).splits


def test_a_group_is_a_column_or_a_pattern(photos: Path, tmp_path: Path) -> None:
    """`--group` names a column of the table; what is none is a pattern that is looked for in the paths."""
    file = tmp_path / "t.csv"
    rows = GOOD.split()[1:]
    file.write_text("path,label,patient\n" + "".join(f"{row},p{index % 4}\n" for index, row in enumerate(rows)))
    spec = f"csv:{file},root={photos}"

    def groups(group: str, spec: str = spec) -> set[str | None]:
        images = open_images(spec, 0, Plugins(), group=group)
        return {sample.group for part in images.splits.values() for sample in part}

    assert groups("patient") == {"p0", "p1", "p2", "p3"}
    assert groups("patient", f"{spec},group=patient") == {"p0", "p1", "p2", "p3"}
    assert groups(r"/00(\d)") == {"0", "1", "2", "3"}
    with pytest.raises(ZooError, match="`--group doctor` matches none"):
        groups("doctor")
    with pytest.raises(UsageError, match="are two columns"):
        groups("patient", f"{spec},group=label")


def test_splits_and_groups_are_columns(photos: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"{row},{word},p{i}\n" for i, (row, word) in enumerate(zip(GOOD.split()[1:], ["Train", "valid"] * 4))
    )
    images = opened(photos, tmp_path, "path,label,split,patient\n" + rows, ",label=label,group=patient")
    assert {role: len(part) for role, part in images.splits.items()} == {"train": 4, "val": 4} and not images.drawn
    assert {sample.group for part in images.splits.values() for sample in part} == {f"p{i}" for i in range(8)}


def test_a_table_for_each_split(photos: Path, tmp_path: Path) -> None:
    head, *rows = GOOD.splitlines(keepends=True)
    for name, some in (("train.csv", rows[::2]), ("val.csv", rows[1::2])):
        (tmp_path / name).write_text(head + "".join(some))
    by_name = open_images(f"csv:{tmp_path}/train.csv,{tmp_path}/val.csv,root={photos}", 0, Plugins())
    asked = open_images(f"csv:train={tmp_path}/train.csv,val={tmp_path}/val.csv,root={photos}", 0, Plugins())
    assert by_name.splits == asked.splits and set(asked.splits) == {"train", "val"}
    assert any("by its name" in note for note in by_name.notes)
    assert open_images(f"csv:{tmp_path}/{{train,val}}.csv,root={photos}", 0, Plugins()).splits == asked.splits


def test_the_layout_of_kaggle(tmp_path: Path) -> None:
    make_photos(tmp_path / "images", {"": 4})
    rows = [f"{label}/{index:03d},{label}" for label in ("blue", "red") for index in range(4)]
    (tmp_path / "train.csv").write_text("id,breed\n" + "\n".join(rows))
    images = open_images(f"csv:{tmp_path}/train.csv", 0, Plugins())
    assert "blue/000.jpg" in ids(images)
    for words in ("begin at", "end in `.jpg`", "path=`id` label=`breed`"):
        assert any(words in note for note in images.notes), words


def test_a_run_finds_its_table_from_any_folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a, b=c"
    folder.mkdir()
    (folder / "t.csv").write_text(GOOD)
    monkeypatch.chdir(folder)
    text = absolute(f"locked:csv:t.csv,root={os.path.relpath(photos, folder)}", Plugins())
    monkeypatch.chdir("/")
    assert text == f'locked:csv:"{folder}/t.csv",root={photos}' == absolute(text, Plugins())
    assert len(ids(open_images(text.removeprefix("locked:"), 0, Plugins()))) == 8


def test_a_table_that_is_changed_is_named_when_a_run_goes_on(photos: Path, tmp_path: Path) -> None:
    from zoo.training import session

    table = tmp_path / "t.csv"
    rows = "".join(f"{row},{'train' if i % 2 else 'val'}\n" for i, row in enumerate(GOOD.split()[1:]))
    table.write_text("path,label,split\n" + rows)
    experiment = replace(TINY, data=f"csv:{table},root={photos}", epochs=1)

    class Stop(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(session, "_save_weights", stop)
        train(experiment, out=tmp_path / "run")
    table.write_text(table.read_text().replace("000.jpg,blue", "000.jpg,red"))
    from zoo import resume

    with refused(ZooError, str(table), "changed"):
        resume(tmp_path / "run")


def test_a_table_that_is_changed_is_named_when_a_run_is_evaluated(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "t.csv"
    rows = "".join(f"{row},{'train' if i % 2 else 'val'}\n" for i, row in enumerate(GOOD.split()[1:]))
    table.write_text("path,label,split\n" + rows)
    run = train(replace(TINY, data=f"csv:{table},root={photos}", epochs=1), out=tmp_path / "run")
    evaluate(run)
    kept = {file: file.read_bytes() for file in run.path.rglob("predictions*") if file.is_file()}
    table.write_text(rows.replace("blue,", "x,").replace("red,", "blue,").replace("x,", "red,"))
    table.write_text("path,label,split\n" + table.read_text())
    with pytest.warns(UserWarning, match=f"`{table}` has changed"):
        evaluate(run)
    assert kept and kept == {file: file.read_bytes() for file in kept}
    with caplog.at_level("WARNING"):
        train_final(run, out=tmp_path / "final")
    assert f"`{table}` has changed" in caplog.text


def test_images_that_cannot_be_found_are_reported(photos: Path, tmp_path: Path) -> None:
    text = GOOD + "nowhere.jpg,red\n,red\nred,red\nred/003.jpg,red\nblue/003.jpg,\nNaN,red\n"
    images = opened(photos, tmp_path, text.replace("blue/003.jpg,blue\n", ""))
    reasons = dict(images.rejected)
    assert len(ids(images)) == 7
    assert "exist" in reasons["nowhere.jpg"] and "line 9" in reasons["nowhere.jpg"]
    assert "folder" in reasons["red"] and "label" in reasons["blue/003.jpg"]
    assert "path" in reasons["t.csv:10"] and "path" in reasons["t.csv:14"]
    assert any("`red/003.jpg` is named twice" in note for note in images.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["t.csv", "empty"]),
        ("path,label\n", ["t.csv", "header"]),
        (GOOD.partition("\n")[2], ["header", "blue/000.jpg", "path,label"]),
        (GOOD.replace("blue/000", "x/000"), ["class `x`", "1 image"]),
        (GOOD.replace("000.jpg", "x000.jpg").replace("blue/0", "blu/0").replace("red/0", "re/0"), ["none", "root="]),
        (GOOD + "red/000.jpg,blue\n", ["red/000.jpg", "`red`", "`blue`", "line 6", "line 10"]),
        (GOOD + "red/000.jpg;red\n", ["line 10", "semicolon"]),
        (GOOD + "red/000.jpg,red,1\n", ["line 10", "3", "2"]),
        (GOOD + '"red/000.jpg,red\n', ["line 10", "quotes"]),
        (GOOD.encode() + "caf\xe9.jpg,red\n".encode("latin-1"), ["line 10", "UTF-8", "encoding=latin-1"]),
        (GOOD.encode("utf-16-le"), ["bytes of value 0", "utf-16-le"]),
        (GOOD.replace(",blue", ",1").replace(",red", ",01"), ["`01`", "`1`", "same number"]),
        (GOOD.replace(",blue", ",1.0").replace(",red", ",1"), ["`1.0`", "`1`", "same number"]),
        (GOOD.replace(",blue", ",0.25").replace(",red", ",0.5"), ["decimal", "0.25", "label="]),
        (GOOD.replace(",red", ",blue"), ["one class", "blue"]),
        (
            GOOD.replace("label", "a").replace("path,a", "path,a,b").replace("d\n", "d,1\n").replace("e\n", "e,1\n"),
            ["label", "`a`", "`b`"],
        ),
        ('[{"path": "a.jpg"}]', ["JSON", "coco:"]),
        ("path,label\n" + "a.jpg;x,y|z\n", ["none", "a.jpg;x"]),
    ],
)
def test_bad_tables(photos: Path, tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    text = text.replace("x/000.jpg,blue", "blue/000.jpg,x") if isinstance(text, str) else text
    with refused(ZooError, *words):
        opened(photos, tmp_path, text)


def test_several_labels_in_a_cell(photos: Path, tmp_path: Path) -> None:
    text = '{"path": "red/000.jpg", "label": ["a", "b"]}\n'
    with refused(ZooError, "line 1", '["a", "b"]', "one class"):
        opened(photos, tmp_path, text, name="t.jsonl")


def test_columns_by_their_position(photos: Path, tmp_path: Path) -> None:
    images = opened(photos, tmp_path, GOOD.partition("\n")[2], ",header=no,path=1,label=2")
    assert images.splits == opened(photos, tmp_path, GOOD).splits


def test_a_split_that_is_no_role(photos: Path, tmp_path: Path) -> None:
    rows = GOOD.replace("path,label", "path,label,split").replace("e\n", "e,train\n").replace("d\n", "d,trian\n")
    with refused(ZooError, "trian", "did you mean `train`", "line 6"):
        opened(photos, tmp_path, rows, ",split=split")
    with refused(ZooError, "`1`", "folds"):
        opened(photos, tmp_path, rows.replace("trian", "0").replace("train", "1"), ",split=split")
    with refused(ZooError, "no split", "line 6"):
        opened(photos, tmp_path, rows.replace("trian", ""), ",split=split")
    with refused(ZooError, "trian", "did you mean `train`", "line 6"):  # also where nobody names the column
        opened(photos, tmp_path, rows)
    notes = opened(photos, tmp_path, rows.replace("trian", "0").replace("train", "1")).notes
    assert any("`split`" in note and "is not used" in note for note in notes)


def test_an_image_in_two_splits(photos: Path, tmp_path: Path) -> None:
    rows = GOOD.replace("path,label", "path,label,split").replace("e\n", "e,train\n").replace("d\n", "d,train\n")
    with refused(ZooError, "red/000.jpg", "two splits", "`val`"):
        opened(photos, tmp_path, rows + "red/000.jpg,red,val\n")


def test_whole_numbers_written_as_decimals(photos: Path, tmp_path: Path) -> None:
    images = opened(photos, tmp_path, GOOD.replace(",blue", ",0.0").replace(",red", ",1.0"))
    assert images.classes == ("0", "1") and any("decimals" in note for note in images.notes)
    assert opened(photos, tmp_path, GOOD.replace(",blue", ",NA").replace(",red", ",None")).classes == ("NA", "None")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",label=lable", ["lable", "did you mean `label`"]),
        (",lable=label", ["lable", "did you mean `label`"]),
        (",label=label,label=path", ["label", "twice"]),
        (",label=", ["label", "without a value"]),
        (",,label=label", ["empty part", "comma"]),
        (",delimiter=::", ["delimiter=::", "one character"]),
        (",encoding=utf-9", ["utf-9", "latin-1"]),
        (",header=maybe", ["maybe", "`no`"]),
        (',label="label', ["quote", "closed"]),
        (',label="label"x', ["goes on", "quotes"]),
    ],
)
def test_bad_options(photos: Path, tmp_path: Path, options: str, words: list[str]) -> None:
    with refused(UsageError, *words):
        opened(photos, tmp_path, GOOD, options)


def test_ten_thousand_classes_of_one_image(photos: Path, tmp_path: Path) -> None:
    for index in range(10_000):
        (tmp_path / f"{index}.jpg").touch()
    text = "path,label\n" + "".join(f"{index}.jpg,class {index}\n" for index in range(10_000))
    (tmp_path / "t.csv").write_text(text)
    before = process_time()
    with refused(ZooError, "class 0", "1 image", "3"):
        open_images(f"csv:{tmp_path}/t.csv", 0, Plugins())
    assert len(open_to_score(f"csv:{tmp_path}/t.csv", 0, Plugins()).classes) == 10_000
    assert process_time() - before < 10


def test_labels_are_not_needed_to_predict(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,x,y\nblue/000.jpg,1,2\nnowhere.jpg,1,2\n")
    found = open_unlabelled(f"csv:{tmp_path}/t.csv,root={photos}", Plugins())
    assert [(one.id, one.label) for one in found.samples] == [("blue/000.jpg", "")]
    assert [name for name, _ in found.rejected] == ["nowhere.jpg"]
    labelled = open_unlabelled(str(photos), Plugins())
    assert len(labelled.samples) == 8 and {one.label for one in labelled.samples} == {""}
