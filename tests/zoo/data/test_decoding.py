"""The scan: every bad file is found before the first step, and named."""

from __future__ import annotations

import io
import shutil
import threading
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refused, unsaid
from PIL import Image
from tests_support import TINY, make_photos

import zoo.data.decoding
import zoo.inference.prediction
from zoo import Images, Plugins, Preprocess, Sample, UsageError, ZooError, evaluate, export, predict, train
from zoo.data.decode_plan import SPARE, decode_requests, store_keys
from zoo.data.decoding import DecodeRequest, allocate, decode_all, decode_parts
from zoo.data.image import BadImage, canvas, decode, pixel_key, pixels
from zoo.data.pixel_budget import PixelBudget
from zoo.data.roles import Roles
from zoo.dataset import BytesSource
from zoo.inference.prediction import predict_each
from zoo.preprocess import Fit
from zoo.progress import Silent
from zoo.storage.tensor_store import Store
from zoo_datasets.folder import open_folder

PREPROCESS = Preprocess(resize=32, crop=24)


def run_scan(
    images: Images, on_bad_image: str = "skip", workers: int = 2
) -> tuple[dict[str, zoo.data.decoding.DecodedImages], list[zoo.data.decoding.BadFile]]:
    parts = {"fit": DecodeRequest(images.splits["train"], (24, 24), lambda photograph: pixels(photograph, PREPROCESS))}
    return decode_parts(images, parts, on_bad_image=on_bad_image, workers=workers)  # type: ignore[arg-type]


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    root = make_photos(tmp_path, {"train": 5, "val": 2})
    whole = (root / "train/red/000.jpg").read_bytes()
    (root / "train/red/000.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/red/001.jpg").write_text("not a photograph")
    (root / "train/blue/notes.txt").write_text("notes")
    return root


def test_bad_files_are_left_out_and_reported(spoilt: Path) -> None:
    images = open_folder(str(spoilt), 0)
    found, bad = run_scan(images)
    assert {file.id for file in bad} == {"train/red/000.jpg", "train/red/001.jpg", "train/blue/notes.txt"}
    assert all(str(spoilt) not in file.reason for file in bad)
    part = found["fit"]
    assert len(part.samples) == 8 and part.pixels.shape == (8, 24, 24, 3)
    assert [images.classes[label] for label in part.labels] == [sample.label for sample in part.samples]


def test_workers_change_nothing(spoilt: Path) -> None:
    images = open_folder(str(spoilt), 0)
    one, many = run_scan(images, workers=1)[0]["fit"], run_scan(images, workers=4)[0]["fit"]
    assert np.array_equal(one.pixels, many.pixels) and one.samples == many.samples and one.digest == many.digest


def test_fail_lists_every_bad_file(spoilt: Path) -> None:
    with pytest.raises(ZooError) as error:
        run_scan(open_folder(str(spoilt), 0), "fail")
    for name in ("train/red/000.jpg", "train/red/001.jpg", "train/blue/notes.txt"):
        assert name in error.value.message


def test_a_class_of_bad_files_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 2, "val": 2})
    for file in (root / "train/red").iterdir():
        file.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ZooError, match="class `red` has no usable photograph left to train on") as error:
        run_scan(open_folder(str(root), 0))
    assert error.value.hint is not None and "train/red/000.jpg" in error.value.hint


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    root = make_photos(tmp_path, {"train": 3, "val": 2})
    before = run_scan(open_folder(str(root), 0))[0]["fit"].digest
    assert run_scan(open_folder(str(root), 0))[0]["fit"].digest == before
    (root / "train/red/000.jpg").write_bytes((root / "train/red/001.jpg").read_bytes())
    assert run_scan(open_folder(str(root), 0))[0]["fit"].digest != before


def test_beyond_the_budget_pixels_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.data.decoding, "MEMORY_BUDGET", 100)
    array = allocate((10, 4, 4, 3))
    assert isinstance(array, np.memmap)
    array[:] = 7
    assert (array == 7).all()
    assert not isinstance(allocate((1, 4, 4, 3)), np.memmap)


