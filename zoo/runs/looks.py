"""Looks: evaluations on the locked split of a study. Images are recognised by their contents, whatever they are called.

A study's folder holds the contents of its locked images (`locked.json`) and a line for each look (`ledger.jsonl`). The
lines that `zoo evaluate` adds have `by`: `evaluate`; those of the study itself have `by`: `study`, or none if they are
older.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runs.run import LEDGER_FILE, Run, now
from zoo.storage.files import SCHEMA, append_json, read_json, read_lines, write_json

STUDY_FILE = "study.json"
TRIALS = "trials"
LOCKED_FILE = "locked.json"


def write_locked(study: Path, contents: Iterable[str]) -> None:
    """Write the SHA-256 of the contents of a study's locked images."""
    write_json(study / LOCKED_FILE, {"schema": SCHEMA, "sha256": sorted(set(contents))})


def read_locked(study: Path) -> frozenset[str]:
    """The contents of a study's locked images; empty where they are unknown: an older study, or a damaged file."""
    try:
        return frozenset(map(str, read_json(study / LOCKED_FILE)["sha256"]))
    except (ZooError, KeyError, TypeError):
        return frozenset()


def read_looks(study: Path) -> list[dict[str, Any]]:
    """Every look at a study's locked split, in the order of the ledger."""
    return read_lines(study / LEDGER_FILE)


def is_by_study(look: dict[str, Any]) -> bool:
    """Whether the study itself looked, at a winner and at the end."""
    return bool(look.get("by", "study") == "study")


def study_of(run: Run) -> Path | None:
    """The folder of the study whose trial a run is; None: it is none."""
    trials = run.path.resolve().parent
    return trials.parent if trials.name == TRIALS and (trials.parent / STUDY_FILE).is_file() else None


def note_look(run: Run, split: str, contents: Collection[str], accuracy: float | None) -> Path | None:
    """Write a line to the ledger of the study whose trial a run is, if locked images were scored; returns its folder.

    Args:
        run: what was evaluated.
        split: name of the split that was scored.
        contents: SHA-256 of each scored image.
        accuracy: what was seen.

    Raises:
        ZooError: the ledger cannot be written.
    """
    study = study_of(run)
    if study is None:
        return None
    locked = read_locked(study)
    images = sum(one in locked for one in contents)
    if locked and not images:
        return None
    if not locked and split not in ("test", "all"):  # an older study, whose locked images are known by name only
        return None
    line = {
        "schema": SCHEMA,
        "time": now(),
        "split": split,
        "run": run.record.get("id"),
        "name": run.path.resolve().name,
    }
    append_json(study / LEDGER_FILE, {**line, "by": "evaluate", "images": images, "accuracy": accuracy})
    return study


def earlier_looks(study: Path) -> dict[str, int]:
    """Looks at the locked images of a study by the studies beside it, by the name of their folder.

    Studies count that share a locked image, and looked at theirs at least once.
    """
    locked = read_locked(study)
    found: dict[str, int] = {}
    for file in sorted(study.resolve().parent.glob(f"*/{LOCKED_FILE}")) if locked else ():
        other = file.parent
        if other != study.resolve() and locked & read_locked(other) and (looks := len(read_looks(other))):
            found[other.name] = looks
    return found
