"""Parts: the finished runs that a soup or an ensemble is made of, and the images that none of them was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo.config.arguments import as_list
from zoo.data.decoding import decode_all, default_workers
from zoo.data.image import pixels
from zoo.data.leakage import digests
from zoo.dataset import Sample
from zoo.errors import UsageError, ZooError, counted
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.progress import Progress
from zoo.runs.lineage import fitted_by
from zoo.runs.run import Run
from zoo.runs.source_run import SourceRun, check_is_source, open_source

FEWEST = 2  # runs
CARVED = "carved from train"  # what `chosen_on` of a record says where no split is there for validation


def open_parts(runs: Sequence[Run | Path | str], kind: str) -> list[SourceRun]:
    """Open the runs that a `soup` or an `ensemble` is made of, in the given order, and check their weights.

    Raises:
        UsageError: there are fewer than two; two are the same, or have the same weights; or one is not a trained run.
        ZooError: one is not finished, or is several networks; its weights are missing, or not those that it ended with.
    """
    opened = [Run.open(run) for run in as_list(runs, Run)]
    if len(opened) < FEWEST:
        raise UsageError(f"{counted(len(opened), 'run')} cannot be combined", hint=f"pass two runs or more to a {kind}")
    parts: list[SourceRun] = []
    for run in opened:
        if any(run.path.resolve() == part.run.path.resolve() for part in parts):
            raise UsageError(f"run `{run.path}` is given twice", hint="pass each run once")
        part = _open_part(run, kind)
        same = [other for other in parts if other.sha256 == part.sha256]
        if same:
            raise UsageError(
                f"runs `{same[0].run.path}` and `{run.path}` have the same weights, so they are one network",
                hint="pass only one of the two; runs of other seeds or settings differ",
            )
        parts.append(part)
    return parts


def _open_part(run: Run, kind: str) -> SourceRun:
    check_is_source(run)
    if isinstance(run.record.get("ensemble"), dict):
        raise UsageError(
            f"run `{run.path}` is an ensemble, which cannot be a part of another {kind}",
            hint="pass its members, which `run.json` names under `ensemble`",
        )
    if run.is_final:
        raise UsageError(
            f"run `{run.path}` is a final run, which was trained on all images, so none is left to score a {kind} on",
            hint=f"pass the run that it is of, `{run.record['final']['run']}`",
        )
    return open_source(run)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The images that parts are judged on, and those that all of them report.

    Attributes:
        samples: Images that decide which parts are taken; no part was trained on any.
        reported: Images of the reported split.
        split: Name of the reported split.
        validated: Whether all parts were validated on the deciding images. Else these are the reported ones, for want
            of others.
        chosen_on: Where the deciding images come from: the reported split, or `carved from train`.
        fit: Images that the first part was trained on.
    """

    samples: Sequence[Sample]
    reported: Sequence[Sample]
    split: str
    validated: bool
    chosen_on: str
    fit: Sequence[Sample]

    @property
    def chosen_among(self) -> str:
        """The deciding images in words: `36 images held out of train`."""
        return chosen_among(len(self.samples), self.chosen_on)


def chosen_among(count: int, chosen_on: str) -> str:
    """The deciding images in words, from what a record says of them: `36 images held out of train`."""
    images = counted(count, "image")
    return f"{images} held out of train" if chosen_on == CARVED else f"{images} of {chosen_on}"


