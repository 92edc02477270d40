"""Groups: no group in two parts, patterns that find them, and what is told where data come with splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zoo import Images, Plugins, Sample, UsageError, ZooError
from zoo.data import groups as module
from zoo.data.folds import make_folds, pool
from zoo.data.groups import has_groups, key_of, match_groups, shared_groups, told_groups
from zoo.data.opening import open_images
from zoo.data.splitting import hold_out, lock, split_stratified, stratified_subset
from zoo.training.held_out_folds import held_out, held_out_folds


def made(counts: Iterable[tuple[str, str | None, int]]) -> list[Sample]:
    """So many samples of each label and group."""
    return [
        Sample(f"{label}/{row:03d}-{index:04d}", label, Path("x"), group)
        for row, (label, group, count) in enumerate(counts)
        for index in range(count)
    ]


def whole(parts: Iterable[Iterable[Sample]]) -> bool:
    """Whether no group is in two of the parts."""
    keys = [{key_of(sample) for sample in part} for part in parts]
    return len(set().union(*keys)) == sum(map(len, keys))


CELLS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["p1", "p2", "p3", "p4", "p5", "p6", None]), st.integers(1, 8)),
    min_size=1,
    max_size=16,
)


def ids(parts: Iterable[Iterable[Sample]]) -> list[list[str]]:
    return [[normalize("NFC", one.id) for one in part] for part in parts]


def enough(samples: list[Sample], parts: int) -> bool:
    return all(
        len({key_of(one) for one in samples if one.label == label}) >= parts for label in {one.label for one in samples}
    )


@settings(deadline=None, max_examples=20)  # scikit-learn and scipy are imported in the first
@given(CELLS, st.integers(0, 5))
def test_no_group_is_in_two_splits_and_every_class_is_in_each(
    cells: list[tuple[str, str | None, int]], seed: int
) -> None:
    """Or the error says which class is in too few groups."""
    samples = made(cells)
    assume(has_groups(samples))
    dividers: list[tuple[int, Callable[[list[Sample]], list[Sequence[Sample]]]]] = [
        (3, lambda some: list(split_stratified(some, seed).values())),
        (2, lambda some: list(hold_out(some, seed))),
        (4, lambda some: make_folds(some, 4, seed)),
    ]
    for parts, divide in dividers:
        try:
            found = divide(samples)
        except ZooError as error:
            assert not enough(samples, parts) or "cannot be divided" in error.message
            continue
        assert enough(samples, parts) and whole(found) and len(found) == parts
        assert sorted(one.id for part in found for one in part) == sorted(one.id for one in samples)
        labels = {one.label for one in samples}
        assert all({one.label for one in part} == labels for part in found)
        assert divide(samples[::-1]) == found


@settings(deadline=None, max_examples=20)  # scikit-learn and scipy are imported in the first
@given(st.lists(st.integers(3, 9), min_size=2, max_size=3), st.integers(0, 9))
def test_groups_of_one_class_can_always_be_divided(numbers: list[int], seed: int) -> None:
    samples = made(
        (f"class{one}", f"g{one}-{index}", 1 + (index + one) % 4)
        for one, number in enumerate(numbers)
        for index in range(number)
    )
    assert whole(split_stratified(samples, seed).values())


def test_shares_are_near_70_15_15() -> None:
    samples = made((label, f"{label}{index}", 5) for label in "abc" for index in range(20))
    found = split_stratified(samples, 0)
    assert {role: round(len(part) / len(samples), 2) for role, part in found.items()} == {
        "train": 0.7,
        "val": 0.15,
        "test": 0.15,
    }
    assert found != split_stratified(samples, 1)


def test_every_image_its_own_group_is_the_split_without_groups() -> None:
    alone = made((label, f"{label}{index}", 1) for label in "ab" for index in range(20))
    none = [Sample(one.id, one.label, one.source) for one in alone]
    assert ids(split_stratified(alone, 3).values()) == ids(split_stratified(none, 3).values())
    assert ids(hold_out(alone, 3)) == ids(hold_out(none, 3))
    assert ids(make_folds(alone, 5, 3)) == ids(make_folds(none, 5, 3))


def test_a_division_that_no_shuffle_finds_is_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = made(
        (label, f"camera{camera}", 2) for camera, labels in enumerate(["ab", "ac", "bc", "abc"]) for label in labels
    )
    monkeypatch.setattr(module, "_by_folds", lambda labels, groups, counts, shares, seed: np.zeros(len(counts), int))
    found = hold_out(samples, 0)
    assert whole(found) and all({one.label for one in part} == set("abc") for part in found)


def test_impossible_groups_name_the_class() -> None:
    samples = made([("a", f"g{index}", 3) for index in range(6)] + [("b", "only", 20)])
    with pytest.raises(ZooError, match=r"class `b` is in 1 group, and train, val and test need 3 groups"):
        split_stratified(samples, 0)
    with pytest.raises(ZooError, match=r"class `b` is in 1 group, and 5 folds need 5 groups"):
        make_folds(samples, 5, 0)
    both = made((label, f"g{index}", 3) for index in range(3) for label in ("a", "b"))
    both += made([("c", "g0", 2), ("c", "g1", 2), ("c", "x", 2)])
    assert whole(split_stratified(both, 0).values())
    tied = made([("a", "1", 1), ("a", "2", 1), ("b", "2", 1), ("b", "3", 1), ("c", "1", 1), ("c", "3", 1)])
    with pytest.raises(ZooError, match=r"groups cannot be divided into .* so that every class is in each"):
        hold_out(tied, 0)


def test_an_empty_group_is_none() -> None:
    samples = made([("a", "", 8), ("a", "  ", 8), ("b", None, 8)])
    assert not has_groups(samples) and len({key_of(one) for one in samples}) == 24
    mixed = [*samples, *made([("a", "p", 6)])]
    train, val, test = split_stratified(mixed, 0).values()
    assert whole([train, val, test]) and val and test


def test_the_unicode_form_of_names_and_groups_moves_nothing() -> None:
    def form(name: Literal["NFC", "NFD"], of: Iterable[Sample]) -> list[Sample]:
        return [
            Sample(normalize(name, one.id), normalize(name, one.label), one.source, normalize(name, one.group or ""))
            for one in of
        ]

    everything = made((label, f"h\u00f4tel {index}", 3) for label in ("caf\u00e9", "cafz") for index in range(9))
    composed, apart = form("NFC", everything), form("NFD", everything)
    assert composed != apart
    for seed in range(3):
        ours, theirs = (
            [
                ids(split_stratified(some, seed).values()),
                ids(hold_out(some, seed)),
                ids(make_folds(some, 3, seed)),
                ids([stratified_subset(some, 0.4, seed)]),
            ]
            for some in (composed, apart)
        )
        assert ours == theirs
    without = [Sample(one.id, one.label, one.source) for one in apart]
    plain = [Sample(one.id, one.label, one.source) for one in composed]
    assert ids(make_folds(plain, 3, 0)) == ids(make_folds(without, 3, 0))


@settings(deadline=None, max_examples=20)  # scikit-learn and scipy are imported in the first
@given(CELLS, st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), st.integers(0, 9))
def test_a_fraction_keeps_whole_groups_of_a_class(
    cells: list[tuple[str, str | None, int]], shares: tuple[float, float], seed: int
) -> None:
    samples = made(cells)
    fewer, more = (set(stratified_subset(samples, share, seed)) for share in sorted(shares))
    assert fewer <= more
    for label in {one.label for one in samples}:
        assert sum(one.label == label for one in fewer) >= min(2, sum(one.label == label for one in samples))
    if any(samples.count(one) for one in samples) and module.group_numbers(samples) is not None:
        left = set(samples) - fewer
        assert not {(one.label, key_of(one)) for one in fewer} & {(one.label, key_of(one)) for one in left}


def test_locked_data_keep_groups_together() -> None:
    train = tuple(made((label, f"{label}{index}", 4) for label in "ab" for index in range(8)))
    images = Images(name="x", classes=("a", "b"), splits={"train": train, "val": (Sample("v", "a", Path("x")),)})
    found = lock(images, 0).splits
    assert whole([found["train"], found["val"]]) and found["test"] == images.splits["val"]
    assert pool(lock(images, 0)) == pool(Images(name="x", classes=("a", "b"), splits={"train": train}))


@settings(deadline=None, max_examples=20)  # scikit-learn and scipy are imported in the first
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=2, max_size=60),
    st.integers(0, 9),
)
def test_the_folds_of_heads_keep_groups_together(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, groups = (np.array(column, np.int64) for column in zip(*pairs))
    folds, note = held_out_folds(labels, seed, groups)
    seen: list[int] = []
    for fit, held in folds:
        assert not set(groups[fit]) & set(groups[held]) and len(held)
        assert set(labels[fit]) == set(labels) and len(fit) + len(held) == len(labels)
        seen += held.tolist()
    assert len(seen) == len(set(seen)) and held_out(folds).tolist() == sorted(seen)
    assert bool(note) is (len(seen) < len(labels))


def images_of(ids: list[str], *, drawn: bool = True) -> Images:
    return Images(
        name="x", classes=("a",), splits={"train": tuple(Sample(one, "a", Path("x")) for one in ids)}, drawn=drawn
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"p\d+", ["p1", "p22", None]),
        (r"/(p\d)", ["p1", "p2", None]),
        (r"(p)(?P<group>\d+)", ["1", "22", None]),
        (r"(p)(?P<patient>\d+)", ["1", "22", None]),
        (r"(z)?p", [None, None, None]),
    ],
)
def test_a_pattern_finds_groups_in_ids(pattern: str, expected: list[str | None]) -> None:
    images = images_of(["a/p1_x.jpg", "a/p22_y.jpg", "a/other.jpg"])
    if not any(expected):
        with pytest.raises(UsageError, match="matches none of 3 images"):
            match_groups(images, pattern)
        return
    found = match_groups(images, pattern)
    assert [one.group for one in found.splits["train"]] == expected
    assert found.notes == (
        f"`--group {pattern}` does not match 1 image, each of which is a group of its own: `a/other.jpg`",
    )


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATCHING", 0.3)
    images = images_of(["a/" + "x" * 200 + "!"] * 1)
    with pytest.raises(UsageError, match=r"takes more than 0.3 s on 1 image; it stopped at `a/xxx") as raised:
        match_groups(images, r"((x+)+)+y(?<=\1)$|(x+x+)+y\3")
    assert raised.value.hint is not None and "(a+)+" in raised.value.hint


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<1>a)", "[z-a]"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="is not a regular expression"):
        match_groups(images_of(["a/b"]), pattern)


def test_a_folder_is_split_by_the_groups_of_a_pattern(tmp_path: Path, plugins: Plugins) -> None:
    for label in "ab":
        for patient in range(8):
            for shot in range(3):
                file = tmp_path / label / f"p{patient}_{shot}.jpg"
                file.parent.mkdir(exist_ok=True)
                file.touch()
    spec = str(tmp_path)
    images = open_images(spec, 0, plugins, group=r"p\d+")
    assert whole(images.splits.values()) and images.drawn
    assert any("8 groups: train" in note and "no group is in two splits" in note for note in images.notes)
    assert not shared_groups(images.splits)
    locked = open_images(f"locked:{spec}", 0, plugins, group=r"p\d+")
    assert locked.splits == images.splits
    folds = [open_images(f"fold:{one}/4:{spec}", 0, plugins, group=r"p\d+") for one in (1, 2, 3, 4)]
    held = sorted(one.id for fold in folds for one in fold.splits["val"])
    assert held == sorted(one.id for one in pool(images))
    assert all(whole(fold.splits.values()) and "test" not in fold.splits for fold in folds)
    with pytest.raises(UsageError, match=r"`fold:5/4` is not a fold"):
        open_images(f"fold:5/4:{spec}", 0, plugins)


def test_groups_in_two_splits_are_told() -> None:
    some = [Sample(f"{index}", "a", Path("x"), f"p{index % 5}") for index in range(20)]
    images = Images(name="x", classes=("a",), splits={"train": tuple(some[:12]), "val": tuple(some[12:])})
    found = shared_groups(images.splits)
    assert [one.group for one in found] == ["p0", "p1", "p2", "p3", "p4"]
    assert told_groups(found).splitlines() == [
        "5 groups are in two parts of the data, so figures are too optimistic:",
        "  `p0` (train 3, val 1)",
        "  `p1` (train 3, val 1)",
        "  `p2` (train 2, val 2)",
        "  and 2 more",
    ]
    alone = replace(images, splits={"train": images.splits["train"]})
    assert not shared_groups(alone.splits)
