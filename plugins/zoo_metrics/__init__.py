"""The built-in metrics, all computed from stored predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from zoo.metric import Metric

_ROWS = (
    ("accuracy", "fraction of images whose most probable class is correct", True),
    ("precision_macro", "precision, mean over classes", True),
    ("recall_macro", "recall, mean over classes (balanced accuracy)", True),
    ("f1_macro", "F1, mean over classes", True),
    ("precision_weighted", "precision, mean over classes weighted by their number of images", True),
    ("recall_weighted", "recall, mean over classes weighted by their number of images", True),
    ("f1_weighted", "F1, mean over classes weighted by their number of images", True),
    ("top5", "fraction of images whose class is among the five most probable", True),
    ("loss", "cross-entropy in nats, without label smoothing", False),
    ("ece", "expected calibration error, 15 bins of equal width", False),
)


@hookimpl
def register_metrics(register: Register[Metric]) -> None:
    from zoo.metric import Metric  # not at the top: most commands need no metric

    for name, summary, higher in _ROWS:
        register(
            Metric(name=name, summary=summary, compute=f"zoo_metrics.classification:{name}", higher_is_better=higher)
        )
