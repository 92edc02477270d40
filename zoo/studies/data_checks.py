"""Data checks: what a study says of its images before it trains on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.data.folds import make_folds, pool
from zoo.data.groups import group_numbers, shared_groups, told_groups
from zoo.data.leakage import Leak, digests, find_leaks, told
from zoo.data.opening import open_images
from zoo.dataset import Images, Sample
from zoo.errors import ZooError
from zoo.evaluation.power import too_few
from zoo.experiment import Experiment, OnLeak
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.run import FOLDS


def why_too_few(images: Images, first: Experiment) -> str | None:
    """Why the images that configurations are compared on are too few to choose a winner by; None: they are not."""
    split = FOLDS if first.folds is not None else images.reported
    compared = pool(images) if first.folds is not None else images.splits[images.reported]
    groups = group_numbers(compared)
    return too_few(split, len(compared), None if groups is None else len(set(groups)))


def separate_parts(images: Images, first: Experiment, plugins: Plugins) -> Mapping[str, Sequence[Sample]]:
    """Images by what must not share any: by split or, of folds, by fold and `test`.

    Raises:
        ZooError: they cannot be divided into folds.
    """
    if first.folds is None:
        return {str(role): samples for role, samples in images.splits.items()}
    # images are left out after the division, as each trial does
    whole = open_images(first.data, first.split_seed, plugins, group=first.group) if first.exclude else images
    kept = {sample.id for sample in pool(images)}
    folds = make_folds(pool(whole), first.folds, first.split_seed)
    parts = {
        f"fold {number}": [sample for sample in fold if sample.id in kept] for number, fold in enumerate(folds, start=1)
    }
    return {**parts, "test": images.splits["test"]} if "test" in images.splits else parts


def check_no_leaks(
    name: str, parts: Mapping[str, Sequence[Sample]], near: Sequence[Leak], on_leak: OnLeak, progress: Progress
) -> None:
    """Check that no image is in two splits or folds, or has two labels; if none is locked, only warn.

    Images of the data `name` are compared by their content; `near` are near duplicates, if they were asked for.

    Raises:
        ZooError: an image of the locked split is in another split; or any of this, with `on_leak` `fail`.
    """
    leaks = [*find_leaks({role: digests(samples) for role, samples in parts.items()}), *near]
    locked = [leak for leak in leaks if "test" in leak.roles and len(leak.roles) > 1]
    if locked:
        raise ZooError(
            f"the locked split `test` overlaps another: {told(locked)}",
            hint="delete all but one of each, or pass `--on-leak drop`",
        )
    if leaks and on_leak == "fail":
        raise ZooError(f"`{name}`: {told(leaks)}", hint="delete all but one of each")
    if leaks:
        progress.warn(told(leaks))
    shared = shared_groups(parts)
    if shared and on_leak == "fail":
        raise ZooError(f"`{name}`: {told_groups(shared)}", hint="move the images of each into one split")
    if shared:
        progress.warn(told_groups(shared))
