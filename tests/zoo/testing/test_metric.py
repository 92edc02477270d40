"""The laws of metrics hold for the built-in ones, and find those that break them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from messages import refused
from with_row import with_row

from zoo.metric import Metric, Undefined
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.testing import Violation, check_metric


def test_built_in_metrics(plugins: Plugins) -> None:
    assert len(plugins.metrics) > 10
    for entry in plugins.metrics:
        check_metric(entry.qualified, plugins=plugins)


def undefined(table: Predictions) -> float:
    raise Undefined("never")


def writing(table: Predictions) -> float:
    table.logits.flags.writeable = True
    table.logits[0] = 0
    return 0.0


calls: list[int] = []


def counting(table: Predictions) -> float:
    calls.append(1)
    return float(len(calls))


def accuracy(table: Predictions) -> float:
    return float(table.correct.mean())


def recall(table: Predictions) -> float:
    """The mean over all classes, also those without images."""
    return float(np.mean([table.correct[table.labels == place].mean() for place in range(len(table.classes))]))


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda table: float(table.correct[0]), ("order of the images", "40 images of 3 classes")),
        (lambda table: float(table.correct[: len(table) // 2 + 1].mean()), ("order of the images",)),
        (counting, ("differs from call to call",)),
        (undefined, ("no value", "40 images")),
        (writing, ("changes the table", "copy")),
        (lambda table: "good", ("returns a `str`", "not a number")),
        (lambda table: None, ("returns a `NoneType`",)),
        (lambda table: table.correct, ("returns a `ndarray`",)),
        (lambda table: float(table.probabilities.min() and np.nan), ("is nan", "Undefined")),
        (lambda table: 1 - accuracy(table), ("all images are right", "`higher_is_better=False`")),
        (recall, ("is nan", "a class without images")),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_metric_is_found(compute: Callable[[Predictions], Any], words: tuple[str, ...]) -> None:
    plugins = with_row("metrics", Metric(name="broken", summary="x", compute=compute))
    with refused(Violation, "broken", *words) as caught:
        check_metric("broken", plugins=plugins)
    assert "\n" not in caught.value.message


def test_the_direction_of_an_error_rate() -> None:
    row = Metric(name="errors", summary="x", compute=lambda table: 1 - accuracy(table), higher_is_better=False)
    check_metric("errors", plugins=with_row("metrics", row))


def test_an_exception_of_a_metric_says_for_which_table() -> None:
    def failing(table: Predictions) -> float:
        return 1 / (len(table) - 1)

    with pytest.raises(ZeroDivisionError) as caught:
        check_metric("broken", plugins=with_row("metrics", Metric(name="broken", summary="x", compute=failing)))
    assert caught.value.__notes__ == ["`broken`, for one image"]
