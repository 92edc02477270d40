"""Metrics against figures worked out by hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo import ZooError
from zoo.errors import PluginWarning
from zoo.evaluation.evaluation import Evaluation, compute_metrics, defined_metrics
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo_cli.main import run
from zoo_metrics import classification

# 6 images of 3 classes; predicted a a b b c a where a a a b c c is shown
CONFIDENT = math.log(8)  # the winner of three gets 0.8
PREDICTED = [0, 0, 1, 1, 2, 0]
TABLE = Predictions(
    split="val",
    classes=("a", "b", "c"),
    ids=tuple("uvwxyz"),
    labels=np.array([0, 0, 0, 1, 2, 2]),
    logits=np.array([[CONFIDENT if c == p else 0.0 for c in range(3)] for p in PREDICTED], np.float32),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 4 / 6),
        ("precision_macro", (2 / 3 + 1 / 2 + 1) / 3),
        ("recall_macro", (2 / 3 + 1 + 1 / 2) / 3),
        ("f1_macro", (2 / 3 + 2 / 3 + 2 / 3) / 3),
        ("precision_weighted", (3 * 2 / 3 + 1 / 2 + 2 * 1) / 6),
        ("recall_weighted", 4 / 6),
        ("f1_weighted", 2 / 3),
        ("top5", 1.0),
        ("loss", -(4 * math.log(0.8) + 2 * math.log(0.1)) / 6),
        ("ece", abs(0.8 - 4 / 6)),
    ],
)
def test_by_hand(name: str, value: float) -> None:
    assert compute_metrics(TABLE, Plugins())[name] == pytest.approx(value, abs=1e-6)


def table(labels: list[int], logits: list[list[float]]) -> Predictions:
    names = tuple("abcdefg"[: len(logits[0])])
    ids = tuple(str(index) for index in range(len(labels)))
    return Predictions(split="v", classes=names, ids=ids, labels=np.array(labels), logits=np.array(logits, np.float32))


def test_macro_figures_are_over_the_classes_that_have_images() -> None:
    # c and d have no image; one of b is predicted as c: precision a 1, b 1; recall a 1, b 1/2; F1 a 1, b 2/3
    found = compute_metrics(table([0, 0, 1, 1], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), Plugins())
    assert found["precision_macro"] == found["precision_weighted"] == 1.0
    assert found["recall_macro"] == found["recall_weighted"] == 0.75
    assert found["f1_macro"] == found["f1_weighted"] == pytest.approx(5 / 6)


def test_macro_and_weighted_differ_where_classes_do() -> None:
    # three of a, all right; one of b, predicted as a: F1 of a is 6/7, of b 0
    found = compute_metrics(table([0, 0, 0, 1], [[1, 0]] * 4), Plugins())
    assert found["f1_macro"] == pytest.approx(3 / 7) and found["f1_weighted"] == pytest.approx(3 / 4 * 6 / 7)


def test_calibration_error_weighs_bins_by_their_images() -> None:
    # two at confidence 0.9, one of them right; one at 0.6, right: (2 * |0.5 - 0.9| + 1 * |1 - 0.6|) / 3
    logits = [[math.log(9), 0], [math.log(9), 0], [math.log(1.5), 0]]
    assert compute_metrics(table([0, 1, 0], logits), Plugins())["ece"] == pytest.approx(0.4, abs=1e-6)
    # 0.9 right and 0.6 wrong: bins apart, |1 - 0.9| and |0 - 0.6|; in one bin the two would nearly cancel
    assert compute_metrics(table([0, 1], logits[1:]), Plugins())["ece"] == pytest.approx(0.35, abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, None, "text"])
def test_a_metric_that_fails_is_a_dash_in_the_table_and_an_error_where_plugins_are_strict(
    value: object,
    exported_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    scored = shutil.copytree(exported_run, tmp_path / "run")
    monkeypatch.setattr(classification, "top5", lambda predictions: value)
    assert run(["evaluate", str(scored)]) == 0
    said = capsys.readouterr().err
    lines = [line.replace("│", " ").split() for line in said.splitlines()]
    assert ["top5", "-"] in lines and ["f1_macro", "-"] not in lines and said.count("warning: ") == 1
    monkeypatch.setenv("ZOO_STRICT_PLUGINS", "1")
    with pytest.raises(ZooError, match="`top5`"):
        compute_metrics(TABLE, Plugins())


def test_a_metric_can_change_no_prediction_and_end_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def erases(predictions: Predictions) -> float:
        predictions.logits[:] = 0
        return 1.0

    def leaves(predictions: Predictions) -> float:
        raise SystemExit(3)

    before = TABLE.logits.copy()
    infinite: Callable[[Predictions], float] = lambda predictions: np.inf  # which JSON cannot hold
    for function, reason in ((erases, "read-only"), (leaves, "SystemExit"), (infinite, "it gave inf")):
        monkeypatch.setattr(classification, "top5", function)
        with pytest.warns(PluginWarning, match=rf"`top5`.*{reason}"):
            assert compute_metrics(TABLE, Plugins())["top5"] is None
    assert np.array_equal(TABLE.logits, before)
    for array in (TABLE.labels, TABLE.logits, TABLE.probabilities, TABLE.predicted, TABLE.correct):
        assert not array.flags.writeable


def test_without_the_built_in_metrics_a_run_is_trained_and_scored(
    two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "metrics")
    tiny = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--epochs", "1"]
    assert run(["train", "--data", str(two_splits), *tiny, "--strategy", "full", "--out", str(tmp_path / "run")]) == 0
    assert "accuracy -" in capsys.readouterr().err
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    assert run(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 0


def test_tables() -> None:
    evaluation = Evaluation(model="m", data="d", device="cpu", predictions=TABLE, metrics={})
    assert evaluation.confusion().tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 1]]
    row = evaluation.per_class()[2]
    assert (row["class"], row["precision"], row["recall"], row["images"]) == ("c", 1.0, 0.5, 2)
    # Wilson's interval for 4 of 6, by hand: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)
    assert evaluation.interval() == pytest.approx((0.29999, 0.90323), abs=1e-4)


def test_top5_counts_the_fifth_and_not_the_sixth() -> None:
    logits = np.array([[7, 6, 5, 4, 3, 2, 1]], np.float32)
    value: Callable[[int], float | None] = lambda label: compute_metrics(
        Predictions(split="v", classes=tuple("abcdefg"), ids=("i",), labels=np.array([label]), logits=logits), Plugins()
    )["top5"]
    assert (value(4), value(5)) == (1.0, 0.0)


def test_agreement_is_that_of_scikit_learn() -> None:
    from sklearn import metrics

    generator = np.random.default_rng(0)
    for classes in (2, 4):
        labels = generator.integers(0, classes, 60)
        some = table(labels.tolist(), (np.eye(classes)[labels] + generator.normal(size=(60, classes))).tolist())
        found = compute_metrics(some, Plugins())
        assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(labels, some.predicted))
        assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, some.predicted))
        every = metrics.roc_auc_score(np.eye(classes)[labels], some.probabilities, average="macro")
        assert found["roc_auc_macro"] == pytest.approx(every)
        every = metrics.average_precision_score(np.eye(classes)[labels], some.probabilities, average="macro")
        assert found["pr_auc_macro"] == pytest.approx(every)


def test_what_is_undefined_is_null_and_its_reason_is_told() -> None:
    one_class, every = defined_metrics(table([0, 0], [[1, 0], [1, 0]]), Plugins())
    assert one_class["accuracy"] == 1
    undefined = {"roc_auc_macro", "pr_auc_macro", "kappa", "mcc"}
    assert {name for name, value in one_class.items() if value is None} == undefined == set(every)
    assert every["kappa"] == "all images are of one class, and so are all predictions"
    # one class, one mistake: kappa is 0; two classes of which one is predicted: the coefficient is that of guessing
    assert compute_metrics(table([0, 0], [[1, 0], [0, 1]]), Plugins())["kappa"] == 0
    assert compute_metrics(table([0, 1], [[1, 0], [1, 0]]), Plugins())["mcc"] == 0
    # a class without images counts in no mean
    assert compute_metrics(table([0, 1], [[1, 0, 0], [0, 1, 0]]), Plugins())["roc_auc_macro"] == 1
