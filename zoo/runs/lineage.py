"""Lineage: the runs that a run comes from, by its weights or by what taught it, and the images they were fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runs.run import Run


def lineage(run: Run) -> Iterator[tuple[str, Run | None]]:
    """A run and those that it goes on from, is made of or was taught by, from the last to the first, by their paths.

    None stands for a run that is gone. A part of a soup or an ensemble that is gone is passed over: `splits.json` of
    the whole has the images of its parts.
    """
    done: set[Path] = set()
    waiting = [run]
    while waiting:
        run = waiting.pop(0)
        if run.path.resolve() in done:
            continue
        done.add(run.path.resolve())
        yield str(run.path), run
        for before in (run.record.get("from"), *(run.record.get("teachers") or {}).values()):
            if not isinstance(before, dict):
                continue
            found = _still_there(before)
            if found is None:
                yield before["run"], None
            else:
                waiting.append(found)
        for kind, parts in (("soup", "ingredients"), ("ensemble", "members")):
            for part in (run.record.get(kind) or {}).get(parts, ()):
                if part.get("taken", True) and (found := _still_there(part)) is not None:
                    waiting.append(found)


def fitted_by(run: Run) -> Iterator[tuple[str, frozenset[str] | None]]:
    """SHA-256 of the images that each run of a lineage was fitted on; None where that is unknown.

    It is unknown of a run that is gone, or has no intact `splits.json`.
    """
    for path, one in lineage(run):
        try:
            known = one.contents() if one is not None else {}
        except ZooError:
            known = {}
        yield path, frozenset(known.get("fit", {}).values()) if known else None


def seen_by(run: Run) -> tuple[frozenset[str], tuple[str, ...]]:
    """SHA-256 of the images that a run and those before it were fitted on; also the runs of which it is unknown."""
    found: set[str] = set()
    unknown: list[str] = []
    for path, fitted in fitted_by(run):
        if fitted is None:
            unknown.append(path)
        else:
            found |= fitted
    return frozenset(found), tuple(unknown)


def _still_there(recorded: Mapping[str, Any]) -> Run | None:
    """The run that a record names, if its folder still holds it."""
    try:
        run = Run.open(recorded["run"])
    except ZooError:
        return None
    return run if run.record.get("id") == recorded.get("id") else None
