"""Images in two roles, or with two labels, are found by their content, whatever they are called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refused, unsaid
from tests_support import TINY

from zoo import Plugins, Run, ZooError, evaluate, train, verify
from zoo.data.decoding import CHECKED, DecodedImages
from zoo.data.leakage import SHOWN, digests, find_leaks, leaks_of, told
from zoo.dataset import Sample
from zoo.exporting.calibration_set import draw
from zoo_cli.main import run as zoo

ROLES = ("fit", "choose", "val")


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.sampled_from("ab"), st.integers(0, 6)), max_size=12))
def test_a_leak_is_a_content_in_two_roles_or_under_two_labels(images: list[tuple[str, str, int]]) -> None:
    samples = [
        (role, content, Sample(f"{index}.jpg", label, np.full((2, 2, 3), content, np.uint8)))
        for index, (role, label, content) in enumerate(images)
    ]
    found = find_leaks({role: digests([one for of, _, one in samples if of == role]) for role in ROLES})
    expected = {
        frozenset(sample.id for _, its, sample in samples if its == content)
        for content in range(7)
        if len({role for role, its, _ in samples if its == content}) > 1
        or len({sample.label for _, its, sample in samples if its == content}) > 1
    }
    assert {frozenset(sample.id for _, sample in leak.images) for leak in found} == expected
    if found:
        text = told(found)
        places = [({role for role, its, _ in samples if its == one}, one) for one in range(7)]
        shared = sum(len(roles) > 1 for roles, _ in places)
        labelled = sum(len({sample.label for _, its, sample in samples if its == one}) > 1 for _, one in places)
        assert text[0] in "123456789"
        for number, one, several in (
            (shared, "image is in two parts", "images are in two parts"),
            (labelled, "image has two labels", "images have two labels"),
        ):
            assert (f"{number} {one if number == 1 else several}" in text) is (number > 0)
            assert (one in text or several in text) is (number > 0)
        shown = [line for line in text.splitlines() if line.startswith("  `")]
        assert len(shown) == min(len(found), SHOWN) and all(one.id in text for _, one in found[0].images)


@pytest.mark.parametrize(
    ("decoded", "reported", "roles"),
    [
        (("fit", "choose"), "val", ("fit", "val")),  # train, val and test: val is chosen on and reported
        (("fit", "reported"), "test", ("fit", "test")),
        (("fit", "choose", "reported"), "val", ("fit", "choose", "val")),  # a part of train is held out
    ],
)
def test_every_part_that_a_run_decodes_is_compared(
    decoded: tuple[str, ...], reported: str, roles: tuple[str, ...]
) -> None:
    parts = {
        name: DecodedImages(
            (Sample(f"{name}/1.jpg", "a", Path("x")), Sample(f"{name}/2.jpg", "a", Path("x"))),
            np.zeros(2, np.int64),
            np.zeros((2, 1, 1, 3), np.uint8),
            "",
            ("same", f"only in {name}"),
        )
        for name in decoded
    }
    (leak,) = leaks_of(parts, reported)
    assert leak.sha256 == "same" and leak.roles == roles
    assert [sample.id for _, sample in leak.images] == [f"{name}/1.jpg" for name in decoded]


def test_two_labels_in_a_test_split_are_told_if_it_is_reported() -> None:
    twice = DecodedImages(
        (Sample("test/a/1.jpg", "a", Path("x")), Sample("test/b/1.jpg", "b", Path("x"))),
        np.arange(2),
        np.zeros((2, 1, 1, 3), np.uint8),
        "",
        ("same", "same"),
    )
    other = replace(twice, contents=("one", "other"))
    (leak,) = leaks_of({"fit": other, "reported": twice}, "test")
    assert leak.roles == ("test",) and leak.labels == ("a", "b")
    unused = leaks_of({"fit": other, CHECKED: twice}, "val")
    assert unused == [], "nothing is told of a split that the run does not use"


@pytest.fixture(scope="module")
def leaky(two_splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train images stand in val, once under another label as well."""
    data = tmp_path_factory.mktemp("leaky") / "data"
    shutil.copytree(two_splits, data)
    shutil.copy(data / "train/red/003.jpg", data / "val/red/again.jpg")
    shutil.copy(data / "train/red/004.jpg", data / "val/blue/wrong.jpg")
    shutil.copy(data / "train/red/005.jpg", data / "train/red/twice.jpg")  # harmless
    return data


