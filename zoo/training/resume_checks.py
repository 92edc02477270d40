"""Resumption: what must be as it was for a run to go on, and what differs where it is not."""

from __future__ import annotations

from typing import Any

from zoo.errors import ZooError
from zoo.progress import Progress
from zoo.runs.run import SPLITS_FILE, Run
from zoo.storage.files import write_json
from zoo.system.environment import versions
from zoo.training.manifest import splits_manifest
from zoo.training.preparation import Job
from zoo.training.setup import Setup


def check_session(run: Run, setup: Setup, force: bool, progress: Progress) -> None:
    """Versions, device and precision are those of the run; with `force`, a warning where they are not.

    Raises:
        ZooError: they differ.
    """
    device = run.record["device"]
    was = {**run.record["versions"], "device": device["name"], "precision": device["precision"]}
    here = {**versions(), "device": str(setup.device.place), "precision": setup.device.precision}
    differ = [
        f"{name} is {here.get(name, 'missing')}, was {was.get(name, 'missing')}"
        for name in sorted(was.keys() | here.keys())
        if was.get(name) != here.get(name)
    ]
    if not differ:
        return
    if not force:
        raise ZooError(
            f"run `{run.path}` cannot go on exactly as it began: {'; '.join(differ)}",
            hint="bring back what it began with, or pass `--force` to go on all the same: the weights will then differ "
            "a little from those of an undisturbed run",
        )
    progress.warn(f"going on although {'; '.join(differ)}: the weights will differ from those of an undisturbed run")


def check_data(run: Run, job: Job) -> None:
    """Classes and images are those that the run began with, role by role and byte by byte.

    Raises:
        ZooError: naming what was added, removed or changed.
    """
    hint = "bring the photographs back as they were, or train anew on these with `zoo train`"
    before, now = run.classes, job.images.classes
    if before != now:
        added, gone = sorted(set(now) - set(before)), sorted(set(before) - set(now))
        words = [f"{word} `{names[0]}`" for word, names in (("new is", added), ("gone is", gone)) if names]
        raise ZooError(
            f"the data have {len(now)} classes, the run began with {len(before)}: "
            f"{', '.join(words) or 'another order'}",
            hint=hint,
        )
    recorded: dict[str, Any] = run.record["data"]
    if {name: part["sha256"] for name, part in recorded.items()} == {
        name: part.digest for name, part in job.decoded.items()
    }:
        return
    try:
        kept = run.splits()
    except ZooError as error:
        raise ZooError(
            f"the photographs are not those of the run; which ones cannot be told: {error.message}", hint=hint
        ) from error
    for name, part in job.decoded.items():
        was = dict(zip(kept["roles"].get(name, ()), kept.get("sha256", {}).get(name, ())))
        here = dict(zip((sample.id for sample in part.samples), part.contents))
        for word, found in (
            ("changed", sorted(image for image in was if image in here and was[image] != here[image])),
            ("gone, or no longer usable", sorted(was.keys() - here.keys())),
            ("new", sorted(here.keys() - was.keys())),
        ):
            if found:
                count = f", and {len(found) - 1} more" if len(found) > 1 else ""
                raise ZooError(f"the photographs are not those of the run: `{found[0]}` is {word}{count}", hint=hint)
    raise ZooError("the photographs are not those of the run: their labels or their order differ", hint=hint)


def restore_splits(run: Run, job: Job) -> None:
    """Make `splits.json` again where it is missing or damaged, from data that `check_data` has proved the same."""
    file, wanted = run.path / SPLITS_FILE, splits_manifest(job)
    try:
        if run.splits() == wanted:
            return
        why = f"`{file}` does not show the run's photographs"
    except ZooError as error:
        why = error.message
    write_json(file, wanted)
    job.context.progress.note(f"{why}; it is made again, since the photographs are those of the run")


def check_start(run: Run, job: Job, force: bool) -> None:
    """The network starts from the weights that the run started from.

    Raises:
        ZooError: it does not.
    """
    if run.record.get("start_sha256") != job.start_digest and not force:
        raise ZooError(
            f"`{job.setup.backbone.qualified}` starts from other weights than the run did",
            hint="bring the file of weights, or the plugin, back as it was; or train anew",
        )
