"""Splits: stratified, disjoint, repeatable."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import TINY

from zoo import Images, Sample, ZooError
from zoo.data.roles import assign_roles
from zoo.data.splitting import hold_out, lock, split_stratified
from zoo.dataset import Role


def samples(counts: dict[str, int]) -> list[Sample]:
    return [Sample(f"{label}/{i:04d}", label, Path("x")) for label, count in counts.items() for i in range(count)]


@given(
    st.dictionaries(st.text("abcé", min_size=1, max_size=4), st.integers(3, 60), min_size=2, max_size=5),
    st.integers(0, 1000),
)
def test_a_split_is_a_partition_with_every_class_in_every_role(counts: dict[str, int], seed: int) -> None:
    everything = samples(counts)
    roles = split_stratified(everything, seed)
    ids = [sample.id for part in roles.values() for sample in part]
    assert sorted(ids) == sorted(sample.id for sample in everything)
    for role in ("train", "val", "test"):
        assert {sample.label for sample in roles[role]} == set(counts)
    assert split_stratified(everything[::-1], seed) == roles


def test_shares_are_70_15_15() -> None:
    roles = split_stratified(samples({"a": 100, "b": 200}), 0)
    assert {role: Counter(s.label for s in part) for role, part in roles.items()} == {
        "train": {"a": 70, "b": 140},
        "val": {"a": 15, "b": 30},
        "test": {"a": 15, "b": 30},
    }
    assert split_stratified(samples({"a": 100, "b": 200}), 1) != roles


def test_other_classes_do_not_move_a_class() -> None:
    alone = split_stratified(samples({"a": 40, "b": 5}), 3)
    beside = split_stratified(samples({"a": 40, "c": 9}), 3)
    ids = [{role: [s.id for s in part if s.label == "a"] for role, part in roles.items()} for roles in (alone, beside)]
    assert ids[0] == ids[1]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ZooError, match="class `b` has 2 images"):
        split_stratified(samples({"a": 10, "b": 2}), 0)
    with pytest.raises(ZooError, match="class `b` has one training image"):
        hold_out(samples({"a": 10, "b": 1}), 0)


def test_hold_out_takes_a_share_of_each_class() -> None:
    fit, choose = hold_out(samples({"a": 20, "b": 40}), 0)
    assert Counter(s.label for s in choose) == {"a": 3, "b": 6}
    assert not {s.id for s in fit} & {s.id for s in choose}
    assert len(fit) + len(choose) == 60


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(2, 40), min_size=2, max_size=4),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    st.sampled_from(["two", "two, held out", "locked", "three"]),
    st.integers(0, 100),
)
def test_a_smaller_fraction_lies_within_a_larger_one_and_both_are_validated_alike(
    counts: dict[str, int], fractions: tuple[float, float], layout: str, seed: int
) -> None:
    splits: dict[Role, tuple[Sample, ...]] = {
        "train": tuple(samples(counts)),
        "val": tuple(samples({f"{label}v": 1 for label in counts})),
    }
    if layout == "three":
        splits["test"] = tuple(samples({f"{label}t": 1 for label in counts}))
    images = Images(name="x", classes=tuple(sorted(counts)), splits=splits)
    images = lock(images, seed) if layout == "locked" else images
    asked = replace(TINY, split_seed=seed, early_stopping=None if layout == "two" else 2)
    fewer, more, whole = (assign_roles(images, replace(asked, fraction=one)) for one in (*sorted(fractions), 1.0))
    assert set(fewer.fit) <= set(more.fit) <= set(whole.fit)
    assert fewer.choose == more.choose == whole.choose
    assert not set(whole.fit) & set(whole.choose)
    assert bool(whole.choose) is (layout != "two")
    for label in counts:  # two of each class, so that a solver can hold one out
        left, had = (sum(sample.label == label for sample in part) for part in (fewer.fit, whole.fit))
        assert left >= min(2, had)
