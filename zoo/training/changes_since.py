"""Changes since an earlier run whose settings are trained again: settings, versions, weights and images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zoo.data.class_names import keys
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.progress import Progress
from zoo.runs.run import Run
from zoo.runs.setting_differences import differing, value_text

# Settings that decide which images of the data are used
SELECTING = ("fraction", "exclude", "on_leak", "leak_check", "split_seed", "group", "folds", "image_size")


def tell_settings(run: Run, experiment: Experiment, progress: Progress) -> None:
    """Say which settings are not those of the run."""
    found = differing([run.experiment.to_json(), experiment.to_json()])
    parts = [
        f"{name} {value_text(name, now)} (was {value_text(name, before)})" for name, (before, now) in found.items()
    ]
    progress.note(f"as run `{run.path}`, " + (f"but {', '.join(parts)}" if parts else "with no setting changed"))


def tell_circumstances(run: Run, record: Mapping[str, Any], progress: Progress) -> None:
    """Warn where versions, device, threads or weights are not those of the run.

    Args:
        run: The earlier run.
        record: What `run.json` of the new one begins with.
        progress: Receives the warning.
    """
    was, here = _circumstances(run.record), _circumstances(record)
    parts = [
        f"{name} {was.get(name, 'missing')}, here {here.get(name, 'missing')}"
        for name in {**was, **here}
        if was.get(name) != here.get(name)
    ]
    if parts:
        progress.warn(f"run `{run.path}` was made with {'; '.join(parts)}: equal settings may give other results")
    before, now = run.record.get("weights") or {}, record["weights"]
    if before.get("source") == now["source"] and before.get("sha256") != now["sha256"]:
        progress.warn(f"the weights `{now['source']}` are not those that run `{run.path}` started from")


def _circumstances(record: Mapping[str, Any]) -> dict[str, str]:
    device = record.get("device") or {}
    told = {"device": device.get("name"), "precision": device.get("precision"), "threads": device.get("threads")}
    return {
        **{name: str(version) for name, version in (record.get("versions") or {}).items()},
        **{name: str(value) for name, value in told.items() if value is not None},
    }


def tell_data(
    run: Run,
    experiment: Experiment,
    record: Mapping[str, Any],
    contents: Mapping[str, str],
    progress: Progress,
) -> None:
    """Warn where the images are not those of the run; nothing is said if other data are asked for.

    Args:
        run: The earlier run.
        experiment: The settings of the new one.
        record: What `run.json` of the new one holds.
        contents: SHA-256 of each image of the new one, by id.
        progress: Receives the warning.
    """
    if run.experiment.data != experiment.data:
        return
    for text in _data_texts(run, experiment, record, contents):
        progress.warn(text)


def _data_texts(
    run: Run, experiment: Experiment, record: Mapping[str, Any], contents: Mapping[str, str]
) -> Iterable[str]:
    tables = run.record.get("data_files") or {}
    for file, sha256 in (record.get("data_files") or {}).items():
        if tables.get(file, sha256) != sha256:
            yield f"`{file}` has changed since run `{run.path}` was made"
    listed, lists = run.record.get("exclude") or {}, record.get("exclude") or {}
    if listed.get("file") == lists.get("file") and listed.get("sha256") != lists.get("sha256"):
        yield f"the list of `--exclude`, `{lists['file']}`, has changed since run `{run.path}` was made"
    if run.record.get("data") == record["data"]:
        return
    try:
        known = run.contents()
    except ZooError:
        known = {}
    was = {name: sha256 for part in known.values() for name, sha256 in part.items() if sha256}
    was, now = dict(zip(keys(list(was)), was.values())), dict(zip(keys(list(contents)), contents.values()))
    if not was:
        yield f"which images run `{run.path}` was made with is unknown: it has no intact `splits.json`"
        return
    changed = sorted(name for name in was.keys() & now.keys() if was[name] != now[name])
    counts = {"changed": changed}
    if all(getattr(run.experiment, name) == getattr(experiment, name) for name in SELECTING):
        counts |= {"new": sorted(now.keys() - was.keys()), "gone": sorted(was.keys() - now.keys())}
    parts = [f"{len(names):,} {word}, such as `{names[0]}`" for word, names in counts.items() if names]
    if parts:
        yield f"the images are not those of run `{run.path}`: {'; '.join(parts)}"
