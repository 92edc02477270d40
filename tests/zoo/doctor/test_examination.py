"""The doctor finds what is planted into small data, and says of bad data what it can."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import stat
import sys
import types
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from messages import refused, unsaid
from PIL import Image, ImageOps
from tests_support import make_photos

from zoo import Dataset, Images, Plugins, Sample, UsageError, ZooError, hookimpl
from zoo.data.spreadsheet import read_csv, restored
from zoo.doctor.contact_sheet import contact_sheet
from zoo.doctor.examination import Examination, examine
from zoo.doctor.findings import BY_NAME, KINDS
from zoo.doctor.reporting import doctor
from zoo.hookspecs import Register
from zoo.plugin import PluginCandidate, installed_candidates
from zoo_cli.main import run as zoo


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of two classes with one fault of most kinds."""
    data = make_photos(tmp_path_factory.mktemp("faulty") / "data", {"train": 20, "val": 8, "test": 8})
    shutil.copyfile(data / "val/red/000.jpg", data / "train/red/copy.jpg")
    shutil.copyfile(data / "train/red/004.jpg", data / "train/red/again.jpg")
    shutil.copyfile(data / "train/red/005.jpg", data / "train/blue/other.jpg")
    with Image.open(data / "test/blue/001.jpg") as image:
        ImageOps.mirror(image).save(data / "train/blue/mirrored.jpg", quality=95)
    Image.fromarray(np.tile(np.linspace(0, 40, 48, dtype=np.uint8), (48, 1))).save(data / "train/blue/003.jpg")
    Image.new("RGB", (48, 48), (9, 200, 9)).save(data / "train/blue/blank.jpg")
    Image.new("RGB", (48, 48)).save(data / "train/red/png.jpg", "PNG")
    whole = (data / "train/red/006.jpg").read_bytes()
    (data / "train/red/006.jpg").write_bytes(whole[: len(whole) // 2])
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 1400, 3), dtype=np.uint8))
    big.save(data / "train/red/wide.jpg")
    return data


@pytest.fixture(scope="module")
def found(faulty: Path) -> Examination:
    return examine(str(faulty), backbone="none", plugins=Plugins())[0]


def of(found: Examination, kind: str) -> set[tuple[str, str]]:
    return {(one.id, one.partner) for one in found.findings if one.kind == kind}


def test_each_planted_fault_is_found(found: Examination) -> None:
    assert of(found, "copy_across_splits") == {("train/red/copy.jpg", "val/red/000.jpg")}
    assert of(found, "copy") == {("train/red/again.jpg", "train/red/004.jpg")} or of(found, "copy") == {
        ("train/red/004.jpg", "train/red/again.jpg")
    }
    other = {"train/red/005.jpg", "train/blue/other.jpg"}
    assert {name for pair in of(found, "copy_of_another_class") for name in pair} == other
    assert of(found, "near_copy_across_splits") == {("train/blue/mirrored.jpg", "test/blue/001.jpg")}
    assert of(found, "unreadable") == {("train/red/006.jpg", "")}
    assert of(found, "wrong_suffix") == {("train/red/png.jpg", "")}
    assert of(found, "dark") == {("train/blue/003.jpg", "")}
    assert of(found, "blank") == {("train/blue/blank.jpg", ""), ("train/red/png.jpg", "")}
    assert ("train/red/wide.jpg", "") in of(found, "odd_size")
    assert any("there are no features" in note for note in found.notes)
    assert [one.split for one in found.power] == ["val", "test"] and found.power[0].images == 16


def test_what_is_proposed_to_be_excluded(found: Examination) -> None:
    """The copy that is trained on, not the one that is scored; never an image of another class or quality."""
    proposed = {one.id for one in found.findings if one.exclude}
    assert {"train/red/copy.jpg", "train/blue/mirrored.jpg"} <= proposed
    assert not any(name.startswith(("val/", "test/")) for name in proposed)
    assert not proposed & {"train/red/005.jpg", "train/blue/other.jpg", "train/blue/003.jpg"}


def test_findings_come_in_the_order_of_the_kinds(found: Examination) -> None:
    places = [list(BY_NAME).index(one.kind) for one in found.findings]
    assert places == sorted(places) and len(BY_NAME) == len(KINDS)


