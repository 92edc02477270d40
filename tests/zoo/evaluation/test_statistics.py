"""Every interval and test against another implementation, or against figures of its paper."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test, t
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from zoo.evaluation.significance import p_value
from zoo.evaluation.statistics import (
    Correct,
    bootstrap_interval,
    difference_interval,
    grouped_interval,
    holm,
    images_needed,
    mcnemar_test,
    mean_variance,
    paired_difference_interval,
    sign_flip_test,
    superiority_interval,
    trimmed_mean_lower_bound,
    wilson_interval,
)


def cells(both: int, first_only: int, second_only: int, neither: int) -> tuple[Correct, Correct]:
    """Two classifiers over the same images, by how many images both, one or none has right."""
    counts = (both, first_only, second_only, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@given(count=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_s_interval_is_that_of_statsmodels(count: int, share: float) -> None:
    right = round(share * count)
    expected = proportion_confint(right, count, method="wilson")
    assert wilson_interval(right, count) == pytest.approx(expected, abs=1e-9)


def test_wilson_s_interval_of_a_known_example() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(first=st.integers(0, 80), second=st.integers(0, 120), level=st.sampled_from([0.05, 0.01, 0.001]))
def test_the_interval_of_an_unpaired_difference_is_that_of_statsmodels(first: int, second: int, level: float) -> None:
    expected = confint_proportions_2indep(first, 80, second, 120, method="newcomb", compare="diff", alpha=level)
    assert difference_interval((first, 80), (second, 120), level=level) == pytest.approx(expected, abs=1e-9)


@given(share=st.floats(0, 1), one=st.integers(1, 2000), other=st.integers(1, 2000))
def test_the_interval_of_superiority_ends_where_its_definition_says(share: float, one: int, other: int) -> None:
    """At its ends the estimate is 1.96 standard errors away, by Hanley and McNeil 1982; else they are 0 or 1."""
    low, high = superiority_interval(share, one, other)
    assert 0 <= low <= share <= high <= 1 and low < high
    half = (one + other) / 2 - 1
    for end in (low, high):
        spread = end * (1 - end) * (1 + half * (1 - end) / (2 - end) + half * end / (1 + end)) / (one * other)
        assert end in (0.0, 1.0) or abs(end - share) == pytest.approx(1.959964 * spread**0.5, abs=1e-6)
    assert superiority_interval(1 - share, one, other) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_the_interval_of_superiority_holds_the_truth_as_often_as_stated() -> None:
    random, held = np.random.default_rng(0), 0
    truth = 0.7602  # of normal values a standard deviation apart
    for _ in range(400):
        ours, theirs = random.standard_normal(60) + 1, random.standard_normal(40)
        low, high = superiority_interval(float((ours[:, None] > theirs).mean()), 60, 40)
        held += low <= truth <= high
    assert held >= 0.93 * 400


@given(first=st.integers(0, 60), second=st.integers(0, 60), both=st.integers(0, 50))
def test_mcnemar_s_test_is_that_of_statsmodels(first: int, second: int, both: int) -> None:
    one, other = cells(both, first, second, 3)
    expected = mcnemar([[both, first], [second, 3]], exact=True).pvalue if first + second else 1.0
    assert mcnemar_test(one, other) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_s_adjustment_is_that_of_statsmodels(values: list[float]) -> None:
    with mock.patch(
        "gc.collect"
    ):  # which `multipletests` calls each time; it takes half a second beside a loaded torch
        expected = list(multipletests(values, method="holm")[1])
    assert holm(values) == pytest.approx(expected, abs=1e-12)


def test_holm_of_known_and_of_no_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_paired_interval_of_a_published_example() -> None:
    """Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals for paired binomial proportions".

    Airway hyper-responsiveness of 21 children before and after a transplantation; Newcombe's square-and-add interval.
    """
    found = paired_difference_interval(*cells(1, 1, 7, 12))
    assert found == pytest.approx((-0.507, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("counts", "correlation"),
    [((45, 5, 5, 45), (45 * 45 - 5 * 5 - 50) / 2500), ((25, 25, 25, 25), 0.0), ((5, 45, 45, 5), (25 - 2025) / 2500)],
)
def test_the_paired_interval_is_narrow_where_both_are_right_on_the_same_images(
    counts: tuple[int, int, int, int], correlation: float
) -> None:
    """Of two shares of a half, Newcombe's formula is the distance to Wilson's bound times `sqrt(2 (1 - phi))`."""
    one, other = cells(*counts)
    side = (0.5 - wilson_interval(50, 100)[0]) * np.sqrt(2 * (1 - correlation))
    assert paired_difference_interval(one, other) == pytest.approx((-side, side))


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda counts: sum(counts) > 0))
def test_the_paired_interval_holds_the_difference_and_turns_with_the_order(counts: tuple[int, int, int, int]) -> None:
    one, other = cells(*counts)
    low, high = paired_difference_interval(one, other)
    assert -1 - 1e-9 <= low <= one.mean() - other.mean() <= high <= 1 + 1e-9 and low < high
    assert paired_difference_interval(other, one) == pytest.approx((-high, -low))


def test_the_paired_interval_covers_the_difference() -> None:
    generator, hits = np.random.default_rng(0), 0
    for _ in range(500):
        right = generator.random(150) < 0.94
        other = np.where(generator.random(150) < 0.03, ~right, right)
        true = 0.94 - (0.94 * 0.97 + 0.06 * 0.03)
        low, high = paired_difference_interval(right, other)
        hits += low <= true <= high
    assert hits >= 465


def test_the_bootstrap_of_one_seed_is_the_binomial_s() -> None:
    """With one seed the resampled mean is binomial, so that its quantiles are known."""
    from scipy.stats import binom

    table = np.arange(400)[None] % 10 > 0  # 0.9
    low, high = bootstrap_interval(table)
    assert (low, high) == pytest.approx((binom.ppf(0.025, 400, 0.9) / 400, binom.ppf(0.975, 400, 0.9) / 400), abs=0.004)


def test_the_bootstrap_draws_seeds_anew() -> None:
    """Two seeds that differ by far make an interval that reaches from one to the other."""
    good, bad = np.ones(1000, bool), np.arange(1000) % 2 == 0
    low, high = bootstrap_interval(np.array([good, bad]))
    assert low < 0.52 and high > 0.99


def test_an_interval_has_a_width_where_all_are_right() -> None:
    low, high = bootstrap_interval(np.ones((2, 30), bool))
    assert low < 0.9 and high == pytest.approx(1.0)


@pytest.mark.parametrize(("discordant", "difference"), [(0.1, 0.03), (0.2, 0.05), (0.3, 0.1)])
def test_so_many_images_find_the_difference_as_often_as_asked(discordant: float, difference: float) -> None:
    count = images_needed(discordant, difference, level=0.05, power=0.9)
    generator, found = np.random.default_rng(1), 0
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    for first, second, _ in generator.multinomial(count, shares, size=2000):
        found += abs(first - second) / np.sqrt(first + second) > 1.96  # McNemar's test for large samples
    assert 0.87 <= found / 2000 <= 0.94


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=40), st.sampled_from([0.1, 0.2]))
def test_the_trimmed_mean_s_bound_is_tukey_s_formula(values: list[float], trimmed: float) -> None:
    ordered = np.sort(np.array(values))
    cut = int(trimmed * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    winsorised = np.clip(ordered, kept[0], kept[-1])
    spread = winsorised.std(ddof=1) / ((1 - 2 * trimmed) * np.sqrt(len(ordered)))
    expected = kept.mean() - t.ppf(0.975, len(kept) - 1) * spread
    assert trimmed_mean_lower_bound(ordered, trimmed) == pytest.approx(expected, abs=1e-6)


def in_groups(seed: int, number: int = 15, alike: float = 0.7) -> tuple[Correct, np.ndarray]:
    """Images in groups of one to eight; those of a group are right together, or wrong, as often as `alike`."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(number), random.integers(1, 9, number))
    of_group = random.random(number) < 0.8
    right = np.where(random.random(len(groups)) < alike, of_group[groups], random.random(len(groups)) < 0.8)
    order = random.permutation(len(groups))
    return right[order], groups[order]


