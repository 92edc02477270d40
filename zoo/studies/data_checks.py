"""Data checks: what a study says of its images before it trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.data.folds import pool
from zoo.data.groups import SharedGroup, group_numbers, shared_groups, told_groups
from zoo.data.leakage import Leak, digests, find_leaks, told
from zoo.dataset import Images
from zoo.errors import ZooError, counted
from zoo.evaluation.power import too_few
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.run import FOLDS
from zoo.training.acceptance import accept, accept_folds, check_leaks, leaks_of_folds
from zoo.training.seen_images import origins_of


@dataclass(frozen=True, kw_only=True)
class StudyImages:
    """The images of a study.

    Attributes:
        images: Without what is left out.
        leaks: Those that are in two splits or, of folds, in two folds; or that have two labels.
        shared: Groups in two splits or folds.
        listed: The bytes of the list of `--exclude`, which the study keeps. None: it was not given.
    """

    images: Images
    leaks: Sequence[Leak]
    shared: Sequence[SharedGroup]
    listed: bytes | None = None


def why_too_few(images: Images, first: Experiment) -> str | None:
    """Why the images that configurations are compared on are too few to choose a winner by; None: they are not."""
    split = FOLDS if first.folds is not None else images.reported
    compared = pool(images) if first.folds is not None else images.splits[images.reported]
    groups = group_numbers(compared)
    return too_few(split, len(compared), None if groups is None else len(set(groups)))


def open_for_study(first: Experiment, plugins: Plugins) -> StudyImages:
    """Open the images of a study, whose first trial is `first`, and look for leaks.

    Raises:
        UsageError, ZooError: the trials would be refused.
    """
    if first.folds is not None:
        division = accept_folds(first, plugins)
        leaks, shared = leaks_of_folds(division, first)
        return StudyImages(images=division.images, leaks=leaks, shared=shared, listed=division.listed)
    selection = accept(first, plugins).selection
    splits = selection.images.splits
    found = find_leaks({role: digests(samples) for role, samples in splits.items()})
    return StudyImages(
        images=selection.images,
        leaks=[*found, *selection.near],
        shared=shared_groups(splits),
        listed=selection.listed,
    )


def check_no_leaks(found: StudyImages, first: Experiment, progress: Progress) -> None:
    """Check that no image is in two splits or folds, or has two labels; if none is locked, only warn.

    Raises:
        ZooError: an image of the locked split is in another split; or any of this, with `--on-leak fail`.
    """
    locked = [leak for leak in found.leaks if "test" in leak.roles and len(leak.roles) > 1]
    if locked:
        instead = "or leave them out with `--exclude`" if first.folds is not None else "or pass `--on-leak drop`"
        raise ZooError(
            f"the locked split `test` overlaps another: {told(locked)}", hint=f"delete all but one of each, {instead}"
        )
    check_leaks(found.images.name, found.leaks, found.shared, first)
    if found.leaks:
        progress.warn(told(found.leaks))
    if found.shared:
        progress.warn(told_groups(found.shared))


def check_teachers(images: Images, experiments: Sequence[Experiment]) -> None:
    """Check that no teacher of a study's configurations was trained on what the study holds out.

    With `--on-leak warn`, each trial says so. With `drop`, configurations would be scored on different images.

    Raises:
        ZooError: one was, with `--on-leak drop` or `fail`.
    """
    first = experiments[0]
    origins = {str(one.run.path): one for asked in experiments for one in origins_of(asked)}
    if first.on_leak == "warn" or not origins:
        return
    parts = images.splits if first.folds is None else {"reported": pool(images)}
    held = {digest for role, part in parts.items() if role != "train" for digest in digests(part).contents}
    for one in origins.values():
        if count := len(held & one.fitted):
            raise ZooError(
                f"`{images.name}`: {one.whose} `{one.run.path}` was trained on {counted(count, 'image')} that this "
                "study holds out, and all configurations must be scored on the same images",
                hint="leave them out of all by `--exclude`, or pass `--on-leak warn`",
            )
