"""Seen images: images of a run that its parent (`--from`) was fitted on. What is scored must not be among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.data.decode_plan import decode_requests
from zoo.data.decoding import CHECKED
from zoo.data.leakage import digests
from zoo.errors import ZooError, counted
from zoo.experiment import Experiment
from zoo.feature_cache.earlier_rows import EarlierImages
from zoo.preprocess import Preprocess
from zoo.progress import Progress, Silent
from zoo.runs.parent import Parent, seen_by
from zoo.training.acceptance import Accepted


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Images of a run that its parent, or a run before that, was fitted on.

    Attributes:
        counts: Their number by role, of the images that are not trained on.
        images: Number of images of each of these roles.
        unknown: Runs of which it is not known what they were fitted on.
        same: Whether the run is fitted on the same images as its parent, and on no others.
    """

    parent: Parent
    counts: Mapping[str, int]
    images: Mapping[str, int]
    unknown: tuple[str, ...]
    same: bool

    def to_json(self) -> dict[str, Any]:
        """JSON values for `run.json`."""
        return {"trained_on": dict(self.counts)}


def images_seen(parent: Parent, contents: Mapping[str, Sequence[str]]) -> Seen:
    """Compare the SHA-256 of a run's images, by role, with those of the images that its parent was fitted on."""
    fitted, unknown = seen_by(parent.run)
    held = {role: part for role, part in contents.items() if role != "fit"}
    try:
        before = sorted(parent.run.contents().get("fit", {}).values())
    except ZooError:  # told by `unknown`
        before = []
    return Seen(
        parent=parent,
        counts={role: sum(content in fitted for content in part) for role, part in held.items()},
        images={role: len(part) for role, part in held.items()},
        unknown=unknown,
        same=before == sorted(contents["fit"]),
    )


def images_of(parent: Parent) -> tuple[EarlierImages, ...]:
    """The images that a parent used, by role; none where it has no intact `splits.json`."""
    try:
        known = parent.run.contents()
    except ZooError:  # told by `Seen.unknown`
        return ()
    return tuple(EarlierImages(names=tuple(part), contents=tuple(part.values())) for part in known.values())


def check_seen(seen: Seen, name: str, experiment: Experiment, progress: Progress) -> None:
    """Say which images that a run is scored by its parent was fitted on.

    Raises:
        ZooError: there are any, in the data `name`, and the experiment has `--on-leak fail`.
    """
    run = seen.parent.run.path
    if seen.same:
        progress.note(f"the training images are those of run `{run}`, so it is trained further on the same")
    for path in seen.unknown:
        progress.warn(f"which images run `{path}` was trained on is unknown, so some of them may be scored now")
    also = "reported" in seen.images  # else the images that are validated on are those that are reported
    found = [
        f"{counted(count, 'image')} of {seen.images[role]:,} that this run is "
        f"{'validated' if role == 'choose' and also else 'reported'} on"
        for role, count in seen.counts.items()
        if count
    ]
    if not found:
        return
    text = f"run `{run}` was trained on {' and '.join(found)}, so figures are too optimistic"
    hint = "keep images in the split that they had: in folders `train`, `val` and `test`, or by `--splits`"
    if experiment.on_leak == "fail":
        raise ZooError(f"`{name}`: {text}", hint=f"{hint}; or pass `--on-leak warn`")
    progress.warn(f"{text}; {hint}")


def check_seen_files(parent: Parent, accepted: Accepted, experiment: Experiment, preprocess: Preprocess) -> None:
    """Check, from the files alone, what `check_seen` will when a run has decoded its images; nothing is said.

    Raises:
        ZooError: as `check_seen`.
    """
    images = accepted.selection.images
    requests = decode_requests(images, accepted.roles, preprocess)
    contents = {role: digests(part.samples).contents for role, part in requests.items() if role != CHECKED}
    check_seen(images_seen(parent, contents), images.name, experiment, Silent())
