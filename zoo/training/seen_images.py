"""Seen images: images of a run that its parent (`--from`) was fitted on. What is scored must not be among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.data.decoding import DecodedImages
from zoo.errors import ZooError, counted
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.runs.parent import Parent, seen_by

_NAMES = {"reported": "reported on", "choose": "validated on"}


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


def images_seen(parent: Parent, decoded: Mapping[str, DecodedImages]) -> Seen:
    """Compare the contents of a run's images, by role, with those that its parent was fitted on."""
    fitted, unknown = seen_by(parent)
    held = {role: part for role, part in decoded.items() if role != "fit"}
    try:
        before = sorted(parent.run.contents().get("fit", {}).values())
    except ZooError:  # told by `unknown`
        before = []
    return Seen(
        parent=parent,
        counts={role: sum(content in fitted for content in part.contents) for role, part in held.items()},
        images={role: len(part.samples) for role, part in held.items()},
        unknown=unknown,
        same=before == sorted(decoded["fit"].contents),
    )


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
    found = [
        f"{counted(count, 'image', 'images')} of {seen.images[role]:,} that this run is {_NAMES.get(role, role)}"
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
