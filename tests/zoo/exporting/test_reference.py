"""The reference in an exported file: what it says of the images that its run was scored on, and that it is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from messages import refused

from zoo import ZooError, verify
from zoo.data.image import decode
from zoo.data.image_statistics import measure
from zoo.exporting.reference import (
    DITHER,
    NAMES,
    QUANTILES,
    MeasuringPredictor,
    Reference,
    make_reference,
    statistics_of,
)
from zoo.exporting.verification import inspect
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.runs.run import Run
from zoo_cli.main import run as run_zoo
from zoo_onnx.session import open_file
from zoo_onnx.write import annotate, refer


def metadata_of(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


def test_an_export_holds_what_its_images_look_like(exported_run: Path, two_splits: Path) -> None:
    file = exported_run / "model.onnx"
    text = metadata_of(file)["zoo.reference"]
    found = Reference.from_json(json.loads(text))
    run = Run.open(exported_run)
    table = run.predictions()
    assert found.images == len(table) and found.split == table.split == "val"
    assert found.accuracy == table.correct.mean() and found.accuracy_interval[0] < found.accuracy
    assert found.gap == pytest.approx((table.probabilities.max(axis=1) - table.correct).mean(), abs=1e-4)
    assert found.predicted == tuple(np.bincount(table.predicted, minlength=len(table.classes)))
    images = [decode(two_splits / name) for name in table.ids]
    logits = open_file(file, "cpu").logits(images)
    shown = Predictions(split="val", classes=table.classes, ids=table.ids, labels=table.labels, logits=logits)
    values = statistics_of(shown.probabilities, [measure(image) for image in images])
    for name, column, width in zip(NAMES, values.T, DITHER):
        assert found.means[name] == pytest.approx(column.mean(), rel=1e-3, abs=1e-4)
        ranked = np.sort(column)[np.array(found.ranks) - 1]
        assert np.abs(np.array(found.quantiles[name]) - ranked).max() <= 1e-3 * np.abs(ranked).max() + 2 * width
    assert not any(name in text for name in table.ids) and len(text) < 8000


def test_a_reference_comes_back_from_json_and_damage_is_named(exported_run: Path) -> None:
    value = json.loads(metadata_of(exported_run / "model.onnx")["zoo.reference"])
    assert Reference.from_json(value).to_json() == value
    later = {**value, "quantiles": {**value["quantiles"], "warmth": [1.0]}, "more": 1}
    assert Reference.from_json(later).to_json() == value  # what a later version adds is passed over
    damaged: list[dict[str, Any]] = [
        {key: one for key, one in value.items() if key != "ranks"},
        {**value, "ranks": value["ranks"][::-1]},
        {**value, "ranks": []},
        {**value, "predicted": [1]},
        {**value, "images": "many"},
        {**value, "quantiles": {name: one[::-1] for name, one in value["quantiles"].items()}},
    ]
    for one in damaged:
        with refused(ZooError, "reference", "export the run again"):
            Reference.from_json(one)


def test_few_and_many_images_have_a_reference() -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 20, 21, 22, 500):
        table = Predictions(
            split="val",
            classes=tuple(map(str, range(1000))),
            ids=tuple(map(str, range(count))),
            labels=np.zeros(count, np.int64),
            logits=random.standard_normal((count, 1000)).astype(np.float32),
        )
        measured = [random.random(5) * 100 for _ in range(count)]
        found = make_reference(table, measured)
        assert len(found.ranks) == min(count, QUANTILES) and found.ranks[-1] == count
        assert Reference.from_json(found.to_json()) == found
        assert len(json.dumps(found.to_json())) < 8000
        order = random.permutation(count)
        logits = table.logits[order]
        turned = Predictions(split="val", classes=table.classes, ids=table.ids, labels=table.labels, logits=logits)
        assert make_reference(turned, [measured[row] for row in order]) == found  # to the last bit


def test_what_is_measured_on_the_way_does_not_change_the_answers(exported_run: Path, two_splits: Path) -> None:
    images = [decode(file) for file in sorted((two_splits / "val").glob("*/*"))]
    plain = open_file(exported_run / "model.onnx", "cpu")
    measuring = MeasuringPredictor(plain)
    assert np.array_equal(measuring.logits(images), plain.logits(images))
    assert np.array_equal(np.stack(measuring.measured), np.stack([measure(image) for image in images]))
    assert (measuring.classes, measuring.preprocess, measuring.device) == (
        plain.classes,
        plain.preprocess,
        plain.device,
    )


def test_a_reference_and_a_parity_are_stored_beside_each_other(
    exported_run: Path, tmp_path: Path, plugins: Plugins
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes((exported_run / "model.onnx").read_bytes())
    before = metadata_of(file)
    for _ in range(2):
        refer(file, {"images": 3})
        annotate(file, {"agreeing": 3})
    told = inspect(file)["metadata"]
    assert told["zoo.reference"] == {"images": 3} and told["zoo.parity"] == {"agreeing": 3}
    assert set(told) == set(before)
    assert all(check.passed for check in verify(file, plugins=plugins))


def test_inspect_shows_it_shortly(exported_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_zoo(["inspect", str(exported_run / "model.onnx")])
    (line,) = [one for one in capsys.readouterr().err.split("zoo.") if one.startswith("reference ")]
    assert code == 0 and "images 12" in line and "accuracy" in line and len(line) < 500
