"""The laws of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.metric import Undefined
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.target import load_target
from zoo.testing.law import require

ROUNDING = 1e-6  # of a sum whose terms come in another order, as a share of the value (at least 1)
ROWS = 40


def check_metric(metric: str, *, plugins: Plugins | None = None) -> None:
    """Check a metric on tables of two and three classes, of one image, with a class that has no image, and with ties.

    It is a finite number, or `zoo.metric.Undefined` says why there is none; a table of 40 images has one. The same
    table gives the same number, whatever the order of its rows. The table is left as it was. Predictions that are all
    right are not worse than predictions that are all wrong.

    Args:
        metric: Its name.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: there is no such metric.
    """
    row = (plugins or Plugins()).metrics.find(metric).value
    compute = load_target(row.compute)
    tables = _tables()
    for what, table in tables.items():
        before = table.logits.copy(), table.labels.copy()
        value = _value(metric, compute, table, what)
        require(
            np.array_equal(before[0], table.logits) and np.array_equal(before[1], table.labels),
            f"`{metric}` changes the table that it is given",
            hint="all metrics share one table; copy an array before you change it",
        )
        _require_equal(value, _value(metric, compute, table, what), f"`{metric}` differs from call to call for {what}")
        order = np.random.default_rng(1).permutation(len(table))
        for shuffled in (order, np.arange(len(table))[::-1]):
            _require_equal(
                value,
                _value(metric, compute, _reordered(table, shuffled), what),
                f"`{metric}` depends on the order of the images, for {what}",
            )
    whole = next(iter(tables))
    require(
        _value(metric, compute, tables[whole], whole) is not None,
        f"`{metric}` has no value for {whole}",
        hint="`Undefined` is for tables that have no value, such as those of one class",
    )
    _check_direction(metric, compute, row.higher_is_better, tables[whole])


def _check_direction(metric: str, compute: Callable[..., Any], higher: bool, table: Predictions) -> None:
    """Check `higher_is_better` on predictions that are all right, and on those that are all wrong."""
    classes = len(table.classes)
    right = _table(table.labels, 8 * np.eye(classes)[table.labels])
    wrong = _table(table.labels, 8 * np.eye(classes)[(table.labels + 1) % classes])
    best, worst = (_value(metric, compute, one, "predictions that are all alike") for one in (right, wrong))
    if best is None or worst is None:
        return
    require(
        best >= worst if higher else best <= worst,
        f"`{metric}` is {best:g} where all images are right and {worst:g} where all are wrong, but "
        f"`higher_is_better` is {higher}",
        hint=f"register it with `higher_is_better={not higher}`",
    )


def _value(metric: str, compute: Callable[..., Any], table: Predictions, what: str) -> float | None:
    try:
        found = compute(table)
    except Undefined:
        return None
    except Exception as error:
        error.add_note(f"`{metric}`, for {what}")
        raise
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = None
    require(value is not None, f"`{metric}` returns a `{type(found).__name__}`, not a number, for {what}")
    assert value is not None
    require(
        math.isfinite(value),
        f"`{metric}` is {value} for {what}",
        hint='raise `zoo.metric.Undefined("why")` where there is no value',
    )
    return value


def _require_equal(one: float | None, other: float | None, message: str) -> None:
    if one is None or other is None:
        require(one is other, f"{message}: {_text(one)} and {_text(other)}")
        return
    require(abs(one - other) <= ROUNDING * max(1.0, abs(one)), f"{message}: {_text(one)} and {_text(other)}")


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def _tables() -> dict[str, Predictions]:
    """Tables by what they are; the first is an ordinary one."""
    random = np.random.default_rng(0)
    three = np.arange(ROWS) % 3
    noise = random.normal(size=(ROWS, 3))
    ordinary = _table(three, noise + np.eye(3)[three])
    return {
        f"{ROWS} images of 3 classes": ordinary,
        "2 classes": _table(three % 2, random.normal(size=(ROWS, 2))),
        "a class without images": _table(three % 2, noise),
        "a class that is never predicted": _table(three, noise - np.array([0, 0, 100.0])),
        "images of one class": _table(np.zeros(ROWS, np.int64), noise),
        "one image": _table(three[:1], noise[:1]),
        "equal logits": _table(three, np.zeros((ROWS, 3))),
        "logits of 10,000": _table(three, 1e4 * np.sign(noise)),
        "images in groups": replace(ordinary, groups=tuple(f"patient {index // 4}" for index in range(ROWS))),
    }


def _table(labels: npt.NDArray[np.int64], logits: npt.NDArray[np.float64]) -> Predictions:
    return Predictions(
        split="val",
        classes=tuple("abc"[: logits.shape[1]]),
        ids=tuple(f"{index:03d}.jpg" for index in range(len(labels))),
        labels=labels.astype(np.int64),
        logits=logits.astype(np.float32),
    )


def _reordered(table: Predictions, order: npt.NDArray[np.int64]) -> Predictions:
    return replace(
        table,
        ids=tuple(table.ids[index] for index in order),
        labels=table.labels[order],
        logits=table.logits[order],
        groups=None if table.groups is None else tuple(table.groups[index] for index in order),
    )
