"""Splitting samples: every split is stratified by class, keeps groups together and is repeatable by its seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import composed
from zoo.data.groups import divide, group_numbers, key_of
from zoo.data.sample_columns import SampleColumns, columns_of
from zoo.dataset import LOCKED, Images, Role, Sample
from zoo.errors import ZooError, counted

Indices = npt.NDArray[np.int64]

# Shares of val and test where a dataset comes without a split. With 15 % each, most images remain for training. With at
# least 300 test images, the standard error of a test accuracy is below 2 points
VAL_SHARE = 0.15
TEST_SHARE = 0.15


def in_order(samples: Iterable[Sample]) -> SampleColumns:
    """The samples in the order of their ids, the same on every file system."""
    return columns_of(samples).sorted_by(_place)


def _place(id: bytes) -> bytes:
    """What samples are ordered by: file systems differ in the Unicode form of names, and the split must not."""
    if id.isascii():
        return id
    text = id.decode("utf-8", "surrogatepass")
    return composed(text).encode("utf-8", "surrogatepass") + b"\0" + id


def _shuffled(indices: Indices, label: str, seed: int) -> Indices:
    """The samples of a class in a random order that depends on the seed and the class's name, not on other classes."""
    generator = np.random.default_rng([seed, *composed(label).encode()])
    return indices[generator.permutation(len(indices))]


def _part(ordered: SampleColumns, indices: Sequence[Indices]) -> SampleColumns:
    """The samples at some indices of `ordered`, in its order."""
    return ordered.take(np.sort(np.concatenate(indices)) if indices else np.zeros(0, np.int64))


def split_stratified(samples: Sequence[Sample], seed: int) -> dict[Role, Sequence[Sample]]:
    """Split into train, val and test, 70/15/15 of every class; each split has at least one image of each class.

    Where samples have groups, no group is in two splits, and the shares are as near to these as groups allow.

    Raises:
        ZooError: a class has fewer than three images, or is in fewer than three groups, or no split has every class in
            each part.
    """
    if group_numbers(samples) is not None:
        shares = (1 - VAL_SHARE - TEST_SHARE, VAL_SHARE, TEST_SHARE)
        train, held, locked = divide(in_order(samples), shares, seed, "train, val and test")
        return {"train": train, "val": held, "test": locked}
    roles: dict[Role, list[Indices]] = {"train": [], "val": [], "test": []}
    ordered = in_order(samples)
    for label, group in ordered.by_label().items():
        if len(group) < 3:
            raise ZooError(
                f"class `{label}` has {counted(len(group), 'image')}; a split into train, val and test needs 3 of each",
                hint="add images, or split them yourself into folders `train/` and `val/`",
            )
        order = _shuffled(group, label, seed)
        val = max(1, round(VAL_SHARE * len(group)))
        test = max(1, round(TEST_SHARE * len(group)))
        roles["val"].append(order[:val])
        roles["test"].append(order[val : val + test])
        roles["train"].append(order[val + test :])
    return {role: _part(ordered, found) for role, found in roles.items()}


def hold_out(samples: Sequence[Sample], seed: int) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Split training images into those to train on and those held out for validation, 85/15 of every class.

    No group is in both parts.

    Raises:
        ZooError: a class has a single image or is in a single group, or no division has every class in both parts.
    """
    if group_numbers(samples) is not None:
        shares = (1 - VAL_SHARE, VAL_SHARE)
        rest, held = divide(in_order(samples), shares, seed, "training images and those held out for validation")
        return rest, held
    fit: list[Indices] = []
    choose: list[Indices] = []
    ordered = in_order(samples)
    for label, group in ordered.by_label().items():
        if len(group) < 2:
            raise ZooError(f"class `{label}` has one training image, so none can be held out for validation")
        order = _shuffled(group, label, seed)
        count = max(1, round(VAL_SHARE * len(group)))
        choose.append(order[:count])
        fit.append(order[count:])
    return _part(ordered, fit), _part(ordered, choose)


def lock(images: Images, seed: int) -> Images:
    """Make `test` the last split, so that it is evaluated only on request; `val` is held out from train.

    Data that come with train, val and test are unchanged.

    Raises:
        ZooError: a class has a single training image.
    """
    if images.may_choose:
        return images
    if "train" not in images.splits or len(images.splits) < 2:
        raise ZooError(f"`{images.name}` has {' '.join(images.splits)} alone, so no split of it can be locked")
    fit, choose = hold_out(images.splits["train"], seed)
    note = (
        f"`{images.reported}` is locked as `test`; {len(choose)} of {len(fit) + len(choose)} training images "
        f"{'is' if len(choose) == 1 else 'are'} held out as `val`"
    )
    return replace(
        images,
        name=f"{LOCKED}:{images.name}",
        splits={"train": fit, "val": choose, "test": images.splits[images.reported]},
        notes=(*images.notes, note),
    )


def stratified_subset(samples: Sequence[Sample], share: float, seed: int) -> Sequence[Sample]:
    """A share of the samples of every class, but at least two of them, if the class has two.

    A smaller share with the same seed is a subset of a larger one. Of a group, all images of a class are kept, or none:
    fewer images of every patient would tell more than the images of fewer patients.
    """
    kept: list[Indices] = []
    grouped = group_numbers(samples) is not None
    ordered = in_order(samples)
    for label, group in ordered.by_label().items():
        if grouped:
            kept.append(_whole_groups(ordered, group, share, seed))
            continue
        kept.append(_shuffled(group, label, seed)[: max(2, round(share * len(group)))])
    return _part(ordered, kept)


def _whole_groups(ordered: SampleColumns, indices: Indices, share: float, seed: int) -> Indices:
    """About a share of the samples of one class, in whole groups, and at least two samples if there are two."""
    found: dict[str, list[int]] = defaultdict(list)
    for index in indices.tolist():
        found[key_of(ordered[index])].append(index)
    names = sorted(found)
    kept: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(names)):
        some = found[names[number]]
        # nearest to the share; the test is of the number so far alone, so that a smaller share keeps a part of these
        if len(kept) >= 2 and len(kept) + len(some) / 2 > share * len(indices):
            break
        kept += some
    return np.array(kept, np.int64)


def balanced_order(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """A random order in which classes alternate.

    At any position, no class is more than one sample ahead of a class that still has samples left.
    """
    generator = np.random.default_rng(seed)
    taken: dict[str, int] = {}
    keyed = []
    for index in generator.permutation(len(samples)):
        label = samples[int(index)].label
        taken[label] = taken.get(label, 0) + 1
        keyed.append((taken[label], float(generator.random()), int(index)))
    return [samples[index] for _, _, index in sorted(keyed)]
