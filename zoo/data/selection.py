"""Selection: the images that an experiment uses, out of those that its data hold.

Images of `--exclude` are left out, and with `--on-leak drop` those that leak from the training images into others.
Everything that opens the data of an experiment goes through `select_images`, so that all see the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo.data.alignment import Thumbnails
from zoo.data.decoding import decode_all, default_workers
from zoo.data.exclusion import exclude, read_exclusion, without
from zoo.data.image import BadImage, Pixels
from zoo.data.leakage import Leak, digests, find_leaks, near_leaks
from zoo.data.near_duplicates import find_near_duplicates, thumbnail, whole_square
from zoo.data.opening import open_images
from zoo.dataset import Images, Sample
from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.plugin import Plugins

OPTION = "--on-leak drop"
SHOWN = 5  # ids in a note
THUMBNAIL_SOURCE = 256  # least side in pixels that an image is decoded to for its thumbnail
ORDER = ("train", "val", "test")  # an image that leaks is dropped from the first of its splits


@dataclass(frozen=True, kw_only=True)
class SeenBefore:
    """Images that a run must not be scored on, since runs which it comes from were fitted on them.

    Attributes:
        sha256: Of their contents.
        runs: These runs, as messages name them.
    """

    sha256: frozenset[str] = field(repr=False)
    runs: str

    def note(self, dropped: Collection[str]) -> str:
        """What is said of those with these ids, which are left out."""
        what = counted(len(dropped), "image is", "images are")
        return f"`{OPTION}`: {what} not scored, since {self.runs} was trained on them{_listed(dropped)}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What an experiment uses of its data.

    Attributes:
        images: The data without what is left out; their notes say what it is.
        exclusion: JSON values about `--exclude` for `run.json`. None: it was not given.
        listed: The bytes of the list of `--exclude`, which a run keeps. None: it was not given.
        dropped: Ids that `--on-leak drop` left out.
        near: Near duplicates in two splits, or under two labels, if they were asked for. Those dropped are not among
            them.
    """

    images: Images
    exclusion: dict[str, Any] | None = None
    listed: bytes | None = None
    dropped: tuple[str, ...] = ()
    near: tuple[Leak, ...] = ()


