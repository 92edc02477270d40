"""Settings in which runs differ, as `compare`, `diff` and `rerun` tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.experiment import Experiment
from zoo.preprocess import pixels_text
from zoo.runs.run import Run


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs: for each its values, in the order of the runs.

    Names are compared as they were resolved, and an augmentation or a loss with its options, however it was written.
    """
    asked = differing([run.experiment.to_json() for run in runs])
    return {
        name: values
        for name, values in asked.items()
        if len({str(_resolved(run, name, value)) for run, value in zip(runs, values)}) > 1
    }


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not all equal, with the values of each; tuples and lists are equal."""
    found = {name: [_plain(one.get(name)) for one in settings] for name in Experiment.__dataclass_fields__}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _resolved(run: Run, name: str, value: Any) -> Any:
    """What a setting stands for in a run, as its record has it."""
    return run.record.get(name, value) if name in ("backbone", "strategy", "augment", "loss") else value


def value_text(name: str, value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "not set"
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
