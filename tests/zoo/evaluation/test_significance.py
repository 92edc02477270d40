"""The set of winners: error rates for equally good and for worse configurations."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp
from scipy.stats import t as student
from tests_support import TINY

from zoo import Run, ZooError, train
from zoo.evaluation.significance import SeedVariance, compare, compare_configurations, p_value
from zoo.evaluation.statistics import images_needed
from zoo_cli.main import run as zoo

Table = npt.NDArray[np.bool_]


def drawn(
    generator: np.random.Generator,
    accuracies: list[float],
    photographs: int,
    seeds: int | tuple[int, ...],
    wander: float = 0.0,
) -> dict[str, Table]:
    """Configurations of these accuracies: some images are hard for all; `wander` is the spread over seeds."""
    counts = seeds if isinstance(seeds, tuple) else (seeds,) * len(accuracies)
    hard = generator.normal(0, 1.0, photographs)
    found = {}
    for number, accuracy in enumerate(accuracies):
        own = generator.normal(0, 0.7, photographs)  # what this way finds hard
        rows = []
        for _ in range(counts[number]):
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


@pytest.mark.parametrize(
    "seeds",
    [(2, 1, 1, 1), (2, 2, 2, 1), pytest.param((2, 1), marks=SLOW), pytest.param((3, 1), marks=SLOW)],
)
def test_unequal_numbers_of_seeds_exclude_no_more(seeds: tuple[int, ...]) -> None:
    generator, studies = np.random.default_rng(1), 150
    found = [compare_configurations(drawn(generator, [0.9] * len(seeds), 2000, seeds, 0.01)) for _ in range(studies)]
    wrong = sum(len(one.winners) < len(seeds) for one in found)
    assert binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.01
    assert all((one.caution is not None) is (one.seed_degrees < 3) for one in found)
    assert all(found[0].seeds[f"way {number}"] == count for number, count in enumerate(seeds))


def test_what_the_winners_hold_for() -> None:
    generator = np.random.default_rng(0)
    for seeds, degrees, word in (
        ((1, 1, 1), 0, "no configuration was repeated"),
        ((2, 1, 1), 1, "only one run"),
        ((2, 2, 1), 2, "only 2 runs"),
        ((2, 2, 2), 3, None),
        ((4, 1), 3, None),
    ):
        found = compare_configurations(drawn(generator, [0.9] * len(seeds), 300, seeds))
        assert found.seed_degrees == degrees and (found.caution is None) is (word is None)
        if found.caution is not None and word is not None:
            assert word in found.caution and "hold for these seeds alone" in found.caution
        assert sorted(found.seeds.values()) == sorted(seeds)


@pytest.mark.parametrize(
    ("seeds", "wander"), [(1, 0.0), pytest.param(2, 0.0, marks=SLOW), pytest.param(3, 0.0, marks=SLOW), (5, 0.01)]
)
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
    # images alone, in accuracies that vary no more than images explain: Student's t over images, nearly
    generator = np.random.default_rng(0)
    table = drawn(generator, [0.9, 0.91], 2000, 40)
    first, second = table.values()
    plain = ttest_1samp(first.mean(0) - second.mean(0), 0).pvalue
    assert p_value(first, second) == pytest.approx(plain, rel=0.2)


@given(
    st.integers(1, 12),
    st.floats(0.1, 30),
    st.sampled_from([(1, 1), (2, 1), (1, 3), (4, 4)]),
)
@settings(deadline=None)
def test_where_images_add_nothing_it_is_student_s_t(degrees: int, size: float, seeds: tuple[int, int]) -> None:
    one, other = (np.zeros((count, 200_000), bool) for count in seeds)
    one[:, :20_000] = True
    for row, table in enumerate([*one, *other]):
        table[-1 - row] = True  # so that seeds have an effect
    whole = (0.1 / size) ** 2 / (1 / seeds[0] + 1 / seeds[1])
    found = p_value(one, other, SeedVariance(whole=whole, beyond=whole, degrees=degrees))
    assert found == pytest.approx(2 * student.sf(size, degrees), rel=0.05, abs=2e-4)


@pytest.mark.parametrize("seeds", [(2, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("beyond", [0.0, 0.5, 1.0])
def test_p_values_are_the_mean_over_what_the_variance_over_seeds_may_be(seeds: tuple[int, int], beyond: float) -> None:
    """Against draws of that variance: only what single images do not explain of it counts beyond them."""
    one, other = (np.zeros((count, 1000), bool) for count in seeds)
    one[:, :40], other[:, 30:60] = True, True
    for row, table in enumerate([*one, *other]):
        table[-1 - row] = True  # so that seeds have an effect
    degrees, whole = 3, 1e-4
    variance = sum(whole / count for count in seeds)
    of_images = (1 - beyond) * variance
    factors = degrees / np.random.default_rng(0).chisquare(degrees, 400_000)
    differences = one.mean(0) - other.mean(0)
    spread = np.sqrt(differences.var(ddof=1) / 1000 + np.maximum(variance * factors - of_images, 0))
    expected = float((2 * student.sf(abs(differences.mean()) / spread, 999)).mean())
    found = p_value(one, other, SeedVariance(whole=whole, beyond=beyond * whole, degrees=degrees))
    assert found == pytest.approx(expected, rel=0.01)


def test_a_configuration_whose_seeds_vary_more_than_all_together_counts_by_the_mean_of_both() -> None:
    pooled = SeedVariance(whole=2.0, beyond=1.0, degrees=5)
    larger, smaller = (SeedVariance(whole=one, beyond=one - 1, degrees=1) for one in (4.0, 1.0))
    assert larger.widened(pooled) == SeedVariance(whole=3.0, beyond=2.0, degrees=5)
    assert smaller.widened(pooled) == pooled
    assert larger.widened(None) == larger


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_rows_that_are_repeated_are_no_evidence(seed: int, first: int, second: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.random((1, 60)) < 0.9, generator.random((1, 60)) < 0.8
    exact = p_value(one, other)
    assert p_value(np.repeat(one, first, 0), np.repeat(other, second, 0)) == exact
    found = compare_configurations({"a": np.repeat(one, first, 0), "b": np.repeat(other, second, 0)})
    assert found.pairs[0].p_value == exact and found.seed_degrees == 0


def test_images_needed_find_the_difference() -> None:
    generator = np.random.default_rng(3)
    table = drawn(generator, [0.93, 0.90], 300, 1)
    needed = compare_configurations(table).pairs[0].needed
    assert needed is not None
    one, other = table.values()
    third = drawn(generator, [0.5], 300, 1)["way 0"]
    of_three = compare_configurations({"a": one, "b": other, "c": third})  # corrected for three pairs
    (of_pair,) = (pair.needed for pair in of_three.pairs if {pair.better, pair.worse} == {"a", "b"})
    discordant, difference = float((one != other).mean()), float(one.mean() - other.mean())
    assert of_pair == images_needed(discordant, difference, level=0.05 / 3, power=0.9) > needed
    again = []
    for _ in range(200):  # as many photographs, of the same kind
        rows = generator.integers(0, one.shape[1], needed)
        again.append(compare_configurations({"a": one[:, rows], "b": other[:, rows]}).pairs[0].told_apart)
    assert 0.8 <= np.mean(again) <= 0.98


def test_images_needed_are_more_where_more_pairs_are_compared() -> None:
    """The sample size follows the square of the sum of both quantiles, of which the correction moves one."""
    table = drawn(np.random.default_rng(3), [0.93, 0.90], 300, 1)
    needed = []
    for names in (["a", "b"], ["a", "b", "c"]):
        found = compare_configurations(dict(zip(names, [*table.values(), *table.values()])))
        needed.append(next(pair.needed for pair in found.pairs if (pair.better, pair.worse) == ("a", "b")))
    alone, beside = needed
    assert alone is not None and beside is not None
    expected = [(norm.isf(0.05 / pairs / 2) + norm.isf(0.1)) ** 2 for pairs in (1, 3)]
    assert beside / alone == pytest.approx(expected[1] / expected[0], rel=0.02)


def _told(capsys: pytest.CaptureFixture[str], runs: list[Run]) -> str:
    assert zoo(["compare", *(str(run.path) for run in runs)]) == 0
    return capsys.readouterr().err


def test_runs_that_differ_by_seed_are_one_configuration(
    two_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        train(replace(TINY, data=str(two_splits), strategy=strategy, epochs=1, seed=seed), out=tmp_path / name)
        for name, strategy, seed in (("a", "full", 0), ("b", "full", 1), ("c", "partial:1", 0))
    ]
    assert compare(runs[:2]) is None
    found = compare([*runs, runs[0]])  # twice the same is once
    again = train(  # another data folder of the same content, and settings that change no figure
        replace(
            runs[0].experiment, data=str(shutil.copytree(two_splits, tmp_path / "copy")), workers=1, save_every=9.0
        ),
        out=tmp_path / "again",
    )
    repeated = compare([*runs, again])
    assert repeated is not None and found is not None
    assert repeated == replace(found, repeated=(str(again.path),)) and found.repeated == ()
    assert "again repeats the settings and the seed of another run" in _told(capsys, [*runs, again])
    other = tmp_path / "other"
    shutil.copytree(two_splits, other)
    shutil.copy(other / "val/red/000.jpg", other / "val/red/001.jpg")  # the same names
    changed = train(replace(runs[2].experiment, data=str(other)), out=tmp_path / "changed")
    with pytest.raises(ZooError, match="evaluated on different images"):
        compare([runs[0], changed])
    assert set(found.accuracies) == {f"timm/test_resnet {name}" for name in ("full", "partial:1")}
    right = [run.predictions().correct.mean() for run in runs[:2]]
    assert found.accuracies["timm/test_resnet full"] == pytest.approx(np.mean(right))
    (runs[2].path / "predictions-val.safetensors").unlink()
    with pytest.raises(ZooError, match="has no predictions"):
        compare(runs)
    assert zoo(["compare", *(str(run.path) for run in runs)]) == 0  # the figures stand without it