def test_train_names_each_leaked_image(leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", str(leaky), "--backbone", TINY.backbone, "--strategy", "knn", "--weights", "none"]
    command += ["--image-size", "32", "--device", "cpu", "--out", str(out)]
    assert zoo([*command, "--on-leak", "fail"]) == 1 and not out.exists()
    assert "hint: delete all but one" in capsys.readouterr().err
    assert zoo(command) == 0
    err = capsys.readouterr().err
    assert "2 images are in two parts of the data, so figures are too optimistic; 1 image has two labels" in err
    assert "`train/red/003.jpg` (train) = `val/red/again.jpg` (val)" in err
    assert "`train/red/004.jpg` (train, label `red`) = `val/blue/wrong.jpg` (val, label `blue`)" in err
    assert "twice" not in err
    leaks = Run.open(out).record["leaks"]
    assert [[image["id"] for image in leak["images"]] for leak in leaks] == [
        ["train/red/003.jpg", "val/red/again.jpg"],
        ["train/red/004.jpg", "val/blue/wrong.jpg"],
    ]


def test_train_that_reports_on_val_looks_for_leaks_into_test(
    three_splits: Path, tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(three_splits, data)
    shutil.copy(data / "train/red/001.jpg", data / "test/red/again.jpg")
    shutil.copy(data / "val/red/001.jpg", data / "test/red/twice.jpg")
    shutil.copy(data / "test/red/002.jpg", data / "test/blue/within.jpg")  # two labels, which only a test tells
    settings = replace(TINY, data=str(data), strategy="knn")
    for attempt in ("computed", "from the cache"):
        run = train(settings, out=tmp_path / attempt, plugins=plugins)
        assert [[(image["id"], image["role"]) for image in leak["images"]] for leak in run.record["leaks"]] == [
            [("train/red/001.jpg", "fit"), ("test/red/again.jpg", "test")],
            [("val/red/001.jpg", "val"), ("test/red/twice.jpg", "test")],
        ]
        assert set(run.splits()["roles"]) == {"fit", "choose"}
    with refused(ZooError, "train/red/001.jpg", "test/red/again.jpg", "--on-leak drop"):
        train(replace(settings, on_leak="fail"), out=tmp_path / "failed", plugins=plugins)
    command = ["advise", "--data", str(data), "--backbone", TINY.backbone, "--weights", "none", "--device", "cpu"]
    assert zoo([*command, "--studies", str(tmp_path)]) == 0
    assert not unsaid(capsys.readouterr().err, "2 images are in two parts", "test/red/again.jpg", "test/red/twice.jpg")


def test_fitted_images_are_known_by_content(
    two_splits: Path, tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(replace(TINY, data=str(two_splits), strategy="knn"), out=tmp_path / "run", plugins=plugins)
    assert run.record["leaks"] == [] and evaluate(run, plugins=plugins).fitted == 0
    locked = evaluate(run, data=f"locked:{two_splits}", split="val", plugins=plugins)
    assert locked.fitted == len(locked.predictions) > 0
    copy = tmp_path / "copy"  # other names, another folder
    for index, file in enumerate(sorted(two_splits.glob("*/*/*.jpg"))):
        where = copy / ("val" if file.parts[-3] == "train" else "train") / file.parts[-2]
        where.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, where / f"x{index}.jpg")
    shutil.copy(two_splits / "train/red/000.jpg", copy / "val/red/twice.jpg")  # each copy is a fitted image
    (tmp_path / "link").symlink_to(copy)
    for data in (copy, tmp_path / "link"):
        found = evaluate(run, data=str(data), split="val", plugins=plugins)
        assert found.to_json()["fitted_on"] == len(found.predictions) == 25
    assert zoo(["evaluate", str(run.path), "--data", str(copy)]) == 0
    assert "was fitted on 25 of these 25 images" in capsys.readouterr().err
    (run.path / "splits.json").unlink()
    assert evaluate(run, plugins=plugins).fitted is None  # unknown, which is not none


def test_a_file_is_not_blamed_for_other_images(
    exported_run: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    shutil.copytree(exported_run, tmp_path / "run")
    data = tmp_path / "data"
    shutil.copytree(two_splits, data)
    file = tmp_path / "run/model.onnx"
    assert verify(file, data=str(data), plugins=plugins)[-1].passed
    shutil.copy(data / "val/red/001.jpg", data / "val/red/002.jpg")  # the same names
    with pytest.raises(ZooError, match=r"1 photograph of .* changed since"):
        verify(file, data=str(data), plugins=plugins)


def test_an_image_that_changed_is_not_the_run_s(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    data = tmp_path / "data"
    shutil.copytree(two_splits, data)
    run = train(replace(TINY, data=str(data), strategy="knn"), out=tmp_path / "run", plugins=plugins)
    before = run.predictions()
    shutil.copy(data / "val/red/000.jpg", data / "train/red/000.jpg")
    shutil.copy(data / "val/red/001.jpg", data / "val/red/002.jpg")
    with pytest.warns(UserWarning, match="1 image has changed since"):
        found = evaluate(run, plugins=plugins)
    assert (found.predictions.logits != before.logits).any()
    assert (run.predictions().logits == before.logits).all()
    from zoo.data.opening import open_images

    images = open_images(str(data), 0, plugins)
    drawn = draw(run, images, 8)
    assert len(drawn.ranges) + len(drawn.choices) == 23  # of 24, since the other one was never fitted
