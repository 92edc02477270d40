"""Gallery: a run's most confident mistakes, with small photographs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from zoo.data.division import undivided
from zoo.data.image import BadImage, decode, pixels
from zoo.data.opening import open_to_score, spelt_as
from zoo.dataset import Sample
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.reports.occlusion import occlusion_map, overlay
from zoo.runs.run import Run

GALLERY = 12  # photographs in the gallery of mistakes
THUMBNAIL = 220  # pixels, the longer side


def gallery(run: Run, table: Predictions, plugins: Plugins, *, heat_maps: bool = False) -> list[dict[str, Any]]:
    """The mistakes with the highest confidence, with small photographs where these can still be read.

    With `heat_maps` also with maps of the parts that the wrong predictions rest on; the network is executed for them.

    Raises:
        ZooError: heat maps are asked for, and the run has no network.
    """
    wrong = np.flatnonzero(~table.correct)
    if not len(wrong):
        return []
    predictor = run.predictor("auto", plugins) if heat_maps else None
    confidence = table.probabilities.max(axis=1)
    order = wrong[np.argsort(-confidence[wrong])][:GALLERY]
    try:
        asked = run.experiment
        images = open_to_score(undivided(asked.data), asked.split_seed, plugins, of_run=True)
        images = spelt_as(images, table.ids, run.classes)
        samples = {sample.id: sample for samples in images.splits.values() for sample in samples}
    except ZooError:
        samples = {}
    return [
        {
            "id": table.ids[index],
            "shows": table.classes[table.labels[index]],
            "taken_for": table.classes[table.predicted[index]],
            "confidence": float(confidence[index]),
            **_pictures(samples.get(table.ids[index]), run, int(table.predicted[index]), predictor),
        }
        for index in order
    ]


def _pictures(sample: Sample | None, run: Run, label: int, predictor: Any) -> dict[str, str | None]:
    """A small JPEG as a data URL, and one of what the network sees, with its heat map; None where there is none."""
    from PIL import Image

    found: dict[str, str | None] = {"photograph": None, "heat_map": None}
    if sample is None:
        return found
    try:
        decoded = decode(sample.source, levels=run.preprocess.levels)
    except (BadImage, OSError):
        return found
    image = Image.fromarray(decoded)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    found["photograph"] = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    if predictor is not None:
        seen = pixels(decoded, run.preprocess)
        found["heat_map"] = overlay(seen, occlusion_map(predictor.logits_of_pixels, seen, label), THUMBNAIL)
    return found
