"""Heat maps: the part that decides is the reddest; reports hold them where they are asked for."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import Run, UsageError, report
from zoo.reports.generalization import gap
from zoo.reports.occlusion import BATCH, CELLS, occlusion_map, overlay


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 96), (5, 3)])
def test_the_part_that_decides_has_the_largest_fall(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2  # bright in the middle cell alone
    image[top : top + max(height // CELLS, 1), left : left + max(width // CELLS, 1)] = 255
    sizes = []

    def logits(batch: Any) -> Any:
        sizes.append(len(batch))
        bright = batch.astype(np.float64).max((1, 2, 3)) / 50
        return np.stack([bright, np.zeros(len(batch))], axis=1)

    found = occlusion_map(logits, image, 0)
    assert found.shape == (CELLS, CELLS) and np.isfinite(found).all() and max(sizes) <= BATCH
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row - top * CELLS / height) <= 1 and abs(column - left * CELLS / width) <= 1
    assert found.max() > 0.3 and occlusion_map(logits, image, 1).max() <= 1e-9


def test_an_overlay_is_red_where_the_fall_is_and_unchanged_where_there_is_none() -> None:
    falls = np.zeros((CELLS, CELLS))
    grey = np.full((64, 128, 3), 128, np.uint8)

    def shown(values: Any) -> Any:
        data = overlay(grey, values, 64).partition(",")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.int64)

    plain = shown(falls)
    assert plain.shape == (32, 64, 3) and np.abs(plain - 128).max() < 4
    assert np.abs(shown(falls - 1) - 128).max() < 4
    falls[:, 0] = 1
    red = shown(falls)
    assert (red[:, 1, 0] - red[:, 1, 2] > 60).all() and np.abs(red[:, -2] - 128).max() < 8


def test_a_report_has_heat_maps_where_they_are_asked_for(exported_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(exported_run, tmp_path / "run"))
    table = run.predictions()
    labels = table.labels.copy()
    labels[0] = 1 - table.predicted[0]  # a mistake
    replace(table, labels=labels).save(run.path / "predictions-val.safetensors")
    page = report(run, out=tmp_path / "a.html", heat_maps=True).html.read_text()
    assert page.count('alt="What the prediction') == int((labels != table.predicted).sum())
    assert 'alt="What the prediction' not in report(run, out=tmp_path / "b.html").html.read_text()
    with pytest.raises(UsageError, match="heat maps"):
        report(run, out=tmp_path / "c.html", heat_maps=True, photographs=False)


def test_the_gap_is_that_of_reported_and_training_images(exported_run: Path) -> None:
    run = Run.open(exported_run)
    found = gap(run, "val", run.metrics)
    assert found is not None and found["loss"]["train"] == run.record["fitted"]["loss"]
    assert found["loss"]["gap"] == pytest.approx(run.metrics["loss"] - run.record["fitted"]["loss"])
    assert found["accuracy"]["gap"] == pytest.approx(run.metrics["accuracy"] - run.history[-1]["train_accuracy"])
    assert gap(run, "val", {"loss": None}) is None
    # the loss of the last epoch, with label smoothing and without a temperature, is not that of the finished network
    last = round(run.history[-1]["train_loss"], 6)
    epoch = Run(run.path, {**run.record, "fitted": {**run.record["fitted"], "loss": last}})
    assert "loss" not in (gap(epoch, "val", run.metrics) or {})
