"""Metric: a figure computed from a table of predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the catalogue. `compute` is `(Predictions) -> float`, as a callable or as `"module:function"`."""

    name: str
    summary: str
    compute: str | Callable[[Predictions], float] = field(repr=False)
    higher_is_better: bool = True
