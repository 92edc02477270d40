"""Splits: stratified, disjoint, repeatable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import TINY

from zoo import Images, Sample, ZooError
from zoo.data.roles import assign_roles
from zoo.data.splitting import hold_out, lock, split_stratified, stratified_subset
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


def test_the_unicode_form_of_names_does_not_move_an_image() -> None:
    """A data folder on Linux and its copy on macOS are split, held out and thinned alike."""

    def form(name: Literal["NFC", "NFD"], of: Iterable[Sample]) -> list[Sample]:
        return [Sample(normalize(name, one.id), normalize(name, one.label), one.source) for one in of]

    everything = samples({"caf\u00e9": 40, "cafz": 30})
    composed, apart = form("NFC", everything), form("NFD", everything)
    assert {sample.label for sample in composed} != {sample.label for sample in apart}
    for seed in range(3):
        ours, theirs = split_stratified(composed, seed), split_stratified(apart, seed)
        assert {role: form("NFC", part) for role, part in theirs.items()} == {r: list(p) for r, p in ours.items()}
        assert [form("NFC", part) for part in hold_out(apart, seed)] == [list(p) for p in hold_out(composed, seed)]
        assert form("NFC", stratified_subset(apart, 0.3, seed)) == list(stratified_subset(composed, 0.3, seed))


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


@pytest.mark.parametrize("reported", ["val", "test"])
def test_what_is_held_out_of_locked_data_is_drawn_by_the_seed(reported: Role) -> None:
    splits: dict[Role, tuple[Sample, ...]] = {
        "train": tuple(samples({"a": 40, "b": 30})),
        reported: (Sample("v/a", "a", Path("x")), Sample("v/b", "b", Path("x"))),
    }
    images = Images(name="x", classes=("a", "b"), splits=splits)
    for seed in (0, 1):
        found = lock(images, seed).splits
        assert (found["train"], found["val"]) == hold_out(splits["train"], seed) and found["test"] == splits[reported]
    assert lock(images, 0) != lock(images, 1)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=4), st.integers(0, 9))
def test_at_least_one_image_of_each_class_is_held_out(counts: list[int], seed: int) -> None:
    classes = {f"class {number}": count for number, count in enumerate(counts)}
    fit, choose = (Counter(sample.label for sample in part) for part in hold_out(samples(classes), seed))
    assert choose == {label: max(1, round(0.15 * count)) for label, count in classes.items()}
    assert fit + choose == classes and set(fit) == set(classes)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.floats(0.001, 1), st.integers(0, 9))
def test_a_fraction_leaves_two_images_of_each_class(counts: list[int], share: float, seed: int) -> None:
    classes = {f"class {number}": count for number, count in enumerate(counts)}
    kept = Counter(sample.label for sample in stratified_subset(samples(classes), share, seed))
    assert kept == {label: min(count, max(2, round(share * count))) for label, count in classes.items()}


def test_runs_that_differ_in_their_seed_train_on_the_same_fraction() -> None:
    splits: dict[Role, tuple[Sample, ...]] = {
        "train": tuple(samples({"a": 40, "b": 30})),
        "val": (Sample("v/a", "a", Path("x")), Sample("v/b", "b", Path("x"))),
    }
    images = Images(name="x", classes=("a", "b"), splits=splits)
    asked = replace(TINY, fraction=0.5, early_stopping=2)
    found = [
        assign_roles(images, replace(asked, seed=seed, split_seed=split)) for seed, split in ((0, 0), (1, 0), (0, 1))
    ]
    assert found[0] == found[1] != found[2]


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
