"""Groups: images that must stay in one split, such as those of a patient, a camera or a video.

A group comes with the data (`Sample.group`), or from a pattern that is matched with the image's id. An image without a
group is a group of its own. Whatever divides samples, divides groups: `zoo/data/splitting.py`, `zoo/data/folds.py` and
the folds of solved heads in `zoo/training/held_out_folds.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import composed
from zoo.data.sample_columns import SampleColumns, columns_of
from zoo.dataset import Images, Sample
from zoo.errors import UsageError, ZooError, counted

# Seconds for matching a pattern with all ids. A pattern without catastrophic backtracking matches a million in less;
# one with it would not end in a lifetime
MATCHING = 10.0
SHOWN = 3  # ids in a note, groups in a warning

Indices = npt.NDArray[np.int64]

# Numbers of folds that scikit-learn is asked for; parts of 70, 15 and 15 % are made of 14, 3 and 3 of 20, or fewer
FOLDS = (20, 7, 5, 4, 3, 2)
TRIES = 3  # shuffles that are tried while a class is missing from a part
MOST_GROUPS = 500  # above, 7 folds are near enough to the shares, and 20 would take minutes
NODES = 20_000  # of the search for a division that has every class in every part, where no shuffle gives one


def key_of(sample: Sample) -> str:
    """What says which samples are of one group: the group's name in composed form; an image without one is alone.

    A group that is empty, or nothing but spaces, is none.
    """
    name = (sample.group or "").strip()
    return f"group {composed(name)}" if name else f"image {composed(sample.id)} {sample.id}"


def has_groups(samples: Iterable[Sample]) -> bool:
    """Whether any sample is of a group with a name."""
    if isinstance(samples, SampleColumns):
        return samples.has_groups()
    return any(sample.group and sample.group.strip() for sample in samples)


def group_numbers(samples: Sequence[Sample]) -> Indices | None:
    """A number for each sample, equal for samples of one group; None where no two samples are of one group."""
    if not has_groups(samples):
        return None
    names = [key_of(sample) for sample in samples]
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return None if len(known) == len(samples) else np.array([known[name] for name in names], np.int64)


def group_names(samples: Sequence[Sample]) -> tuple[str, ...] | None:
    """The group of each sample for a table of predictions; None where no two samples are of one group."""
    return None if group_numbers(samples) is None else tuple(key_of(sample) for sample in samples)


def match_groups(images: Images, pattern: str) -> Images:
    """The images with the groups that a pattern finds in their ids.

    The group is what the pattern's group named `group` matches; else its first named group, its first group, or all of
    it. Ids and pattern are compared in their composed Unicode form.

    Raises:
        UsageError: the pattern is not valid, matches no id, or does not end in time.
    """
    import regex

    try:
        found = regex.compile(composed(pattern))
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise UsageError(
            f"`--group {pattern}` is not a regular expression: {error or type(error).__name__}",
            hint=r"such as '(patient\d+)_', which is matched with the path of each image below the data folder",
        ) from error
    which: str | int = 0
    if found.groups:
        which = "group" if "group" in found.groupindex else next(iter(found.groupindex), 1)
    until = monotonic() + MATCHING
    unmatched: list[str] = []
    names: dict[str, str | None] = {}
    samples = [sample for part in images.splits.values() for sample in part]
    for sample in samples:
        try:
            match = found.search(composed(sample.id), timeout=max(until - monotonic(), 0.001))
        except TimeoutError as error:
            raise UsageError(
                f"`--group {pattern}` takes more than {MATCHING:g} s on {counted(len(samples), 'image')}; it stopped "
                f"at `{sample.id}`",
                hint="avoid a repetition within a repetition, such as `(a+)+`",
            ) from error
        name = ((match[which] if match else None) or "").strip()
        names[sample.id] = name or None
        if not name:
            unmatched.append(sample.id)
    if len(unmatched) == len(samples):
        raise UsageError(
            f"`--group {pattern}` matches none of {counted(len(samples), 'image')}",
            hint=f"the first is `{unmatched[0]}`",
        )
    notes = []
    if unmatched:
        first = " ".join(f"`{name}`" for name in unmatched[:SHOWN]) + (" ..." if len(unmatched) > SHOWN else "")
        notes.append(
            f"`--group {pattern}` does not match {counted(len(unmatched), 'image')}, each of which is a group of its "
            f"own: {first}"
        )
    if has_groups(samples):
        notes.append(f"`--group {pattern}` takes the place of the groups that come with the data")
    return replace(
        images,
        splits={
            role: tuple(Sample(one.id, one.label, one.source, names[one.id]) for one in part)
            for role, part in images.splits.items()
        },
        notes=(*images.notes, *notes),
    )


def divide(samples: Sequence[Sample], shares: Sequence[float], seed: int, what: str) -> list[Sequence[Sample]]:
    """Divide samples of groups into parts: no group in two of them, every class in each, near the shares of images.

    The division is scikit-learn's `StratifiedGroupKFold`, the best of several; where none of them has every class in
    every part, one that has is searched for by integer programming (scipy's `milp`).

    Args:
        samples: in an order that does not depend on the file system.
        shares: of the images in each part.
        seed: of the division.
        what: the parts in words, for the message of an error.

    Raises:
        ZooError: a class has too few groups, or no division has every class in every part.
    """
    names = [composed(sample.label) for sample in samples]
    classes = {name: number for number, name in enumerate(sorted(set(names)))}
    labels = np.array([classes[name] for name in names], np.int64)
    keys = [key_of(sample) for sample in samples]
    numbers = {name: number for number, name in enumerate(sorted(set(keys)))}
    groups = np.array([numbers[name] for name in keys], np.int64)
    counts: npt.NDArray[np.int64] = np.zeros((len(numbers), len(classes)), np.int64)
    np.add.at(counts, (groups, labels), 1)
    _check_groups(counts, samples, labels, len(shares), what)
    parts = _by_folds(labels, groups, counts, shares, seed)
    if not _complete(parts, counts, len(shares)):
        searched = _by_search(counts, shares, seed)
        if searched is None:
            rarest = int((counts > 0).sum(axis=0).argmin())
            label = samples[int(np.flatnonzero(labels == rarest)[0])].label
            raise ZooError(
                f"groups cannot be divided into {what} so that every class is in each; class `{label}` is in the "
                f"fewest groups, {int((counts[:, rarest] > 0).sum())}",
                hint="add images of other groups, or merge classes",
            )
        parts = searched
    of_samples, columns = parts[groups], columns_of(samples)
    return [columns.take(np.flatnonzero(of_samples == part)) for part in range(len(shares))]


def _check_groups(counts: Indices, samples: Sequence[Sample], labels: Indices, parts: int, what: str) -> None:
    """Check that every class is in as many groups as there are parts.

    Raises:
        ZooError: one is in fewer.
    """
    of_class = (counts > 0).sum(axis=0)
    least = int(of_class.argmin())
    if of_class[least] < parts:
        label = samples[int(np.flatnonzero(labels == least)[0])].label
        raise ZooError(
            f"class `{label}` is in {counted(int(of_class[least]), 'group')}, and {what} need {parts} groups of every "
            "class",
            hint="add images of other groups, or choose smaller groups",
        )


def _by_folds(
    labels: Indices, groups: Indices, counts: Indices, shares: Sequence[float], seed: int
) -> npt.NDArray[np.int64]:
    """The part of each group: the best that is made of folds of scikit-learn."""
    from sklearn.model_selection import StratifiedGroupKFold

    equal = max(shares) == min(shares)
    sizes = [len(shares)] if equal else [size for size in FOLDS if len(shares) <= size <= len(counts)]
    if len(counts) > MOST_GROUPS and not equal:
        sizes = [7]
    best: npt.NDArray[np.int64] = np.zeros(len(counts), np.int64)
    least = np.inf
    for size in sizes:
        smaller = [max(1, round(share * size)) for share in shares[1:]]
        if size - sum(smaller) < 1:
            continue
        part_of_fold = np.repeat(np.arange(len(shares)), [size - sum(smaller), *smaller])
        for attempt in range(TRIES):
            if attempt and _complete(best, counts, len(shares)):
                break
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a class with fewer images than folds: parts are checked below
                try:
                    folds = list(
                        StratifiedGroupKFold(size, shuffle=True, random_state=(seed + attempt) % 2**32).split(
                            labels, labels, groups
                        )
                    )
                except ValueError:  # no class has as many images as there are folds
                    break
            fold_of: npt.NDArray[np.int64] = np.zeros(len(counts), np.int64)
            for number, (_, held) in enumerate(folds):
                fold_of[groups[held]] = number
            for turn in range(1 if equal else size):
                parts = part_of_fold[(fold_of + turn) % size]
                far = _distance(parts, counts, shares)
                if far < least - 1e-9:
                    best, least = parts, far
    return best


def _distance(parts: Indices, counts: Indices, shares: Sequence[float]) -> float:
    """How far the parts are from their shares, over all classes; 10 more for each class that a part lacks."""
    found = np.zeros((len(shares), counts.shape[1]))
    np.add.at(found, parts, counts)
    off = np.abs(found / counts.sum(axis=0) - np.asarray(shares)[:, None])
    return float(off.sum() / counts.shape[1] + 10 * (found == 0).sum())


def _complete(parts: Indices, counts: Indices, number: int) -> bool:
    found: Indices = np.zeros((number, counts.shape[1]), np.int64)
    np.add.at(found, parts, counts)
    return bool((found > 0).all())


def _by_search(counts: Indices, shares: Sequence[float], seed: int) -> npt.NDArray[np.int64] | None:
    """The part of each group by integer programming, every class in each part; None where there is no such division."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    # a variable for each group and part, 1 where the group is in the part; then one for each class and part, which is
    # at least the distance from its share
    groups, classes = counts.shape
    parts = len(shares)
    inside = groups * parts
    total = inside + classes * parts
    order = np.random.default_rng(seed).permutation(groups)  # solvers take the first of equal divisions
    shuffled = counts[order]
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    low: list[float] = []
    high: list[float] = []

    def constrain(terms: Iterable[tuple[int, float]], least: float, most: float) -> None:
        for column, value in terms:
            rows.append(len(low))
            columns.append(column)
            values.append(value)
        low.append(least)
        high.append(most)

    for group in range(groups):
        constrain([(group * parts + part, 1.0) for part in range(parts)], 1, 1)
    for name in range(classes):
        members = np.flatnonzero(shuffled[:, name]).tolist()
        whole = float(shuffled[:, name].sum())
        for part, share in enumerate(shares):
            constrain([(group * parts + part, 1.0) for group in members], 1, np.inf)
            terms = [(group * parts + part, float(shuffled[group, name]) / whole) for group in members]
            off = inside + name * parts + part
            constrain([*terms, (off, 1.0)], share, np.inf)
            constrain([*terms, (off, -1.0)], -np.inf, share)
    matrix = coo_array((values, (rows, columns)), shape=(len(low), total))
    cost = np.concatenate([np.zeros(inside), np.ones(classes * parts)])
    whole_numbers = np.concatenate([np.ones(inside), np.zeros(classes * parts)])
    found: Any = milp(
        cost,
        constraints=LinearConstraint(matrix.tocsr(), low, high),
        integrality=whole_numbers,
        bounds=Bounds(0, 1),
        options={"node_limit": NODES, "mip_rel_gap": 0.05},
    )
    if found.x is None:
        return None
    answer: npt.NDArray[np.int64] = np.zeros(groups, np.int64)
    answer[order] = found.x[:inside].reshape(groups, parts).argmax(axis=1)
    return answer if _complete(answer, counts, parts) else None


@dataclass(frozen=True, kw_only=True)
class SharedGroup:
    """A group that lies in two splits, with the number of its images in each."""

    group: str
    images: Mapping[str, int]

    def __str__(self) -> str:
        return f"`{self.group}` ({', '.join(f'{role} {count}' for role, count in self.images.items())})"

    def to_json(self) -> dict[str, Any]:
        return {"group": self.group, "images": dict(self.images)}


def shared_groups(parts: Mapping[Any, Iterable[Sample]]) -> list[SharedGroup]:
    """The groups that lie in two of the parts, by name."""
    found: dict[str, dict[str, int]] = {}
    for role, samples in parts.items():
        if isinstance(samples, SampleColumns) and not samples.has_groups():
            continue
        for sample in samples:
            if sample.group and (name := composed(sample.group.strip())):
                images = found.setdefault(name, {})
                images[role] = images.get(role, 0) + 1
    return [SharedGroup(group=name, images=images) for name, images in sorted(found.items()) if len(images) > 1]


def told_groups(found: Sequence[SharedGroup]) -> str:
    """The groups in two splits in words, then a line for each of the first."""
    lines = "".join(f"\n  {one}" for one in found[:SHOWN])
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = counted(len(found), "group is", "groups are")
    return f"{what} in two parts of the data, so figures are too optimistic:{lines}{more}"
