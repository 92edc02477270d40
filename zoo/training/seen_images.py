"""Seen images: images of a run that one which it comes from was fitted on. What is scored must not be among them.

A run comes from its parent (`--from`) and from its teachers (`distill=`), and these from others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.config.references import teachers_of
from zoo.data.decode_plan import decode_requests
from zoo.data.decoding import CHECKED
from zoo.data.leakage import digests
from zoo.data.selection import SeenBefore
from zoo.errors import ZooError, counted
from zoo.experiment import Experiment
from zoo.preprocess import Preprocess
from zoo.progress import Progress, Silent
from zoo.runs.lineage import seen_by
from zoo.runs.run import Run
from zoo.runs.source_run import SourceRun
from zoo.storage.paths import user_path
from zoo.training.acceptance import Accepted, FoldDivision


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """A run that another comes from, and what it has seen.

    Attributes:
        run: The run.
        whose: What messages call it: `run` or `teacher`.
        fitted: SHA-256 of the images that it, or a run before it, was fitted on.
        unknown: Runs among these of which that is not known.
    """

    run: Run
    whose: str
    fitted: frozenset[str] = field(repr=False)
    unknown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SeenImages:
    """Images of a run that one which it comes from was fitted on.

    Attributes:
        origin: The run that it comes from.
        counts: Their number by role, of the images that are not trained on.
        images: Number of images of each of these roles.
    """

    origin: EarlierRun
    counts: Mapping[str, int]
    images: Mapping[str, int]


def origins_of(experiment: Experiment, teachers: Iterable[str] = ()) -> tuple[EarlierRun, ...]:
    """The runs that a run with these settings, and perhaps more teachers, comes from; each once.

    One that cannot be opened is passed over here; training refuses it.
    """
    named = [("run", path) for path in (experiment.from_run,) if path is not None]
    named += [("teacher", path) for path in (*teachers_of(experiment.strategy), *teachers)]
    found: dict[str, EarlierRun] = {}
    for whose, path in named:
        try:
            run = Run.open(user_path(path))
        except ZooError:
            continue
        fitted, unknown = seen_by(run)
        origin = EarlierRun(run=run, whose=whose, fitted=fitted, unknown=unknown)
        found.setdefault(str(run.path.resolve()), origin)
    return tuple(found.values())


def seen_before(origins: Sequence[EarlierRun]) -> SeenBefore | None:
    """What `--on-leak drop` leaves out of the images that are scored. None: the run comes from no other."""
    if not origins:
        return None
    named = " and ".join(f"{one.whose} `{one.run.path}`" for one in origins)
    return SeenBefore(sha256=frozenset().union(*(one.fitted for one in origins)), runs=named)


def images_seen(origins: Sequence[EarlierRun], contents: Mapping[str, Sequence[str]]) -> tuple[SeenImages, ...]:
    """Compare the SHA-256 of a run's images, by role, with those of the images that earlier runs were fitted on."""
    held = {("test" if role == CHECKED else role): part for role, part in contents.items() if role != "fit"}
    return tuple(
        SeenImages(
            origin=one,
            counts={role: sum(content in one.fitted for content in part) for role, part in held.items()},
            images={role: len(part) for role, part in held.items()},
        )
        for one in origins
    )


def seen_to_json(seen: Sequence[SeenImages], source: SourceRun) -> dict[str, Any]:
    """What `run.json` says of the images that a parent or a teacher was fitted on."""
    mine = [one for one in seen if one.origin.run.path.resolve() == source.run.path.resolve()]
    return {"trained_on": dict(mine[0].counts)} if mine else {}


def has_same_training_images(parent: SourceRun, fitted: Sequence[str]) -> bool:
    """Whether a parent was fitted on the images with these SHA-256, and on no others."""
    try:
        before = sorted(parent.run.contents().get("fit", {}).values())
    except ZooError:  # told by `EarlierRun.unknown`
        before = []
    return before == sorted(fitted)


def check_seen(seen: Sequence[SeenImages], name: str, experiment: Experiment, progress: Progress) -> None:
    """Say which images that a run is scored on earlier runs were fitted on.

    Raises:
        ZooError: there are any, in the data `name`, and the experiment has `--on-leak fail`.
    """
    for path in dict.fromkeys(path for one in seen for path in one.origin.unknown):
        progress.warn(f"which images run `{path}` was trained on is unknown, so some of them may be scored now")
    hint = "keep images in the split that they had: in folders `train`, `val` and `test`, or by `--splits`"
    drop = "" if experiment.folds is not None else "`--on-leak drop` or "
    for one in seen:
        also = "reported" in one.images  # else the images that are validated on are those that are reported
        found = [
            f"{counted(count, 'image')} of {one.images[role]:,} "
            + (
                "in the split `test`"
                if role == "test"
                else f"that this run is {'validated' if role == 'choose' and also else 'reported'} on"
            )
            for role, count in one.counts.items()
            if count
        ]
        if not found:
            continue
        text = (
            f"{one.origin.whose} `{one.origin.run.path}` was trained on {' and '.join(found)}, so figures are too "
            "optimistic"
        )
        if experiment.on_leak == "fail":
            raise ZooError(f"`{name}`: {text}", hint=f"{hint}; or pass {drop}`--on-leak warn`")
        progress.warn(f"{text}; {hint}")


def check_seen_files(
    origins: Sequence[EarlierRun], accepted: Accepted, experiment: Experiment, preprocess: Preprocess
) -> None:
    """Check, from the files alone, what `check_seen` will when a run has decoded its images; nothing is said.

    Raises:
        ZooError: as `check_seen`.
    """
    images = accepted.selection.images
    requests = decode_requests(images, accepted.roles, preprocess)
    contents = {role: digests(part.samples).contents for role, part in requests.items()}
    check_seen(images_seen(origins, contents), images.name, experiment, Silent())


def check_seen_folds(division: FoldDivision, experiment: Experiment) -> None:
    """Check, with `--on-leak fail`, that no image of any fold or of `test` was seen before.

    Raises:
        ZooError: as `check_seen`.
    """
    origins = origins_of(experiment) if experiment.on_leak == "fail" else ()
    if origins:
        parts = division.parts
        contents = {
            "reported": [one for name, part in parts.items() if name != "test" for one in digests(part).contents],
            **({"test": digests(parts["test"]).contents} if "test" in parts else {}),
        }
        check_seen(images_seen(origins, contents), division.images.name, experiment, Silent())
