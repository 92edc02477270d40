"""Settings in which runs differ, as `compare`, `diff` and `rerun` tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.experiment import Experiment
from zoo.preprocess import pixels_text
from zoo.runs.run import Run


def settings_of(run: Run) -> dict[str, Any]:
    """Every setting of a run by its name in `Experiment`; names of plugins' rows are those that they resolved to."""
    found = run.experiment.to_json()
    for name in ("backbone", "strategy"):
        found[name] = run.record.get(name, found[name])
    for name in ("augment", "loss"):
        choice = run.record.get(name)
        if isinstance(choice, Mapping):
            options = "".join(f",{key}={value}" for key, value in choice["options"].items())
            found[name] = f"{choice['name']}{options}"
    return found


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs: for each its values, in the order of the runs.

    An augmentation or a loss is the same where name and options are, however they were written.
    """
    return differing([settings_of(run) for run in runs])


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not all equal, with the values of each; tuples and lists are equal."""
    found = {name: [_plain(one.get(name)) for one in settings] for name in Experiment.__dataclass_fields__}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def value_text(name: str, value: Any) -> str:
    """A value as it is typed; a dash where it is not set, and its default holds."""
    if value is None:
        return "-"
    if name == "image_size":
        return pixels_text(value if isinstance(value, int) else (value[0], value[1]))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def differing_versions(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Packages whose versions are not the same in all runs, with the version that each was made with."""
    tables = [run.record.get("versions") or {} for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    found = {name: [str(table.get(name, "-")) for table in tables] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}
