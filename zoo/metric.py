"""Metrics: figures computed from a table of predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.predictions import Predictions


class Undefined(Exception):
    """Raised by a metric that has no value on these images, with the reason, such as `all images are of one class`.

    The metric is null in JSON and `-` in tables, and the reason is told; this is no failure of the metric.
    """


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that a plugin registers.

    Attributes:
        name: Name in tables and in JSON.
        summary: One line for `zoo list metrics`.
        compute: `(Predictions) -> float`, as a callable or as `"module:function"`. It raises `Undefined` where the
            metric has no value.
        higher_is_better: Whether a larger value is better.
    """

    name: str
    summary: str
    compute: str | Callable[[Predictions], float] = field(repr=False)
    higher_is_better: bool = True


__getattr__ = lazy_attributes(
    __name__,
    {
        "average_precisions": "zoo.evaluation.ranking:average_precisions",
        "class_scores": "zoo.evaluation.class_scores:class_scores",
        "roc_areas": "zoo.evaluation.ranking:roc_areas",
    },
)
