"""Drift: nothing is said of few images, changes are named, false alarms are as rare as stated."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.image import Pixels
from zoo.evaluation.statistics import wilson_interval
from zoo.exporting.reference import DITHER, NAMES, Reference, make_reference
from zoo.predictions import Predictions, softmax
from zoo.preprocess import Preprocess
from zoo.serving.drift import CLASSES, FEWEST, STATISTICS, TOGETHER, Drift, DriftMonitor
from zoo.serving.served_model import Batching, ServedModel
from zoo.serving.service import Service
from zoo.serving.shift_detector import ClassDetector, ValueDetector
from zoo.serving.worker_pool import Answer

LABELS = ("a", "b", "c")
Draws = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]


def draw(count: int, seed: int, *, darker: float = 0.0, share: float = 0.3, margin: float = 3.0) -> Draws:
    """Simulated logits `(N, 3)` and measured statistics `(N, 5)`, with ties; `share` is that of the last class."""
    random = np.random.default_rng(seed)
    best = random.choice(3, count, p=[0.4, 0.6 - share, share])
    logits = np.zeros((count, 3), np.float32)
    logits[np.arange(count), best] = random.gamma(2.0, margin / 2, count)
    measured = np.stack(
        [
            120 + 30 * random.standard_normal(count) - darker,
            random.gamma(9.0, 6.0, count),
            random.gamma(4.0, 8.0, count),
            random.choice([4 / 3, 3 / 4], count),
            np.full(count, 433.0),
        ],
        axis=1,
    )
    return logits, measured


def reference(count: int, seed: int = 0, **how: float) -> Reference:
    logits, measured = draw(count, seed, **how)
    labels = logits.argmax(axis=1)
    labels[:: max(count // 10, 2)] = 0
    ids = tuple(map(str, range(count)))
    table = Predictions(split="val", classes=LABELS, ids=ids, labels=labels, logits=logits)
    return make_reference(table, list(measured))


def show(monitor: DriftMonitor, draws: Draws) -> dict[str, Any]:
    for logits, measured in zip(*draws):
        monitor.observe(logits, measured)
    return monitor.report()


def monitor(count: int = 300, **options: Any) -> DriftMonitor:
    return DriftMonitor("m", LABELS, reference(count), seed=1, **options)


def test_of_few_images_nothing_is_said() -> None:
    watched = monitor()
    told = show(watched, draw(FEWEST - 1, 1, darker=100))
    assert "nothing can be said: 199 images" in told["says"] and told["expected_accuracy"] is None
    assert told["statistics"] == {} and told["classes"] is None and told["alarms"]["active"] == []
    assert told["held_out"]["images"] == 300 and told["held_out"]["split"] == "val"
    told = show(watched, draw(1, 2, darker=100))
    assert told["window"] == FEWEST and told["statistics"]["brightness"]["alarm"] is True


def test_images_like_the_held_out_ones_give_no_alarm_and_the_accuracy_of_the_file() -> None:
    watched = monitor()
    told = show(watched, draw(1500, 1))
    assert told["alarms"]["active"] == [] and set(told["alarms"]["begun"].values()) == {0}
    assert "no alarm" in told["says"] and told["images"] == 1500 and told["window"] == 1000
    held = told["held_out"]
    low, high = told["expected_accuracy"]["interval_95"]
    assert low < held["accuracy"] < high and low < told["expected_accuracy"]["value"] < high
    assert held["interval_95"] == list(wilson_interval(round(held["accuracy"] * 300), 300))
    assert "calibrated" in told["expected_accuracy"]["holds"]
    for name in NAMES:
        shown = told["statistics"][name]
        assert shown["interval_95"][0] < shown["effect"] < shown["interval_95"][1] and abs(shown["effect"]) < 0.2


def test_the_expected_accuracy_is_the_confidence_less_its_excess_on_held_out_images() -> None:
    watched = monitor()
    logits, measured = draw(300, 0)  # those of the reference
    told = show(watched, (logits, measured))
    assert watched.reference is not None
    assert told["expected_accuracy"]["mean_confidence"] == pytest.approx(softmax(logits).max(axis=1).mean(), abs=1e-5)
    assert told["expected_accuracy"]["value"] == pytest.approx(watched.reference.accuracy, abs=1e-5)
    less = show(watched, draw(1000, 3, margin=1.0))
    assert less["expected_accuracy"]["interval_95"][1] < told["expected_accuracy"]["value"]


def test_what_changed_is_named_in_the_log_and_in_the_report(caplog: pytest.LogCaptureFixture) -> None:
    watched = monitor()
    show(watched, draw(500, 1))
    with caplog.at_level(logging.INFO, "zoo.serve"):
        told = show(watched, draw(300, 2, darker=40))
    assert told["alarms"]["active"] == ["brightness"] and told["alarms"]["begun"]["brightness"] == 1
    assert told["statistics"]["brightness"]["interval_95"][1] < 0
    assert told["says"].startswith("alarm: images are darker (median brightness ")
    assert "far too high" in told["expected_accuracy"]["holds"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`m`: drift alarm: images are darker" in line and "one false alarm in 1,000,000 images" in line
    caplog.clear()
    with caplog.at_level(logging.INFO, "zoo.serve"):
        told = show(watched, draw(1000, 3))
    assert told["alarms"]["active"] == [] and told["alarms"]["begun"]["brightness"] == 1
    assert [record.getMessage() for record in caplog.records] == ["`m`: the drift alarm of brightness is over"]
    told = show(watched, draw(400, 4, darker=-40))
    assert told["alarms"]["begun"]["brightness"] == 2 and "images are brighter" in told["says"]


def test_shares_of_classes_and_lost_confidence_are_named() -> None:
    told = show(monitor(), draw(600, 1, share=0.59))
    assert told["alarms"]["active"] == [CLASSES]
    assert told["classes"]["class"] in ("b", "c") and "class `" in told["says"]
    assert told["classes"]["interval_95"][0] > 0 or told["classes"]["interval_95"][1] < 0
    shares = told["classes"]["shares"]
    assert sum(live for live, _ in shares.values()) == pytest.approx(1) == sum(held for _, held in shares.values())
    told = show(monitor(), draw(600, 1, margin=0.5))
    assert {"confidence", "entropy"} <= set(told["alarms"]["active"]) and "less sure" in told["says"]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 400), seed=st.integers(0, 2**20), further=st.integers(0, 60))
def test_no_bet_has_an_advantage_while_nothing_changes(count: int, seed: int, further: int) -> None:
    """The mean of what a bet is multiplied by, over the cells by their chance under the urn, is 1 at any time."""
    held = reference(count, seed)
    values = ValueDetector(held)
    classes = ClassDetector(held, np.random.default_rng(seed))
    weights = np.repeat(np.diff([0, *held.ranks, count + 1])[None].astype(float), len(NAMES), axis=0)
    for logits, measured in zip(*draw(further, seed + 1)):
        shares = softmax(logits[None])[0]
        row = [shares.max(), float(-(shares * np.log(shares)).sum()), *measured]
        for index, name in enumerate(NAMES):
            weights[index, np.searchsorted(held.quantiles[name], row[index])] += 1
        values.observe(row)
        classes.observe(float(logits.argmax()) + 0.5)
    chances = weights / weights.sum(axis=1, keepdims=True)
    multiplied = chances @ values._by_cell * (values._balls / values._expected)
    assert multiplied == pytest.approx(np.ones_like(multiplied))
    assert classes._balls == pytest.approx(count + 1 + further) == classes._weights.sum()
    chance = classes._weights / classes._balls
    lost = classes._balls / (classes._balls + (classes._gains - 1) * classes._weights)
    assert (chance * classes._gains + 1 - chance) * lost == pytest.approx(np.ones_like(lost))


def test_false_alarms_are_as_rare_as_stated() -> None:
    """One in 500 images is allowed; in 60 streams of 500 images, with small references, 60 alarms may come."""
    alarms = 0
    for seed in range(60):
        watched = DriftMonitor("m", LABELS, reference(40, seed), seed=seed, images_per_false_alarm=500)
        told = show(watched, draw(500, 1000 + seed))
        alarms += sum(told["alarms"]["begun"].values())
    assert alarms <= 60


def test_ties_are_broken_by_chance() -> None:
    """All images have the same size, in the reference and in the stream: that is no change, and another size is one."""
    told = show(monitor(), draw(1000, 5))
    assert abs(told["statistics"]["size"]["effect"]) < 0.2 and told["alarms"]["begun"]["size"] == 0
    logits, measured = draw(400, 6)
    measured[:, 4] = 432.0
    told = show(monitor(), (logits, measured))
    assert told["alarms"]["active"] == ["size"] and told["statistics"]["size"]["effect"] == -1
    assert told["statistics"]["size"]["interval_95"][1] > -1  # 300 images do not show that none is larger
    assert DITHER[NAMES.index("size")] < 1


def test_memory_is_bounded_and_threads_may_observe_at_once() -> None:
    watched = monitor(window=250)
    logits, measured = draw(400, 7)

    def some() -> None:
        show(watched, (logits, measured))

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = watched.report()
    assert told["images"] == 1600 and told["window"] == 250
    assert len(watched._values) == 250 and len(watched._pending) < TOGETHER


class Fixed:
    """A predictor for images that are not classified."""

    classes = LABELS
    preprocess = Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    device = "none"

    def logits(self, photographs: Any) -> npt.NDArray[np.float32]:
        return np.zeros((len(photographs), 3), np.float32)


def served(metadata: dict[str, Any], digest: str = "d") -> ServedModel:
    return ServedModel(
        name="m",
        path=Path("m.onnx"),
        digest=digest,
        predictor=Fixed(),
        record={"metadata": metadata, "precision": {"name": "fp32"}, "inputs": []},
        batching=Batching(size=1, seconds={1: 1.0}),
    )


def answered(drift: Drift, model: ServedModel, count: int, level: int = 100) -> None:
    image: Pixels = np.full((6, 8, 3), level, np.uint8)
    for logits in draw(count, 8)[0]:
        seconds = {"queue": 0.0, "decode": 0.0, "network": 0.0}
        answer = Answer(logits=logits, model=model, width=8, height=6, frames=1, remarks=(), seconds=seconds, batch=1)
        drift.answered(answer, image)


def test_a_file_without_a_reference_has_an_expected_accuracy_alone() -> None:
    model = served({"zoo.metrics": {"accuracy": 0.9}, "zoo.accuracy_interval_95": [0.8, 0.95]})
    drift = Drift()
    drift.serves(model)
    answered(drift, model, 250)
    told = drift.report("m")
    assert told["held_out"] == {"accuracy": 0.9, "interval_95": [0.8, 0.95]}
    assert told["expected_accuracy"]["value"] == told["expected_accuracy"]["mean_confidence"]
    assert "no `zoo.reference`" in told["says"] and told["statistics"] == {} and told["digest"] == "d"


@pytest.mark.parametrize("damaged", [{"images": 3}, reference(30).to_json() | {"predicted": [10, 20]}, "text"])
def test_a_reference_that_cannot_be_read_is_told(damaged: Any, caplog: pytest.LogCaptureFixture) -> None:
    drift = Drift()
    drift.serves(served({"zoo.reference": damaged}))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`m`: no drift alarms" in line and drift.report("m")["held_out"] is None


def test_a_new_file_is_watched_anew() -> None:
    drift = Drift()
    old, new = served({"zoo.reference": reference(50).to_json()}), served({}, digest="e")
    drift.serves(old)
    answered(drift, old, 10)
    drift.serves(new)
    answered(drift, old, 5)  # on their way while the file was replaced
    answered(drift, new, 3)
    assert drift.report("m")["images"] == 3 and drift.report("m")["digest"] == "e"


def test_metrics_and_route() -> None:
    from starlette.testclient import TestClient

    from zoo.serving.app import make_app

    model = served({"zoo.reference": reference(100).to_json()})
    service = Service([model], workers=1)
    try:
        client = TestClient(make_app(service))
        answered(service.drift, model, 100)
        text = client.get("/metrics").text
        assert 'zoo_drift_alarms_total{model="m",statistic="brightness"} 0.0' in text
        assert "zoo_expected_accuracy{" not in text and "zoo_drift{" not in text
        answered(service.drift, model, 300, level=10)
        text = client.get("/metrics").text
        assert 'zoo_drift_alarms_total{model="m",statistic="brightness"} 1.0' in text
        for bound in ("", "low", "high"):
            assert f'zoo_expected_accuracy{{bound="{bound}",model="m"}} ' in text
        for statistic in STATISTICS:
            assert f'zoo_drift{{model="m",statistic="{statistic}"}} ' in text
        told = client.get("/drift", params={"model": "m"}).json()
        assert told == client.get("/drift").json() == service.drift.report("m")
        assert "brightness" in told["alarms"]["active"]
        assert client.get("/drift", params={"model": "n"}).status_code == 404
        assert client.post("/drift").status_code == 405
    finally:
        service.close()
