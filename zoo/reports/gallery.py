"""Gallery: a run's most confident mistakes, with small photographs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from zoo.data.division import undivided
from zoo.data.image import BadImage, decode
from zoo.data.opening import open_to_score, spelt_as
from zoo.dataset import Sample
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.runs.run import Run

GALLERY = 12  # photographs in the gallery of mistakes
THUMBNAIL = 220  # pixels, the longer side


def gallery(run: Run, table: Predictions, plugins: Plugins) -> list[dict[str, Any]]:
    """The mistakes with the highest confidence, with small photographs where these can still be read."""
    wrong = np.flatnonzero(~table.correct)
    if not len(wrong):
        return []
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
            "photograph": _thumbnail(samples.get(table.ids[index]), run.preprocess.levels),
        }
        for index in order
    ]


def _thumbnail(sample: Sample | None, levels: tuple[float, float] | None) -> str | None:
    """A small JPEG as a data URL; None where the image cannot be read."""
    from PIL import Image

    if sample is None:
        return None
    try:
        image = Image.fromarray(decode(sample.source, levels=levels))
    except (BadImage, OSError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
