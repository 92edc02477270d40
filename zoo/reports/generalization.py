"""Generalization: how far figures of training images are from those of the images that are reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import counted
from zoo.runs.run import Run


def gap(run: Run, split: str, metrics: Mapping[str, float | None]) -> dict[str, Any] | None:
    """Log-loss and accuracy of training images beside those of a split, and their differences; None: not recorded.

    The loss of training images is that of the finished network, on up to 100 of them without augmentation. It is left
    out where the run has only that of its last epoch, which label smoothing and random views raise, and which has no
    temperature. The accuracy of training images is that of the last epoch, as they were seen there, or of a solved
    head's fit.

    Args:
        run: a finished run.
        split: that the metrics are of.
        metrics: by name.
    """
    fitted, history = run.record.get("fitted") or {}, run.history
    figures = {
        "loss": (fitted.get("loss") if _is_comparable(run, fitted, history) else None, metrics.get("loss")),
        "accuracy": (history[-1].get("train_accuracy") if history else None, metrics.get("accuracy")),
    }
    known = {name: (a, b) for name, (a, b) in figures.items() if a is not None and b is not None}
    if not known:
        return None
    found: dict[str, Any] = {"split": split, "train_images": fitted.get("images")}
    for name, (train, reported) in known.items():
        found[name] = {"train": float(train), split: float(reported), "gap": float(reported) - float(train)}
    lines = []
    if "loss" in found:
        one = found["loss"]
        lines.append(
            f"log-loss {one['train']:.3f} on {counted(int(fitted['images']), 'training image')} and {one[split]:.3f} "
            f"on {split} ({one['gap']:+.3f})"
        )
    if "accuracy" in found:
        one = found["accuracy"]
        seen = "as they were seen in the last epoch" if "solved" not in history[-1] else "when the head was solved"
        lines.append(
            f"accuracy {one['train']:.3f} on training images {seen} and {one[split]:.3f} on {split} ({one['gap']:+.3f})"
        )
    return {**found, "text": "; ".join(lines)}


def _is_comparable(run: Run, fitted: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the recorded loss of training images is that of the network as it scores the reported ones."""
    if not history or fitted.get("loss") != round(float(history[-1].get("train_loss", math.nan)), 6):
        return True  # they were scored when training had ended
    return "solved" in history[-1] and (run.record.get("temperature") or {}).get("value", 1.0) == 1.0