def robust(values: np.ndarray, groups: np.ndarray):  # type: ignore[no-untyped-def]
    """Statsmodels' regression on a constant, with its variance over groups and Student's t."""
    asked = {"groups": groups, "use_correction": True, "df_correction": True}
    return OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds=asked, use_t=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_variance_over_groups_is_that_of_statsmodels(seed: int) -> None:
    right, groups = in_groups(seed)
    values = right.astype(np.float64)
    expected = float(robust(values, groups).cov_params()[0, 0])
    assert mean_variance(values - values.mean(), groups) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_over_groups_is_wilson_s_of_as_many_images_as_have_their_variance(seed: int) -> None:
    """Korn and Graubard's, from the variance and Student's t of statsmodels, and its Wilson interval."""
    right, groups = in_groups(seed)
    variance = float(robust(right.astype(np.float64), groups).cov_params()[0, 0])
    share = right.mean()
    count = min(share * (1 - share) / variance, len(right))
    count *= (1.959963984540054 / t.ppf(0.975, groups.max())) ** 2
    expected = proportion_confint(share * count, count, method="wilson")
    assert grouped_interval(right, groups) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_signs_of_groups_are_flipped_as_scipy_does(seed: int) -> None:
    """The exact permutation test of paired samples, over the groups' sums."""
    one, groups = in_groups(seed, number=10)
    other = np.where(np.random.default_rng(seed + 100).random(len(one)) < 0.4, ~one, one)
    differences = one.astype(np.float64) - other
    sums = np.bincount(groups, weights=differences)
    asked: dict[str, object] = {"permutation_type": "samples", "n_resamples": np.inf, "vectorized": True}
    expected = permutation_test((sums,), lambda values, axis: values.sum(axis), **asked).pvalue
    assert sign_flip_test(differences, groups) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_images_of_a_group_of_their_own_give_mcnemar_s_test(seed: int) -> None:
    one, _ = in_groups(seed)
    other = np.where(np.random.default_rng(seed).random(len(one)) < 0.3, ~one, one)
    pairs = [[int((one & other).sum()), int((one & ~other).sum())], [int((~one & other).sum()), 0]]
    found = sign_flip_test(one.astype(np.float64) - other, np.arange(len(one)))
    assert found == pytest.approx(mcnemar(pairs, exact=True).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_of_groups_is_that_of_scipy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.evaluation.statistics.grouped_interval", lambda right, groups: (1.0, 0.0))  # never wider
    right, groups = in_groups(seed, number=40)
    sums, sizes = np.bincount(groups, weights=right), np.bincount(groups)
    found = bootstrap(
        (sums, sizes), lambda some, of, axis: some.sum(axis) / of.sum(axis), paired=True, vectorized=True,
        n_resamples=4000, method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    assert bootstrap_interval(right[None], groups=groups) == pytest.approx((found.low, found.high), abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_where_seeds_add_nothing_student_s_t_over_groups_is_that_of_statsmodels(seed: int) -> None:
    """Two seeds that are equally good on different images: their variance is less than images explain."""
    one, groups = in_groups(seed)
    random = np.random.default_rng(seed)

    def twice(right: Correct) -> Correct:
        """The same accuracy with another seed: one image that was right is wrong, and one that was wrong is right."""
        again = right.copy()
        again[random.choice(np.flatnonzero(right))] = False
        again[random.choice(np.flatnonzero(~right))] = True
        return np.array([right, again])

    first, second = twice(one), twice(np.where(random.random(len(one)) < 0.3, ~one, one))
    expected = float(robust(first.mean(axis=0) - second.mean(axis=0), groups).pvalues[0])
    assert p_value(first, second, groups=groups) == pytest.approx(expected, rel=1e-6)
