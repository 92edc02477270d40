"""Tables of metrics: every figure in its place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from zoo import Run
from zoo.evaluation.evaluation import Evaluation
from zoo.predictions import Predictions
from zoo_cli.figures import MOST_CLASSES, print_evaluation, print_needed, print_run


def evaluation(labels: list[int], predicted: list[int], classes: tuple[str, ...]) -> Evaluation:
    logits = np.eye(len(classes), dtype=np.float32)[predicted]
    ids = tuple(str(number) for number in range(len(labels)))
    table = Predictions(split="val", classes=classes, ids=ids, labels=np.array(labels), logits=logits)
    metrics = {"accuracy": float(np.mean(np.array(labels) == predicted)), "top5": None}
    return Evaluation(model="m", data="d", device="cpu", predictions=table, metrics=metrics)


def printed(found: Evaluation) -> list[list[str]]:
    text = io.StringIO()
    print_evaluation(found, Console(file=text, width=200))
    return [line.replace("│", " ").replace("┃", " ").split() for line in text.getvalue().splitlines()]


def test_classes_and_confusion_are_printed_by_row_and_column() -> None:
    lines = printed(evaluation([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0], ("a", "b", "c")))
    assert ["accuracy", "0.6667", "(95", "%", "0.300", "to", "0.903)"] in lines and ["top5", "-"] in lines
    assert ["b", "0.500", "1.000", "0.667", "0.900", "0.500", "0.551", "1"] in lines
    assert ["c", "1.000", "0.500", "0.667", "0.750", "0.667", "1.051", "2"] in lines
    assert ["true", "\\", "predicted", "a", "b", "c"] in lines
    assert ["a", "2", "1", "0"] in lines and ["c", "1", "0", "1"] in lines  # rows are what is shown


def test_classes_that_macro_figures_leave_out_are_named() -> None:
    def said(found: Evaluation) -> str:
        return "\n".join(" ".join(line) for line in printed(found))

    text = said(evaluation([0, 0, 1], [0, 2, 2], ("a", "b", "c", "[d]")))
    assert (
        "macro figures are means over 2 classes: `val` has no image of `c`, `[d]`, though 2 images are predicted as one"
        in text
    )
    assert "macro figures are means" not in said(evaluation([0, 1], [0, 0], ("a", "b")))


@pytest.mark.parametrize("count", [MOST_CLASSES, MOST_CLASSES + 1])
def test_a_matrix_of_many_classes_is_left_out(count: int) -> None:
    lines = printed(evaluation([0, 1], [0, 1], tuple(f"c{number}" for number in range(count))))
    assert any("predicted" in line for line in lines) == (count <= MOST_CLASSES)


def test_a_run_s_line_has_each_metric_and_warns_of_a_choice_on_the_same_images(exported_run: Path) -> None:
    def line(changes: dict[str, Any]) -> str:
        run, text = Run.open(exported_run), io.StringIO()
        record: Any = run.record
        record["experiment"]["keep"] = changes.get("keep", "last")
        record["chosen_on"] = changes.get("chosen_on")
        print_run(run, Console(file=text, width=500))
        return text.getvalue()

    metrics = Run.open(exported_run).metrics
    for name, said in (("accuracy", "val accuracy"), ("f1_macro", "macro-F1"), ("loss", "loss")):
        value = metrics[name]
        assert value is not None and f"{said} {value:.4f}" in line({})
    assert "optimistic" in line({"keep": "best", "chosen_on": "val"})
    assert "optimistic" not in line({"keep": "best", "chosen_on": "carved from train"})
    assert "optimistic" not in line({"keep": "last", "chosen_on": "val"})


def test_photographs_are_asked_for_between_the_best_and_other_winners_only() -> None:
    def pair(better: str, worse: str, needed: int | None) -> dict[str, Any]:
        return {"better": better, "worse": worse, "needed": needed, "difference": 0.025}

    pairs = [pair("a", "b", 1234), pair("a", "c", 55), pair("b", "c", 66), pair("a", "d", None), pair("b", "d", 77)]
    text = io.StringIO()
    print_needed({"winners": ["a", "b", "d"], "pairs": pairs}, Console(file=text, width=500))
    assert text.getvalue().splitlines() == [
        "about 1,234 photographs would be needed to show that the best exceeds b by 0.025"
    ]
