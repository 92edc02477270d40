"""Images for int8: which they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import TINY

import zoo.exporting.calibration_set
from zoo import Plugins, train
from zoo.data.decoding import decode_all
from zoo.data.opening import open_images
from zoo.dataset import Sample
from zoo.exporting.calibration_set import draw


def test_only_fitted_images_calibrate(
    three_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what is scored, or was chosen on, is seen; ranges and choices share no image."""
    experiment = replace(TINY, data=str(three_splits), strategy="knn", fraction=0.8)
    run = train(experiment, out=tmp_path / "run", plugins=plugins)
    seen: list[str] = []

    def spy(samples: Iterable[Sample], *rest: Any, **more: Any) -> Any:
        listed = list(samples)
        seen.extend(sample.id for sample in listed)
        return decode_all(listed, *rest, **more)

    monkeypatch.setattr(zoo.exporting.calibration_set, "decode_all", spy)
    found = draw(run, open_images(str(three_splits), 0, plugins), 8)
    assert set(seen) == set(run.splits()["roles"]["fit"]) and len(seen) == len(set(seen)) == 20
    assert len(found.ranges) == 8 and len(found.choices) == 12 == len(found.labels)
    shown = {image.tobytes() for image in found.ranges}
    assert len(shown) == 8 and not shown & {image.tobytes() for image in found.choices}
    assert np.bincount(found.labels).min() >= 5