def select_images(
    experiment: Experiment,
    plugins: Plugins,
    *,
    look: bool = True,
    seen: SeenBefore | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Selection:
    """Open an experiment's data, and leave out what it asks to leave out.

    Args:
        experiment: The settings `data`, `split_seed`, `exclude`, `on_leak`, `leak_check` and `workers` count.
        plugins: Loaded plugins.
        look: Whether near duplicates are searched for, if the experiment asks for that, where this changes no image.
        seen: Images that `--on-leak drop` leaves out of all splits but `train`.
        advance: Receives the number of images as they are decoded in the search for near duplicates.

    Raises:
        UsageError, ZooError: as `open_images` and `read_exclusion`; or a class has no image left.
    """
    images = open_images(experiment.data, experiment.split_seed, plugins, group=experiment.group)
    recorded, listed = None, None
    if experiment.exclude is not None:
        exclusion = read_exclusion(experiment.exclude)
        images, excluded = exclude(images, exclusion)
        recorded, listed = exclusion.to_json(excluded), exclusion.data
    drop = experiment.on_leak == "drop"
    dropped: set[str] = set()
    dropped_as_seen: set[str] = set()
    if drop:
        parts = {role: list(digests(samples)) for role, samples in images.splits.items()}
        dropped = _copies(parts)
        images = without(images, dropped, OPTION)
        if seen is not None:
            held = (pair for role, part in parts.items() if role != "train" for pair in part)
            known = {sample.id for sample, digest in held if digest in seen.sha256} - dropped
            images = without(images, known, OPTION)
            images = replace(images, notes=(*images.notes, seen.note(known)))
            dropped_as_seen = known
    near: list[Leak] = []
    if experiment.leak_check == "near" and (look or drop):
        workers = experiment.workers or default_workers()
        near = [leak for leak in near_duplicate_leaks(images.splits, workers, advance) if is_leak(leak)]
        if drop:
            more = {name for leak in near for name in _first_split(leak)}
            images = without(images, more, OPTION)
            dropped |= more
            near = [leak for leak in near if not any(sample.id in dropped for _, sample in leak.images)]
    if drop:
        what = counted(len(dropped), "image is", "images are")
        text = f"`{OPTION}`: {what} left out of the data, since they occur in it again{_listed(dropped)}"
        images = replace(images, notes=(*images.notes, text))
        dropped |= dropped_as_seen
    return Selection(images=images, exclusion=recorded, listed=listed, dropped=tuple(sorted(dropped)), near=tuple(near))


def _listed(ids: Collection[str]) -> str:
    """The first of some ids, behind a colon; empty where there are none."""
    return (
        f": {' '.join(f'`{name}`' for name in sorted(ids)[:SHOWN])}{' ...' if len(ids) > SHOWN else ''}" if ids else ""
    )


def _copies(parts: dict[Any, list[tuple[Sample, str]]]) -> set[str]:
    """Ids to drop: of contents in several splits those in the first; and all but one of a training image's copies.

    Training images of one content and two labels are all dropped, since nothing says which label is right.
    """
    dropped = {sample.id for leak in find_leaks(parts) for _, sample in _leaking(leak)}
    seen: set[tuple[str, str]] = set()
    for sample, digest in parts.get("train", ()):
        if (digest, sample.label) in seen:
            dropped.add(sample.id)
        seen.add((digest, sample.label))
    return dropped


def _leaking(leak: Leak) -> list[tuple[str, Sample]]:
    """The occurrences that are dropped: in all splits but the last, and in `train` if there are two labels."""
    roles = [role for role in ORDER if role in leak.roles]
    gone = set(roles[:-1]) | ({"train"} if len(leak.labels) > 1 else set())
    return [(role, sample) for role, sample in leak.images if role in gone]


def _first_split(leak: Leak) -> list[str]:
    """Ids of near duplicates that are dropped: those in all splits but the last."""
    roles = [role for role in ORDER if role in leak.roles]
    return [sample.id for role, sample in leak.images if role in roles[:-1]]


def is_leak(leak: Leak) -> bool:
    """Whether near duplicates lie in two splits, or have two labels; those of one split and label are no leak."""
    return len(leak.roles) > 1 or len(leak.labels) > 1


def near_duplicate_leaks(
    parts: Mapping[Any, Sequence[Sample]], workers: int, advance: Callable[[int], None] = lambda count: None
) -> list[Leak]:
    """Every pair of near duplicates whose contents differ, the most certain first; `parts` are splits or folds."""
    placed: list[tuple[str, Sample]] = []
    seen: set[str] = set()
    for role, samples in parts.items():
        for sample, digest in digests(samples):
            if digest not in seen:  # exact copies are found by their digests
                seen.add(digest)
                placed.append((role, sample))
    grey, clipped, kept = [], [], []
    decoded = decode_all((sample for _, sample in placed), workers, _small, THUMBNAIL_SOURCE)
    for index, (_, found) in enumerate(decoded):
        advance(1)
        if isinstance(found, BadImage):
            continue
        grey.append(found[:, :, 0])
        clipped.append(found[:, :, 1] > 0)
        kept.append(placed[index])
    if len(kept) < 2:
        return []
    number_of = {role: number for number, role in enumerate(parts)}
    numbers = np.array([number_of[role] for role, _ in kept])
    found_pairs = find_near_duplicates(Thumbnails(np.stack(grey), np.stack(clipped)), numbers)
    return near_leaks(found_pairs, kept)


def _small(image: Pixels) -> Pixels:
    """The thumbnail of an image and where it is overexposed, as two channels."""
    grey, clipped = thumbnail(whole_square(image))
    return np.stack([grey, clipped.astype(np.uint8)], 2)


def excluded_of(record: Mapping[str, Any]) -> set[str]:
    """Ids that a run left out of its data, from its `run.json`."""
    return {*(record.get("exclude") or {}).get("images", ()), *record.get("dropped", ())}
