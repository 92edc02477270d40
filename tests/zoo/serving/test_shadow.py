"""Shadow: flips are counted and told with intervals, and the live file never waits for it."""

from __future__ import annotations

import dataclasses
import io
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from messages import refused
from PIL import Image
from serving_support import until

from zoo import ZooError
from zoo.data.image import Pixels
from zoo.evaluation.statistics import paired_difference_interval, wilson_interval
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo.serving.served_model import Batching, ServedModel
from zoo.serving.server import ServerSettings, serve
from zoo.serving.service import Service
from zoo.serving.shadow import MOST_PAIRS, Shadow, check_fits
from zoo_cli.main import run as run_zoo

SECONDS = 60.0  # more than any test takes
CLASSES = ("dark", "grey", "light")


class Tones:
    """A predictor whose class follows from an image's first grey level, with some levels shifted."""

    preprocess = Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    device = "none"

    def __init__(self, shift: int = 0, classes: tuple[str, ...] = CLASSES) -> None:
        self.shift, self.classes = shift, classes
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.fails: Exception | None = None
        self.value = 2.0

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        self.entered.set()
        assert self.go.wait(SECONDS)
        if self.fails is not None:
            raise self.fails
        found = np.zeros((len(photographs), len(self.classes)), np.float32)
        for row, image in zip(found, photographs):
            row[min((int(image[0, 0, 0]) + self.shift) // 86, len(self.classes) - 1)] = self.value
        return found


def served(predictor: Any, name: str = "live", digest: str = "", inputs: str = "photographs") -> ServedModel:
    return ServedModel(
        name=name,
        path=Path(f"{name}.onnx"),
        digest=digest or name,
        predictor=predictor,
        record={"inputs": [inputs], "precision": {"name": "fp32"}, "metadata": {}},
        batching=Batching(size=1, seconds={1: 1.0}),
    )


def image(level: int) -> Pixels:
    return np.full((4, 5, 3), level, np.uint8)


class Watched:
    """A service with a shadow on every image."""

    def __init__(self, other: Tones, share: float = 1.0) -> None:
        self.live, self.other = Tones(), other
        self.service = Service([served(self.live)], workers=1)
        self.service.compare_with(served(other, "new"), share)
        assert self.service.shadow is not None
        self.shadow: Shadow = self.service.shadow

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.other.go.set()
        self.service.close()

    def ask(self, *levels: int) -> None:
        """Answer images one after the other; each is through the shadow before the next comes."""
        for level in levels:
            self.start(level)
            self.shadow.wait()

    def start(self, level: int) -> None:
        """Answer an image, and wait until the worker has told its observers."""
        (future,) = self.service.pool.submit(self.service.model(), [image(level)], time.monotonic())
        future.result(SECONDS)
        while self.service.pool.busy:
            time.sleep(0.001)


def test_a_file_beside_itself_flips_nothing() -> None:
    with Watched(Tones()) as watched:
        watched.ask(*range(0, 250, 25))
        told = watched.shadow.report()
        assert told["outcomes"] == {"same": 10, "flipped": 0, "dropped": 0, "failed": 0}
        assert told["flipped"] == {"share": 0.0, "interval_95": list(wilson_interval(0, 10))}
        assert told["accuracies_differ_at_most"] == wilson_interval(0, 10)[1] and told["pairs"] == []
        assert told["expected_accuracy"]["difference"] == 0 and told["classes"] == {}
        assert told["live"] == {"model": "live", "digest": "live"} and told["shadow"]["file"] == "new.onnx"


def test_flips_are_told_by_pairs_of_classes_and_with_paired_intervals() -> None:
    other = Tones(shift=20)
    other.value = 4.0  # surer of itself
    levels = [*range(0, 250, 10), 70, 75, 80]
    with Watched(other) as watched:
        watched.ask(*levels)
        told = watched.shadow.report()
    ours = np.array([min(level // 86, 2) for level in levels])
    theirs = np.array([min((level + 20) // 86, 2) for level in levels])
    flipped = int((ours != theirs).sum())
    assert 0 < flipped == told["outcomes"]["flipped"] and told["images"] == len(levels)
    assert told["flipped"]["interval_95"] == list(wilson_interval(flipped, len(levels)))
    first = told["pairs"][0]
    assert (first["live"], first["shadow"]) == ("dark", "grey")
    assert first["images"] == ((ours == 0) & (theirs == 1)).sum()
    assert sum(one["images"] for one in told["pairs"]) == flipped and told["further_pairs"] == 0
    for index, name in enumerate(CLASSES):
        shares = told["classes"][name]
        assert shares["live"] == (ours == index).mean() and shares["shadow"] == (theirs == index).mean()
        assert shares["difference"] == pytest.approx(shares["shadow"] - shares["live"])
        assert shares["interval_95"] == pytest.approx(paired_difference_interval(theirs == index, ours == index))
    live, new = (float(softmax(np.array([[value, 0, 0]], np.float32)).max()) for value in (2.0, 4.0))
    expected = told["expected_accuracy"]
    assert (expected["live"], expected["shadow"]) == pytest.approx((live, new))
    assert expected["interval_95"] == pytest.approx([new - live] * 2) and "calibrated" in expected["holds"]
    assert f"{flipped} of {len(levels)} labels differ from `live`'s" in told["says"] and "`grey`" in told["says"]


def test_the_live_file_never_waits_and_what_is_not_taken_is_counted() -> None:
    other = Tones()
    with Watched(other) as watched:
        other.go.clear()
        watched.start(10)  # answered, though the shadow is at it and does not end
        assert other.entered.wait(SECONDS)
        for level in (20, 30, 40):
            watched.start(level)
        assert watched.shadow.report()["outcomes"] == {"same": 0, "flipped": 0, "dropped": 3, "failed": 0}
        other.go.set()
        watched.shadow.wait()
        watched.ask(50)
        assert watched.shadow.report()["outcomes"] == {"same": 2, "flipped": 0, "dropped": 3, "failed": 0}


def test_nothing_is_taken_while_images_wait() -> None:
    with Watched(Tones()) as watched:
        futures = watched.service.pool.submit(
            watched.service.model(), [image(level) for level in range(20)], time.monotonic()
        )
        for future in futures:
            future.result(SECONDS)
        watched.shadow.wait()
        watched.ask(1)
        outcomes = watched.shadow.report()["outcomes"]
        assert sum(outcomes.values()) == 21 and outcomes["dropped"] >= 19  # all but the last, behind which none waits


def test_a_shadow_that_fails_is_counted_and_does_no_harm() -> None:
    other = Tones()
    with Watched(other) as watched:
        other.fails = ValueError("no")
        watched.ask(1, 2)
        other.fails, other.value = None, float("nan")
        watched.ask(3)
        other.value = 1.0
        watched.ask(4)
        told = watched.shadow.report()
        assert told["outcomes"] == {"same": 1, "flipped": 0, "dropped": 0, "failed": 3}
        assert watched.service.is_ready() and told["images"] == 1


def test_a_share_of_the_images_is_drawn() -> None:
    with Watched(Tones(), share=0.25) as watched:
        watched.shadow._random.seed(0)
        watched.ask(*[100] * 100)
        drawn = sum(watched.shadow.report()["outcomes"].values())
        assert 10 < drawn < 45


def test_a_new_live_file_is_compared_anew_and_the_other_models_are_not() -> None:
    with Watched(Tones()) as watched:
        watched.ask(1, 2, 3)
        watched.service.put(served(Tones(), digest="second"))
        watched.ask(4)
        told = watched.shadow.report()
        assert told["images"] == 1 and told["live"]["digest"] == "second"
        watched.service.put(served(Tones(), "further"))
        (future,) = watched.service.pool.submit(watched.service.model("further"), [image(5)], time.monotonic())
        future.result(SECONDS)
        watched.ask(6)
        assert sum(watched.shadow.report()["outcomes"].values()) == 2


def test_lines_in_the_log_become_rarer(caplog: pytest.LogCaptureFixture) -> None:
    with Watched(Tones(shift=20)) as watched, caplog.at_level(logging.INFO, "zoo.serve"):
        answers = (np.array([2.0, 0, 0], np.float32), np.array([0, 2.0, 0], np.float32))
        for number in range(2100):
            watched.shadow._count(answers[0], answers[number % 10 == 0])
        lines = [record.getMessage() for record in caplog.records if "shadow" in record.getMessage()]
        counted = [int(line.split(" of ")[1].split()[0]) for line in lines]
        assert counted == [100, 200, 500, 1000, 2000]
        assert "shadow `new`: 10 of 100 labels differ from `live`'s: 10.00% (" in lines[0]


def test_pairs_of_classes_are_bounded() -> None:
    classes = tuple(map(str, range(200)))
    live, other = Tones(classes=classes), Tones(classes=classes)
    service = Service([served(live)], workers=1)
    try:
        service.compare_with(served(other, "new"), 1.0)
        shadow = service.shadow
        assert shadow is not None
        rows = np.eye(200, dtype=np.float32)
        for first in range(110):
            for second in range(200):
                if first != second:
                    shadow._count(rows[first], rows[second])
        told = shadow.report()
        assert len(shadow._flips) == MOST_PAIRS and told["outcomes"]["flipped"] == 110 * 199
        assert len(told["pairs"]) == 20 and told["further_pairs"] > 9000 and len(told["classes"]) == 20
    finally:
        service.close()


def test_a_shadow_must_have_the_same_classes_and_input() -> None:
    live = served(Tones())
    check_fits(live, served(Tones(), "new"))
    with refused(ZooError, "new.onnx", "classes", "live.onnx"):
        check_fits(live, served(Tones(classes=("grey", "dark", "light")), "new"))
    with refused(ZooError, "new.onnx", "input", "live.onnx"):
        check_fits(live, served(Tones(), "new", inputs="pixels"))
    scaled = Tones()
    scaled.preprocess = dataclasses.replace(scaled.preprocess, levels=(0, 4095))
    with refused(ZooError, "new.onnx", "grey levels", "4095"):
        check_fits(live, served(scaled, "new"))


def test_a_missing_or_damaged_shadow_ends_the_start(
    exported_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = exported_run / "model.onnx"
    code = run_zoo(["serve", str(file), "--shadow", str(tmp_path / "none.onnx"), "--port", "0"])
    assert code == 1 and "none.onnx` is not there" in capsys.readouterr().err
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(file.read_bytes()[:-1000])
    with refused(ZooError, "damaged.onnx", "not served"):
        serve(ServerSettings(files=(file,), device="cpu", shadow=damaged), [], lambda models: None)


def test_route_and_metrics() -> None:
    from starlette.testclient import TestClient

    from zoo.serving.app import make_app

    alone = Service([served(Tones())], workers=1)
    told = TestClient(make_app(alone)).get("/shadow")
    assert told.status_code == 404 and "--shadow" in told.json()["hint"]
    alone.close()
    with Watched(Tones(shift=20)) as watched:
        client = TestClient(make_app(watched.service))
        assert client.get("/shadow").json()["flipped"] is None
        assert "zoo_shadow_flip_share{" not in client.get("/metrics").text
        body = _png(image(80))
        assert client.post("/predict", content=body).json()["label"] == "dark"
        until(lambda: 'outcome="flipped"} 1.0' in client.get("/metrics").text)  # else the next one is dropped
        watched.ask(10)
        text = client.get("/metrics").text
        assert 'zoo_shadow_images_total{model="live",outcome="flipped"} 1.0' in text
        assert 'zoo_shadow_images_total{model="live",outcome="same"} 1.0' in text
        assert 'zoo_shadow_flip_share{bound="",model="live"} 0.5' in text
        assert client.get("/shadow").json() == watched.shadow.report()


def _png(pixels: Pixels) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def test_the_image_that_the_shadow_holds_is_in_the_pixel_budget() -> None:
    with Watched(Tones()) as watched:
        pool = watched.service.pool
        watched.other.go.clear()
        watched.start(100)
        assert pool.pixels_in_flight == 20  # of the shadow alone: the worker has given back its own
        watched.other.go.set()
        watched.shadow.wait()
        assert pool.pixels_in_flight == 0
        assert pool.hold(
            pool.bounds.pixels_in_flight - 30
        )  # there is room for the worker, not for the shadow beside it
        watched.start(100)
        assert watched.shadow.outcomes["dropped"] == 1
        pool.release(pool.bounds.pixels_in_flight - 30)
        assert pool.pixels_in_flight == 0


def test_another_file_takes_the_place_of_the_shadow_and_counts_begin_anew() -> None:
    with Watched(Tones(86)) as watched:
        watched.ask(0, 100)
        assert watched.shadow.outcomes["flipped"] == 2
        watched.other.go.clear()
        watched.other.entered.clear()
        watched.start(100)
        assert watched.other.entered.wait(SECONDS)  # the old file has the image, which is not counted
        watched.shadow.replace(served(Tones(), "newer"))
        watched.other.go.set()
        watched.shadow.wait()
        assert watched.shadow.outcomes == dict.fromkeys(watched.shadow.outcomes, 0)
        watched.ask(0, 100)
        assert watched.shadow.outcomes["same"] == 2
        with pytest.raises(ZooError, match="has other classes"):
            watched.shadow.replace(served(Tones(classes=("a", "b")), "others"))
        assert watched.shadow.other.name == "newer"