def find_held_out(parts: Sequence[SourceRun], data: str | None, plugins: Plugins, progress: Progress) -> HeldOut:
    """Find the images that decide and those that are reported, among the data of the parts.

    Those that decide are the ones on which every part was validated, if there are any and they are the same for all;
    else the reported ones.

    Args:
        parts: The parts.
        data: The data, if they were moved. None: the path that the first run records.
        plugins: Loaded plugins.
        progress: Receives warnings.

    Raises:
        UsageError: the parts report other images, or one of them, or of the runs that they come from, was trained on
            images that are held out.
        ZooError: images are missing, or have changed since.
    """
    from zoo.data.division import undivided
    from zoo.data.opening import choose_split, open_to_score, read_as, spelt_as

    first = parts[0].run
    contents = [_contents(part.run) for part in parts]
    split = str(first.record["reported_split"])
    reported = _reported(contents[0])
    for part, found in zip(parts[1:], contents[1:]):
        if str(part.run.record["reported_split"]) != split or sorted(_reported(found).values()) != sorted(
            reported.values()
        ):
            raise UsageError(
                f"runs `{first.path}` and `{part.run.path}` report their figures on other images",
                hint="combine runs that share data, split and `--split-seed`",
            )
    choose = contents[0].get("choose", {})
    shared = bool(choose) and all(
        sorted(found.get("choose", {}).values()) == sorted(choose.values()) for found in contents
    )
    deciding = choose if shared else reported
    held = {*deciding.values(), *reported.values()}
    for part in parts:
        _check_not_seen(part.run, held, progress)
    own = first.experiment.data
    where = undivided(read_as(own, data or own, plugins))
    images = open_to_score(where, first.experiment.split_seed, plugins, of_run=data is None)
    ids = {**reported, **deciding, **contents[0].get("fit", {})}
    images = spelt_as(images, list(ids), first.classes)
    known = {sample.id: sample for sample in choose_split(images, "all")[1] if sample.id in ids}
    return HeldOut(
        samples=_unchanged(known, deciding),
        reported=_unchanged(known, reported),
        split=split,
        validated=shared,
        chosen_on=CARVED if shared and first.record.get("chosen_on") == CARVED else split,
        fit=[known[name] for name in contents[0].get("fit", {}) if name in known],
    )


def _check_not_seen(run: Run, held: Set[str], progress: Progress) -> None:
    """Check that neither a part nor a run that it comes from was trained on what is held out; `held` are SHA-256.

    Raises:
        UsageError: one was.
    """
    for path, fitted in fitted_by(run):
        if fitted is None:
            progress.warn(
                f"which images run `{path}`, which `{run.path}` comes from, was trained on is unknown, so some of them "
                "may be scored now"
            )
        elif count := len(fitted & held):
            own = path == str(run.path)
            whose = "" if own else f", which `{run.path}` goes on from or was taught by,"
            raise UsageError(
                f"run `{path}`{whose} was trained on {counted(count, 'image')} that "
                f"{'another run holds' if own else 'the runs hold'} out",
                hint="combine runs that share data, split and `--split-seed`"
                if own
                else "train the runs with `--on-leak drop`, which leaves such images out of what is scored",
            )


def _contents(run: Run) -> dict[str, dict[str, str]]:
    found = run.contents()
    if not found:
        raise ZooError(
            f"run `{run.path}` has no `splits.json`, so it is unknown which images it was trained on",
            hint="restore it from a copy, or train the run again",
        )
    return found


def _reported(contents: dict[str, dict[str, str]]) -> dict[str, str]:
    return contents.get("reported") or contents.get("choose") or {}


def _unchanged(known: dict[str, Sample], wanted: dict[str, str]) -> list[Sample]:
    """The samples with the names and the contents that a run recorded."""
    hint = "pass the runs' own photographs by `--data`, or train again"
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ZooError(f"`{missing[0]}` is not among the photographs ({len(missing)} are missing)", hint=hint)
    found = [known[name] for name in wanted]
    same = {sample.id for sample, digest in digests(found) if wanted[sample.id] == digest}
    changed = [name for name in wanted if name not in same]
    if changed:
        raise ZooError(f"`{changed[0]}` has changed since the runs were scored on it", hint=hint)
    return found


def crops(samples: Sequence[Sample], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """The images as the network is given them, apart from normalising: `(N, h, w, 3)` uint8.

    Raises:
        ZooError: one cannot be decoded.
    """
    return np.stack(list(_crops(samples, preprocess)))


def _crops(samples: Sequence[Sample], preprocess: Preprocess) -> Iterator[npt.NDArray[np.uint8]]:
    for sample, result in decode_all(samples, default_workers(), levels=preprocess.levels):
        if not isinstance(result, np.ndarray):
            raise ZooError(f"`{sample.id}` cannot be decoded any more", hint="restore it from a copy")
        yield pixels(result, preprocess)
