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
    ("roc_auc_macro", "area under the ROC curve, one class against the others, mean over classes", True),
    ("pr_auc_macro", "average precision (area under the precision-recall curve), mean over classes", True),
    ("kappa", "Cohen's kappa: agreement of predicted and true classes beyond chance", True),
    ("mcc", "Matthews correlation coefficient of predicted and true classes", True),
    ("ece", "expected calibration error, 15 bins of equal width", False),
)


@hookimpl
def register_metrics(register: Register[Metric]) -> None:
    from zoo.metric import Metric  # not at the top: most commands need no metric

    for name, summary, higher in _ROWS:
        register(
            Metric(name=name, summary=summary, compute=f"zoo_metrics.classification:{name}", higher_is_better=higher)
        )
