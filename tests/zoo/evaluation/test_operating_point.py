"""Operating points: which threshold, on which images, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score
from tests_support import TINY

from zoo import Predictions, UsageError, evaluate, train
from zoo.evaluation.operating_point import Goal, choose_threshold, halves, operating_point, parse_goal


def table(labels: list[int], shares: list[float], groups: tuple[str, ...] | None = None) -> Predictions:
    """Two classes; `shares` are the probabilities of the second."""
    logits = np.log(np.array([[1 - share, share] for share in shares], np.float32))
    ids = tuple(f"{number}.png" for number in range(len(labels)))
    return Predictions(split="t", classes=("a", "b"), ids=ids, labels=np.array(labels), logits=logits, groups=groups)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=30),
    st.sampled_from(["precision", "recall"]),
    st.floats(0.01, 1),
)
def test_no_better_threshold_reaches_the_goal(images: list[tuple[bool, int]], figure: str, value: float) -> None:
    of_class = np.array([one for one, _ in images])
    shares = np.array([share / 6 for _, share in images])
    threshold, best = choose_threshold(shares, of_class, Goal(name="b", figure=figure, value=value))
    score = precision_score if figure == "precision" else recall_score
    reached = {
        one: float(score(of_class, shares >= one, zero_division=0))
        for one in sorted(set(shares.tolist()), reverse=True)
    }
    good = [one for one, got in reached.items() if got >= value] if of_class.any() else []
    if good:
        wanted = good[0] if figure == "recall" else good[-1]
        assert threshold is not None and best is None
        assert ((shares >= threshold) == (shares >= wanted)).all()
        lower = [one for one in reached if one < wanted]
        assert threshold == pytest.approx((wanted + max(lower)) / 2 if lower else wanted)
    else:
        assert threshold is None
        assert best == (pytest.approx(max(reached.values())) if of_class.any() else None)


def test_figures_are_those_of_other_images() -> None:
    chosen = table([1, 1, 0, 0], [0.9, 0.6, 0.5, 0.1])
    reported = table([1, 1, 1, 0, 0], [0.95, 0.7, 0.3, 0.65, 0.2])
    found = operating_point(Goal(name="b", figure="recall", value=1), chosen, "val", reported)
    assert found.threshold == pytest.approx(0.55, abs=1e-6) and (found.images, found.of_class, found.called) == (
        5,
        3,
        3,
    )
    assert found.recall == found.precision == pytest.approx(2 / 3)
    assert found.recall_interval == pytest.approx((0.2077, 0.9385), abs=1e-3)  # Wilson, 2 of 3


def test_what_is_undefined_is_null_and_never_nan() -> None:
    goal = Goal(name="b", figure="precision", value=0.9)
    no_image = operating_point(goal, table([0, 0], [0.2, 0.3]), "val", table([1], [0.5])).to_json()
    assert no_image["threshold"] is no_image["highest"] is no_image["recall"] is no_image["called"] is None
    too_high = operating_point(goal, table([1, 0], [0.5, 0.5]), "val", table([1], [0.5])).to_json()
    assert too_high["threshold"] is None and too_high["highest"] == 0.5
    other = operating_point(goal, table([1, 0], [0.9, 0.1]), "val", table([0, 0], [0.2, 0.3])).to_json()
    assert other["threshold"] and other["called"] == 0 and other["precision"] is other["recall"] is None
    assert other["precision_interval_95"] is None


def test_halves_share_classes_and_keep_groups_whole() -> None:
    some = table([0, 1] * 10, [0.5] * 20)
    one, other = halves(some)
    assert set(one.ids) | set(other.ids) == set(some.ids) and not set(one.ids) & set(other.ids)
    assert one.labels.sum() == other.labels.sum() == 5 and one.ids == halves(some)[0].ids
    grouped = table([0, 1] * 10, [0.5] * 20, tuple(str(number // 5) for number in range(20)))
    one, other = halves(grouped)
    assert one.groups and other.groups and not set(one.groups) & set(other.groups)
    assert len(halves(table([0], [0.5]))[1]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b", "`b` is no operating point"),
        (":recall=1", "no operating point"),
        ("b:recall", "no operating point"),
        ("b:f1=0.5", "neither `precision` nor `recall`"),
        ("b:recall=0", "no recall above 0"),
        ("b:recall=1.5", "no recall above 0"),
        ("b:precision=nan", "no precision above 0"),
        ("b:precision=high", "no precision above 0"),
        ("B:recall=1", "no class `B`"),
    ],
)
def test_a_goal_that_is_none_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_goal(text, ("a", "b"))
    assert error.value.hint
    assert parse_goal("x:y:recall=1e-1", ("x:y", "x")) == Goal(name="x:y", figure="recall", value=0.1)


def test_a_threshold_for_test_is_chosen_on_val(three_splits: Path, tmp_path: Path) -> None:
    run = train(replace(TINY, data=str(three_splits), strategy="full", epochs=1), out=tmp_path / "run")
    found = evaluate(run, split="test", at=[f"{run.classes[0]}:recall=0.5"])
    (point,) = found.points
    assert (point.chosen_on, point.chosen_images, point.images) == ("val", 8, 10)
    assert evaluate(run, split="val", at=[f"{run.classes[0]}:recall=0.5"]).points[0].chosen_on == "half of val"