def test_stored_pixels_are_reused_until_a_file_changes(spoilt: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("store")
    decoded: list[int] = []

    def convert(photograph: np.ndarray) -> np.ndarray:
        decoded.append(1)
        return pixels(photograph, PREPROCESS)

    def again() -> tuple[zoo.data.decoding.DecodedImages, set[tuple[str, str]]]:
        images = open_folder(str(spoilt), 0)
        store = Store(folder)
        parts = {"fit": DecodeRequest(images.splits["train"], (24, 24), convert)}
        found, bad = decode_parts(
            images, parts, on_bad_image="skip", workers=1, store=store, keys={"fit": pixel_key(PREPROCESS)}
        )
        return found["fit"], {(file.id, file.reason) for file in bad}

    first, bad = again()
    assert len(decoded) == 8
    second, told = again()
    assert len(decoded) == 8 and told == bad and len(bad) == 3
    assert second.samples == first.samples and second.digest == first.digest and second.contents == first.contents
    assert np.array_equal(second.pixels, first.pixels) and np.array_equal(second.labels, first.labels)
    assert first.digest == run_scan(open_folder(str(spoilt), 0))[0]["fit"].digest
    (spoilt / "train/red/000.jpg").write_bytes((spoilt / "train/blue/000.jpg").read_bytes())  # mended
    third, told = again()
    assert len(third.samples) == 9 and len(told) == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Noisy photographs of 8 to 12 times the canvas, so that a JPEG decoded at a fraction has other pixels."""
    root = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    for split, label, number in product(("train", "val"), ("a", "b"), range(2)):
        pixels = generator.integers(0, 256, (300, 360 + 20 * number, 3), dtype=np.uint8)
        (root / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / split / label / f"{number}.jpg", quality=95)
    return open_folder(str(root), 0)


@pytest.mark.parametrize("sizes", [(32, 24), (32, 32), (24, 33)])
def test_what_is_scored_is_decoded_in_full_and_shares_no_pixels_with_what_is_fitted(
    large: Images, sizes: tuple[int, int], tmp_path: Path
) -> None:
    preprocess = Preprocess(resize=sizes[0], crop=sizes[1])
    samples = large.splits["val"]
    both = Roles(fit=samples, choose=samples, reported="val", notes=())  # the same files, so that the key alone decides
    parts = decode_requests(large, both, preprocess)
    store, keys = Store(tmp_path), store_keys(parts, preprocess)
    for _ in range(2):  # decoded, then read from the store
        found, _ = decode_parts(large, parts, on_bad_image="fail", workers=1, store=store, keys=keys)
        for role, least, shown in (
            ("fit", SPARE * max(preprocess.canvas), canvas),
            ("choose", None, pixels),
            ("reported", None, pixels),
        ):
            expected = [shown(decode(sample.source, least), preprocess) for sample in samples]
            assert np.array_equal(found[role].pixels, np.stack(expected)), role
    assert SPARE * max(preprocess.canvas) < 150  # so that a half is enough
    some = samples[0].source
    assert not np.array_equal(
        pixels(decode(some, SPARE * max(preprocess.canvas)), preprocess), pixels(decode(some), preprocess)
    )


def test_every_evaluation_decodes_in_full(large: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Training's own figures, `evaluate` and `predict`: no image but those of train is decoded at a fraction."""
    asked: dict[str, set[int | None]] = {}

    def noted(source: Any, at_least: int | None = None, **rest: Any) -> Any:
        asked.setdefault("train" if "/train/" in str(source) else "val", set()).add(at_least)
        return decode(source, at_least, **rest)

    for module in (zoo.data.decoding, zoo.inference.prediction):
        if hasattr(module, "decode"):
            monkeypatch.setattr(module, "decode", noted)
    run = zoo.train(replace(TINY, data=large.name, strategy="linear", epochs=None, cache="off"), out=tmp_path / "run")
    assert asked.pop("train") == {SPARE * max(run.preprocess.canvas)} and asked == {"val": {None}}
    zoo.evaluate(run, split="train")
    zoo.predict(run, [sample.source.path for sample in large.splits["train"]])  # type: ignore[attr-defined]
    assert asked == {"val": {None}, "train": {None}}


@given(st.integers(20, 40), st.tuples(*[st.integers(16, 40)] * 2), st.tuples(*[st.sampled_from(get_args(Fit))] * 2))
def test_equal_keys_mean_equal_pixels(resize: int, crops: tuple[int, int], fits: tuple[Fit, Fit]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8)
    one, other = (Sample(name, "a", image) for name in ("one", "other"))
    images = Images(name="x", classes=("a",), splits={"train": (one,), "val": (other,)})
    roles, found = Roles(fit=(), choose=(), reported="val", notes=()), []
    for crop, fit in zip(crops, fits):
        preprocess = Preprocess(resize=crop if fit == "pad" else resize, crop=crop, fit=fit)
        parts = decode_requests(images, roles, preprocess)
        keys = store_keys(parts, preprocess)
        found += [(keys[name], part.convert(image)) for name, part in parts.items()]
    for (key, shown), (another, seen) in combinations(found, 2):
        assert key != another or np.array_equal(shown, seen)


def cut(file: Path, lost: int | None = None) -> None:
    """Cut the last bytes off a file, or half of it."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - lost if lost else len(whole) // 2])


def test_bad_files_of_every_split_are_found_by_training(tmp_path: Path, plugins: Plugins) -> None:
    root = make_photos(tmp_path / "photos", {"train": 4, "val": 3, "test": 3})
    for split in ("train", "val", "test"):
        cut(root / split / "red/000.jpg")
        cut(root / split / "blue/001.jpg", 2)
    settings = replace(TINY, data=str(root), strategy="linear")
    for attempt in ("first", "from the store"):
        run = train(settings, out=tmp_path / attempt, plugins=plugins)
        assert {file["path"] for file in run.record["bad_images"]} == {
            f"{split}/red/000.jpg" for split in ("train", "val", "test")
        }
        doubtful = {file["path"]: file["reason"] for file in run.record["doubtful_images"]}
        assert set(doubtful) == {"train/blue/001.jpg", "val/blue/001.jpg"}
        assert all("last bytes" in reason for reason in doubtful.values())
        assert set(run.record["data"]) == set(run.splits()["roles"]) == {"fit", "choose"}
    assert {file.id for file in evaluate(run, split="test", plugins=plugins).doubtful} == {"test/blue/001.jpg"}
    with refused(ZooError, "2 files", "test/red/000.jpg", "test/red/002.jpg"):
        for split in ("train", "val"):
            (root / split / "red/000.jpg").unlink()
        cut(root / "test/red/002.jpg")
        train(replace(settings, on_bad_image="fail"), out=tmp_path / "failed", plugins=plugins)


def test_levels_belong_to_the_run_and_to_its_file(tmp_path: Path, plugins: Plugins) -> None:
    """12 bits in 16, or float levels of a thermometer: what the user said in training holds wherever the model goes."""
    root = make_photos(tmp_path / "photos", {"train": 6, "val": 3})
    for file in sorted(root.rglob("*.jpg")):
        levels = np.asarray(Image.open(file).convert("L")).astype(np.float32) / 255 * 40 - 10
        Image.fromarray(levels).save(file.with_suffix(".tif"))
        file.unlink()
    settings = replace(TINY, data=str(root), strategy="linear", levels=[-10, 30])  # type: ignore[arg-type]
    run = train(settings, out=tmp_path / "run", plugins=plugins)
    assert run.preprocess.levels == (-10.0, 30.0) and not run.record["bad_images"]
    file = export(run, plugins=plugins).path
    for model, apart in ((run, 1e-4), (file, 0.05)):  # the file resizes in its graph
        found = evaluate(model, data=str(root), split="val", plugins=plugins)
        assert not found.bad
        assert np.allclose(found.predictions.logits, run.predictions().logits, atol=apart)
        assert found.levels == (-10.0, 30.0) and any("as in training" in note for note in found.notes)
        said: list[str] = []
        own, bad = predict(model, root / "val", plugins=plugins)
        assert not bad
        other, bad = predict(model, root / "val", levels=(-10, 300), plugins=plugins)
        assert not bad and [one.top for one in own] != [one.top for one in other]
        list(predict_each(model, root / "val", levels=(-10, 300), plugins=plugins, note=said.append))
        assert len(said) == 1 and not unsaid(said[0], "-10", "300", "30")
    stored = run.predictions()
    found = evaluate(run, levels=(-10, 300), plugins=plugins)
    assert found.to_json()["levels"] == [-10.0, 300.0] and not np.allclose(found.predictions.logits, stored.logits)
    assert np.array_equal(run.predictions().logits, stored.logits), "figures of other levels are not the run's own"
    with refused(UsageError, "`--levels`", "numbers"):
        evaluate(run, levels=(1, 0), plugins=plugins)
    with refused(UsageError, "`--levels`", "numbers"):
        predict(run, root / "val", levels=(1, 0), plugins=plugins)
    with refused(ZooError, "grey levels", "`--levels LOW HIGH`"):
        train(replace(settings, levels=None), out=tmp_path / "none", plugins=plugins)


@pytest.mark.parametrize("levels", [(1, 0), (0, 0), (0, float("nan")), (1,), "ab", (0, "x")])
def test_levels_that_are_none(levels: Any) -> None:
    with refused(UsageError, "`--levels", "numbers"):
        replace(TINY, levels=levels)


@given(
    sides=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20),
    workers=st.integers(2, 5),
    limit=st.integers(1, 3000),
    bad=st.sets(st.integers(0, 19)),
)
@settings(max_examples=30, deadline=None)
def test_pixels_in_memory_are_bounded(sides: list[tuple[int, int]], workers: int, limit: int, bad: set[int]) -> None:
    """All come back in order, whatever the bound; and what is decoded at once keeps to it, or is a single image."""
    held: list[int] = []

    class Watched(PixelBudget):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "held":
                held.append(int(str(value)))

    def source(number: int, side: tuple[int, int]) -> BytesSource:
        data = io.BytesIO()
        Image.new("RGB", side).save(data, "PNG")
        content = b"no image" if number in bad else data.getvalue()
        return BytesSource(str(number), lambda: content)

    samples = [Sample(str(number), "a", source(number, side)) for number, side in enumerate(sides)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.data.decoding, "PIXELS_IN_MEMORY", limit)
        patch.setattr(zoo.data.decoding, "PixelBudget", Watched)
        found = list(decode_all(samples, workers))
    assert [sample for sample, _ in found] == samples
    assert [isinstance(result, BadImage) for _, result in found] == [number in bad for number in range(len(sides))]
    sizes = [width * height for number, (width, height) in enumerate(sides) if number not in bad]
    assert all(pixels <= limit or pixels in sizes for pixels in held)
    assert max(held) >= max(sizes, default=0) and held[-1] == 0


def test_an_image_larger_than_the_bound_is_alone() -> None:
    budget = PixelBudget(100)
    first, second, third = (budget.next_turn() for _ in range(3))
    first.take(60)
    waiting = [Thread(target=second.take, args=(500,)), Thread(target=third.take, args=(10,))]
    for thread in waiting:
        thread.start()
    waiting[0].join(0.05)
    assert budget.held == 60  # the third waits for the second, so that the oldest never starves
    first.give_back()
    waiting[0].join(10)
    assert budget.held == 500
    second.give_back()
    waiting[1].join(10)
    assert budget.held == 10 and not any(thread.is_alive() for thread in waiting)


def test_a_caller_that_stops_leaves_no_thread_behind(tmp_path: Path) -> None:
    images = open_folder(str(make_photos(tmp_path, {"train": 6, "val": 2})), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.data.decoding, "PIXELS_IN_MEMORY", 1)
        before = threading.active_count()
        decoded = decode_all(images.splits["train"], 3)
        next(decoded)
        decoded.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before


def test_levels_without_images_that_have_more_than_8_bits_are_told(
    two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    said: list[str] = []

    class Said(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    train(replace(TINY, data=str(two_splits), levels=(0, 4095)), out=tmp_path / "run", plugins=plugins, progress=Said())
    assert any(text.startswith("`--levels` changes images of more than 8 bits alone, and of") for text in said)
    said.clear()
    file = next((root := shutil.copytree(two_splits, tmp_path / "deep")).glob("train/*/*.jpg"))
    Image.fromarray(np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16).save(file.with_suffix(".tif"))
    train(replace(TINY, data=str(root), levels=(0, 4095)), out=tmp_path / "deeper", plugins=plugins, progress=Said())
    assert not any("alone" in text for text in said)
