"""Model card: what a served file says about itself, as `/models` and the page tell it."""

from __future__ import annotations

from typing import Any

from zoo.evaluation.statistics import wilson_interval
from zoo.preprocess import FIT_SETTINGS, pixels_text
from zoo.serving.served_model import ServedModel


def model_card(model: ServedModel) -> dict[str, Any]:
    """The card of a model, in JSON values; what its file does not say is null.

    `accuracy` is that of the file itself, on the images that it was compared with its run on: `value` and
    `interval_95` (Wilson) as shares, `images` and their `split`. A file without such a comparison tells its run's.
    Of a file with a threshold for unknown images, `unknown` says how it was set.
    """
    said = model.record.get("metadata", {})
    weights = said.get("zoo.weights") or {}
    preprocess = said.get("zoo.preprocess") or {}
    return {
        "name": model.name,
        "digest": model.digest,
        "bytes": model.record.get("bytes"),
        "classes": list(model.classes),
        "precision": model.record.get("precision", {}).get("name"),
        "provider": model.provider,
        "batch_size": model.batching.size,
        "batching": str(model.batching),
        "accuracy": _accuracy(model.record.get("parity") or {}, said),
        "calibration_error": (said.get("zoo.metrics") or {}).get("ece"),
        "data": said.get("zoo.data_name"),
        "backbone": said.get("zoo.backbone"),
        "strategy": said.get("zoo.strategy"),
        "input_pixels": _input_size(preprocess.get("crop")),
        "fit": FIT_SETTINGS.get(preprocess.get("fit")),
        **({"unknown": said["zoo.unknown"]} if "zoo.unknown" in said else {}),
        "license": said.get("zoo.license"),
        "weights": weights.get("source"),
        "trained": said.get("zoo.trained"),
        "exported": said.get("zoo.exported"),
    }


def _input_size(crop: Any) -> int | str | None:
    """The side of a square, or a text such as `160x320` (height x width)."""
    return pixels_text((crop[0], crop[1])) if isinstance(crop, list) else crop


def _accuracy(parity: dict[str, Any], said: dict[str, Any]) -> dict[str, Any] | None:
    if parity.get("images"):
        images: int | None = parity["images"]
        value = parity["accuracy"]
        interval: list[float] | None = list(wilson_interval(round(value * images), parity["images"]))
    else:
        images = ((said.get("zoo.data") or {}).get("reported") or {}).get("images")
        value = (said.get("zoo.metrics") or {}).get("accuracy")
        interval = said.get("zoo.accuracy_interval_95")
    if value is None:
        return None
    return {"value": value, "interval_95": interval, "images": images, "split": said.get("zoo.reported_split")}
