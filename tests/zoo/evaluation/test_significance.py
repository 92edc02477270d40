"""The set of winners: error rates for equally good and for worse configurations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest, norm
from tests_support import TINY

from zoo import ZooError, train
from zoo.evaluation.significance import compare, compare_configurations, p_value
from zoo_cli.main import run as zoo

Table = npt.NDArray[np.bool_]


def drawn(
    generator: np.random.Generator, accuracies: list[float], photographs: int, seeds: int, wander: float = 0.0
) -> dict[str, Table]:
    """Configurations of these accuracies: some images are hard for all; `wander` is the spread over seeds."""
    hard = generator.normal(0, 1.0, photographs)
    found = {}
    for number, accuracy in enumerate(accuracies):
        own = generator.normal(0, 0.7, photographs)  # what this way finds hard
        rows = []
        for _ in range(seeds):
            score = hard + own + generator.normal(0, 0.5, photographs)
            luck = accuracy + generator.normal(0, wander)
            # the quantile that such scores exceed with this probability: variances 1, 0.49 and 0.25 add up
            rows.append(score > norm.isf(min(max(luck, 0.01), 0.99)) * np.sqrt(1.74))
        found[f"way {number}"] = np.array(rows)
    return found


SLOW = pytest.mark.slow  # others with as many seeds, or with as much luck, are left


@pytest.mark.parametrize(
    ("seeds", "wander"),
    [(1, 0.0), pytest.param(2, 0.01, marks=SLOW), (2, 0.02), pytest.param(3, 0.0, marks=SLOW), (3, 0.02)],
)
def test_equally_good_configurations_are_rarely_excluded(seeds: int, wander: float) -> None:
    generator, studies = np.random.default_rng(1), 150
    wrong = sum(
        len(compare_configurations(drawn(generator, [0.9] * 5, 400, seeds, wander)).winners) < 5 for _ in range(studies)
    )
    assert binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.01  # not above 5 per cent


@pytest.mark.parametrize(("seeds", "wander"), [(1, 0.0), pytest.param(2, 0.0, marks=SLOW), (3, 0.0), (5, 0.01)])
def test_a_better_configuration_is_found(seeds: int, wander: float) -> None:
    generator, studies = np.random.default_rng(2), 100
    accuracies = [0.90, 0.95, 0.90, 0.90, 0.90]
    found = [compare_configurations(drawn(generator, accuracies, 2000, seeds, wander)).winners for _ in range(studies)]
    assert sum(winners == ("way 1",) for winners in found) >= 90


def test_p_values_are_those_of_known_tests() -> None:
    one, other = np.zeros((1, 10), bool), np.zeros((1, 10), bool)
    one[0, :9], other[0, 9] = True, True
    assert p_value(one, other) == pytest.approx(binomtest(9, 10).pvalue)
    assert p_value(one, one) == 1 and p_value(np.repeat(one, 2, 0), np.repeat(one, 2, 0)) == 1
    assert p_value(np.ones((2, 9), bool), np.zeros((2, 9), bool)) == 0


def test_images_needed_find_the_difference() -> None:
    generator = np.random.default_rng(3)
    table = drawn(generator, [0.93, 0.90], 300, 1)
    needed = compare_configurations(table).pairs[0].needed
    assert needed is not None
    one, other = table.values()
    again = []
    for _ in range(200):  # as many photographs, of the same kind
        rows = generator.integers(0, one.shape[1], needed)
        again.append(compare_configurations({"a": one[:, rows], "b": other[:, rows]}).pairs[0].told_apart)
    assert 0.8 <= np.mean(again) <= 0.98


def test_runs_that_differ_by_seed_are_one_configuration(two_splits: Path, tmp_path: Path) -> None:
    runs = [
        train(replace(TINY, data=str(two_splits), strategy=strategy, epochs=1, seed=seed), out=tmp_path / name)
        for name, strategy, seed in (("a", "full", 0), ("b", "full", 1), ("c", "partial:1", 0))
    ]
    assert compare(runs[:2]) is None
    found = compare([*runs, runs[0]])  # twice the same is once
    assert found is not None and set(found.accuracies) == {f"timm/test_resnet {name}" for name in ("full", "partial:1")}
    right = [run.predictions().correct.mean() for run in runs[:2]]
    assert found.accuracies["timm/test_resnet full"] == pytest.approx(np.mean(right))
    (runs[2].path / "predictions-val.safetensors").unlink()
    with pytest.raises(ZooError, match="has no predictions"):
        compare(runs)
    assert zoo(["compare", *(str(run.path) for run in runs)]) == 0  # the figures stand without it
