"""Resume checks: a run is resumed only with the versions, device, data and starting weights that it began with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zoo.errors import ZooError
from zoo.progress import Progress
from zoo.runs.run import SPLITS_FILE, Run
from zoo.storage.files import write_json
from zoo.system.device import choose_device
from zoo.system.environment import versions
from zoo.training.manifest import splits_manifest
from zoo.training.preparation import Job
from zoo.training.setup import Setup


def with_recorded_precision(run: Run, setup: Setup, device: str | None) -> Setup:
    """The setup with the precision that `auto` chose when the run began, on the same CPU.

    On a CPU it is chosen by a measurement, which another version of zoo or an empty cache makes anew.
    """
    recorded = run.record["device"]["precision"]
    if run.experiment.precision != "auto" or device is not None or setup.device.place.type != "cpu":
        return setup
    return replace(setup, device=choose_device(run.experiment.device, recorded))


def check_session(run: Run, setup: Setup, force: bool, progress: Progress) -> None:
    """Check that versions, device and precision are those of the run; with `force`, only warn where they differ.

    Raises:
        ZooError: they differ, and `force` is not set.
    """
    device = run.record["device"]
    was = {**run.record["versions"], "device": device["name"], "precision": device["precision"]}
    here = {**versions(), "device": str(setup.device.place), "precision": setup.device.precision}
    for name in ("augment", "loss", "optimizer", "schedule"):
        if name in run.record:
            was[name], here[name] = _told(run.record[name]), _told(getattr(setup, name).to_json())
    differ = [
        f"{name} is {here.get(name, 'missing')}, was {was.get(name, 'missing')}"
        for name in sorted(was.keys() | here.keys())
        if was.get(name) != here.get(name)
    ]
    if not differ:
        return
    if not force:
        raise ZooError(
            f"run `{run.path}` cannot be resumed exactly: {'; '.join(differ)}",
            hint="restore what it began with, or pass `--force` to resume anyway: the weights will then differ a "
            "little from those of an uninterrupted run",
        )
    progress.warn(f"resuming although {'; '.join(differ)}: the weights will differ from those of an uninterrupted run")


def _told(choice: dict[str, Any]) -> str:
    """An augmentation, a loss, an optimizer or a schedule, as `run.json` has it, with the version of its plugin."""
    options = "".join(f",{key}={value}" for key, value in choice["options"].items())
    return f"`{choice['name']}{options}`" + (f" of {choice['distribution']}" if choice["distribution"] else "")


def check_data(run: Run, job: Job) -> None:
    """Check that classes and images are those of the run, role by role and byte by byte.

    Raises:
        ZooError: they differ; the message names what was added, removed or changed.
    """
    hint = "restore the original photographs, or start a new run on these with `zoo train`"
    tables = run.record.get("data_files", {})
    changed = [file for file, digest in job.images.files.items() if tables.get(file, digest) != digest]
    if changed:
        hint = f"`{changed[0]}` has changed since the run began: restore it, or start a new run with `zoo train`"
        job.context.progress.warn(f"`{changed[0]}` has changed since the run began")
    before, now = run.classes, job.images.classes
    if before != now:
        added, missing = sorted(set(now) - set(before)), sorted(set(before) - set(now))
        words = [f"`{names[0]}` is {word}" for word, names in (("new", added), ("missing", missing)) if names]
        raise ZooError(
            f"the data have {len(now)} classes, the run began with {len(before)}: "
            f"{', '.join(words) or 'their order differs'}",
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
            f"the photographs are not those of the run, and which ones differ is unknown: {error.message}", hint=hint
        ) from error
    for name, part in job.decoded.items():
        was = dict(zip(kept["roles"].get(name, ()), kept.get("sha256", {}).get(name, ())))
        here = dict(zip((sample.id for sample in part.samples), part.contents))
        for word, found in (
            ("changed", sorted(image for image in was if image in here and was[image] != here[image])),
            ("missing, or cannot be decoded", sorted(was.keys() - here.keys())),
            ("new", sorted(here.keys() - was.keys())),
        ):
            if found:
                count = f", and {len(found) - 1} more" if len(found) > 1 else ""
                raise ZooError(f"the photographs are not those of the run: `{found[0]}` is {word}{count}", hint=hint)
    raise ZooError("the photographs are not those of the run: their labels or their order differ", hint=hint)


def restore_splits(run: Run, job: Job) -> None:
    """Write `splits.json` again where it is missing or damaged; `check_data` has shown that the data are the same."""
    file, wanted = run.path / SPLITS_FILE, splits_manifest(job)
    try:
        if run.splits() == wanted:
            return
        why = f"`{file}` does not list the run's photographs"
    except ZooError as error:
        why = error.message
    write_json(file, wanted)
    job.context.progress.note(f"{why}; it is written again, since the photographs are those of the run")


def check_start(run: Run, job: Job, force: bool) -> None:
    """Check that the network starts from the same weights as the run did; `force` skips the check.

    Raises:
        ZooError: it does not, and `force` is not set.
    """
    if run.record.get("start_sha256") != job.start_digest and not force:
        raise ZooError(
            f"`{job.setup.backbone.qualified}` starts from other weights than the run did",
            hint="restore the file of weights or the plugin, or start a new run with `zoo train`",
        )
