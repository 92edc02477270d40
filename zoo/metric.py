"""Metrics: figures computed from a table of predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    from zoo.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that a plugin registers.

    Attributes:
        name: Name in tables and in JSON.
        summary: One line for `zoo list metrics`.
        compute: `(Predictions) -> float`, as a callable or as `"module:function"`.
        higher_is_better: Whether a larger value is better.
    """

    name: str
    summary: str
    compute: str | Callable[[Predictions], float] = field(repr=False)
    higher_is_better: bool = True


__getattr__ = lazy_attributes(__name__, {"class_scores": "zoo.evaluation.class_scores:class_scores"})
