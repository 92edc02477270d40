"""Rows, intervals, winners, and the cheapest of them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from zoo.evaluation.statistics import bootstrap_interval, correct
from zoo.predictions import Predictions
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.leaderboard import ConfigurationResults, ensemble, rank
from zoo.studies.study import Study


def table(right: np.ndarray, sure: float = 2.0, order: np.ndarray | None = None) -> Predictions:
    """Two classes; `right` says which photographs are."""
    count = len(right)
    order = np.arange(count) if order is None else order
    labels = np.arange(count) % 2
    predicted = np.where(right, labels, 1 - labels)
    logits = np.zeros((count, 2), np.float32)
    logits[np.arange(count), predicted] = sure
    return Predictions(
        split="val",
        classes=("a", "b"),
        ids=tuple(f"{n:04d}" for n in order),
        labels=labels[order],
        logits=logits[order],
    )


def entry(name: str, rows: np.ndarray, *, latency: float = 0.01, trained: int = 5) -> ConfigurationResults:
    tables = tuple(table(row) for row in rows)
    return ConfigurationResults(
        backbone=name, strategy="linear", seeds=tuple(range(len(rows))), tables=tables,
        metrics=tuple({"accuracy": float(row.mean()), "f1_macro": 0.5} for row in rows), seconds=(1.0,) * len(rows),
        core_seconds=(2.0,) * len(rows), trained=trained,
        cost=DeploymentCost(latency=(latency, latency, latency), size=100, license="MIT"),
    )  # fmt: skip


def test_the_cheapest_of_the_winners_is_named() -> None:
    generator = np.random.default_rng(0)
    good = generator.random((2, 400)) < 0.9
    same = good.copy()
    same[:, :4] ^= True
    bad = generator.random((2, 400)) < 0.6
    board = rank([entry("slow", good), entry("quick", same, latency=0.002), entry("bad", bad, latency=0.001)])
    assert set(board.winners) == {"slow linear", "quick linear"} and board.cheapest == "quick linear"
    assert [row.accuracy for row in board.rows] == sorted((row.accuracy for row in board.rows), reverse=True)
    rows = list(csv.DictReader(io.StringIO(board.to_csv())))
    assert [row["backbone"] for row in rows][-1] == "bad" and rows[-1]["winner"] == "False"
    assert float(rows[0]["accuracy"]) == board.rows[0].accuracy
    assert board.to_json()["cheapest"] == "quick linear"


def test_cheapest_of_one_network_has_fewest_trainable_parameters() -> None:
    right = np.random.default_rng(0).random((1, 100)) < 0.9
    board = rank([entry("a", right, trained=9), entry("b", right, trained=3)])
    assert board.cheapest == "b linear"
    assert any("one seed" in note for note in board.notes) and any("100 photographs" in note for note in board.notes)


def test_images_that_are_too_few_to_choose_by_are_told() -> None:
    """By groups where there are some; a leaderboard of one configuration chooses nothing, and says it as well."""
    right = np.random.default_rng(0).random((2, 400)) < 0.9
    many, few = (rank([entry("a", rows), entry("b", rows)]) for rows in (right, right[:, :60]))
    assert many.too_few is None and "60 photographs, too few" in (few.too_few or "")
    assert few.to_json()["too_few"] == few.too_few
    tables = tuple(replace(one, groups=tuple(str(n % 20) for n in range(400))) for one in entry("a", right).tables)
    assert "in 20 groups" in (rank([replace(entry("a", right), tables=tables)]).too_few or "")


def test_a_network_without_latency_is_not_the_cheapest() -> None:
    right = np.random.default_rng(0).random((1, 100)) < 0.9
    unknown = replace(entry("unknown", right, trained=1), cost=DeploymentCost(failure="no exporter"))
    assert rank([unknown, entry("slow", right, latency=9.0)]).cheapest == "slow linear"
    assert rank([unknown]).cheapest == "unknown linear"


@pytest.mark.parametrize(("second", "mean"), [(0.7, 0.6), (None, None)])
def test_a_metric_that_a_seed_lacks_has_no_mean_and_unequal_seeds_are_told(
    second: float | None, mean: float | None
) -> None:
    right = np.random.default_rng(0).random((2, 100)) < 0.9
    both = replace(entry("a", right), metrics=({"f1_macro": 0.5}, {"f1_macro": second}))
    for other, told in ((entry("b", right), False), (entry("b", right[:1]), True)):
        board = rank([both, other])
        (row,) = (row for row in board.rows if row.backbone == "a")
        assert row.f1 == (mean if mean is None else pytest.approx(mean)) and row.precision is None
        assert ("not all configurations have the same seeds" in board.notes) is told


def test_photographs_are_matched_by_their_ids() -> None:
    right = np.random.default_rng(1).random(50) < 0.7
    shuffled = table(right, order=np.random.default_rng(2).permutation(50))
    assert (correct([table(right)]) == correct([shuffled])).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # with 500 resamples in place of 4000 an end varies by 3 per cent of the width in place of 2
    monkeypatch.setattr("zoo.evaluation.statistics.RESAMPLES", 500)
    generator, held, trials = np.random.default_rng(3), 0, 300
    for number in range(trials):
        luck = 0.85 + generator.normal(0, 0.02, (seeds, 1)) * (seeds > 1)
        low, high = bootstrap_interval(generator.random((seeds, 200)) < luck, seed=number)
        held += low <= 0.85 <= high
    # three seeds say little of how seeds vary: a bootstrap over them is narrow, and no one hides it
    assert held / trials >= 0.9


def test_an_interval_is_over_seeds_too() -> None:
    """So many images that they add nothing: the interval is that of three seeds drawn anew, 0.2 to 0.8."""
    images = np.arange(4000) / 4000
    found = bootstrap_interval(np.array([images < share for share in (0.2, 0.5, 0.8)]))
    assert found == pytest.approx((0.2, 0.8), abs=0.02)  # all three draws are the lowest in 1 of 27: 3.7 per cent
    same = bootstrap_interval(np.array([images < 0.5] * 3))
    assert same == pytest.approx((0.5, 0.5), abs=0.02)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    one, other = table(np.array([True, True, False]), sure=3.0), table(np.array([True, False, True]), sure=1.0)
    found = ensemble([one, other])
    assert found.probabilities == pytest.approx((one.probabilities + other.probabilities) / 2, abs=1e-6)
    assert list(found.correct) == [True, True, False]


def test_an_ensemble_matches_photographs_by_their_ids() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(50) < 0.7
    plain = ensemble([table(right), table(right)])
    for orders in ([None, generator.permutation(50)], [generator.permutation(50), generator.permutation(50)]):
        found = ensemble([table(right, order=order) for order in orders])
        assert found.ids == plain.ids and (found.labels == plain.labels).all()
        assert (found.correct == right).all() and found.probabilities == pytest.approx(plain.probabilities)


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"max_latency": 0.005}, "latency 10.0 ms, over 5 ms"),
        ({"max_latency": 0.02}, ""),
        ({"max_size": 50}, "size 0.0 MB, over 5e-05 MB"),
        ({"licenses": ("apache*",)}, "licence MIT, not apache*"),
        ({"licenses": ("apache*", "mit")}, ""),
    ],
)
def test_refused_gives_the_reason(bounds: dict[str, object], reason: str) -> None:
    footprint = DeploymentCost(latency=(0.01, 0.01, 0.01), size=100, license="MIT")
    study = Study(data="x", backbones=("a",), strategies=("b",), **bounds)  # type: ignore[arg-type]
    assert footprint.refused(study) == reason


def test_networks_without_latency_miss_every_latency_bound() -> None:
    study = Study(data="x", backbones=("a",), strategies=("b",), max_latency=1.0)
    assert "its latency is not known: no exporter" in DeploymentCost(failure="no exporter").refused(study)
    assert DeploymentCost(unfit="too few stages", latency=(1, 1, 1)).refused(study) == "too few stages"
    assert DeploymentCost.from_json(DeploymentCost(latency=(1, 2, 3)).to_json()) == DeploymentCost(latency=(1, 2, 3))