def test_files_and_the_way_back_into_the_data(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "checked"
    command = ["doctor", "--data", str(faulty), "--backbone", "none", "--out", str(out)]
    assert zoo(command) == 0
    assert capsys.readouterr().out.split() == [str(out / "doctor.html"), str(out / "doctor.csv")]
    page = (out / "doctor.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/jpeg") > 10
    record = json.loads((out / "doctor.json").read_text())
    assert record["counts"]["near_copy_across_splits"] == 1
    edited = (out / "doctor.csv").read_text()
    assert zoo(command) == 2 and (out / "doctor.csv").read_text() == edited
    assert not unsaid(capsys.readouterr().err, "doctor.csv", "edited", "--force")
    assert zoo([*command, "--force", "--json", "--no-photographs"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == record["counts"]
    assert "data:image/jpeg" not in (out / "doctor.html").read_text()
    # after the excluded images are gone, no copy is left in two splits
    again = examine(str(faulty), backbone="none", exclude=out / "doctor.csv", plugins=Plugins())[0]
    assert not of(again, "copy_across_splits") and not of(again, "near_copy_across_splits")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(faulty: Path, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with refused(ZooError, str(tmp_path), "cannot be written"):
        doctor(str(faulty), out=tmp_path / "out", backbone="none")


def test_an_output_that_is_a_file(faulty: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with refused(UsageError, "is a file", "--out"):
        doctor(str(faulty), out=tmp_path / "out", backbone="none")


def fill(folder: Path, count: int, how: str) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        if how == "broken":
            (folder / f"{index}.jpg").write_bytes(b"\xff\xd8nothing")
            continue
        colour = (10, 20, 30) if how != "dots" else (index, 0, 0)
        size = (1, 1) if how == "dots" else (40, 40)
        Image.new("L" if how == "grey" else "RGB", size, index if how == "grey" else colour).save(
            folder / f"{index}.png"
        )


# Each kind of bad data on every push, of one class or of two; of both in `slow`
BAD = [
    pytest.param(how, classes, marks=() if classes == 1 + place % 2 else pytest.mark.slow)
    for place, how in enumerate(("same", "broken", "dots", "grey")) for classes in (1, 2)
]  # fmt: skip


@pytest.mark.parametrize(("how", "classes"), BAD)
def test_bad_data_are_told_not_crashed_on(tmp_path: Path, how: str, classes: int) -> None:
    """One class, three images, all equal, of one colour, of one pixel, or all unreadable."""
    for number in range(classes):
        fill(tmp_path / "data" / f"class{number}", 3, how)
    plugins = Plugins()
    found, seen = examine(str(tmp_path / "data"), plugins=plugins)
    assert contact_sheet(found, seen).count("<section") >= 1
    if how == "broken":
        assert len(of(found, "unreadable")) == 3 * classes and not sum(found.images.values())
    elif how == "same":
        assert found.findings
    if classes == 1:
        assert any("one class" in note for note in found.notes)


def test_ids_of_any_kind_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of a plugin may be anything: formulas, commas, quotation marks, lines, markup."""
    names = ['=HYPERLINK("x")', "a,b", 'q"q', "two\nlines", "<script>alert(1)</script>", "[red]x[/red]", "'", "é"]
    dark = np.full((32, 32, 3), 3, np.uint8)
    dark[::2] = 12
    samples = tuple(Sample(name, "ab"[index % 2], dark + np.uint8(index)) for index, name in enumerate(names))
    images = Images(name="odd", classes=("a", "b"), splits={"train": samples, "val": _others(dark)})
    plugins = with_dataset(images, monkeypatch)
    report = doctor("odd", out=tmp_path / "out", backbone="none", plugins=plugins)
    _, header, rows = read_csv(report.csv, "--exclude")
    ids = {restored(row[header.index("id")]) for _, row in rows}
    assert set(names) <= ids
    assert "<script>alert" not in report.html.read_text()
    assert all(not row[1].startswith(("=", "+", "-", "@")) for _, row in rows)


def _others(dark: npt.NDArray[np.uint8]) -> tuple[Sample, ...]:
    return tuple(Sample(f"val{label}", label, dark + np.uint8(40 + index)) for index, label in enumerate("ab"))


def with_dataset(images: Images, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """What is installed, and the dataset `odd` of these images."""

    def register_datasets(register: Register[Dataset]) -> None:
        register(Dataset(name="odd", summary="odd", open=lambda argument, seed: images))

    module = types.ModuleType("zoo_test_odd")
    module.__dict__["register_datasets"] = hookimpl(register_datasets)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = importlib.metadata.EntryPoint("odd", module.__name__, "zoo.plugins")
    return Plugins([*installed_candidates(), PluginCandidate("odd", "backbone-zoo-odd", "1", point)])


def test_groups_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)

    def make(name: str, label: str, group: str) -> Sample:
        return Sample(name, label, generator.integers(0, 255, (32, 32, 3), dtype=np.uint8), group)

    train = tuple(make(f"t{index}", "ab"[index % 2], f"patient {index % 3}") for index in range(6))
    val = (make("v0", "a", "patient 1"), make("v1", "b", "patient 9"))
    plugins = with_dataset(Images(name="odd", classes=("a", "b"), splits={"train": train, "val": val}), monkeypatch)
    found, _ = examine("odd", backbone="none", plugins=plugins)
    torn = [one for one in found.findings if one.kind == "group_across_splits"]
    assert len(torn) == 1 and torn[0].partner == "v0" and "`patient 1`: 2 in train, 1 in val" in torn[0].why
    assert any("1 group of 4 (25 %)" in note for note in found.notes)
