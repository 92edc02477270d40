"""Looks: evaluations on the locked split of a study. Images are recognised by their contents, whatever they are called.

A study's folder holds the contents of its locked images (`locked.json`) and a line for each look (`ledger.jsonl`). The
lines that `zoo evaluate` adds have `by`: `evaluate`; those of the study itself have `by`: `study`, or none if they are
older.

The user's cache folder has a line for each look, too (`looks.jsonl`), by which a study finds those in other folders,
and those that were deleted. Without it, a study knows of the studies beside it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runs.run import FOLDS, LEDGER_FILE, Run, now
from zoo.storage.cache import cache_folder
from zoo.storage.files import SCHEMA, append_json, read_json, read_lines, write_json

STUDY_FILE = "study.json"
TRIALS = "trials"
FINALS = "finals"  # of a study of folds: the winners' trials, trained on all images that are not locked
LOCKED_FILE = "locked.json"
LOOKS_FILE = "looks.jsonl"


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
    """The folder of the study whose trial a run is, or a fold or a final run of a trial; None: it is none."""
    path = run.path.resolve()
    if run.is_final and path.parent.name != FINALS:
        path = Path(str(run.record["final"].get("run"))).resolve()
    if path.parent.name == FOLDS:
        path = path.parent.parent
    runs = path.parent
    return runs.parent if runs.name in (TRIALS, FINALS) and (runs.parent / STUDY_FILE).is_file() else None


def write_look(study: Path, line: dict[str, Any]) -> None:
    """Write a line to the ledger of a study, and where possible to the user's cache folder.

    Raises:
        ZooError: the ledger cannot be written.
    """
    append_json(study / LEDGER_FILE, line)
    locked = read_locked(study)
    if not locked:
        return
    with suppress(OSError, ValueError, ZooError):
        folder = cache_folder()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            shown = {"schema": SCHEMA, "time": now(), "study": str(study.resolve()), "locked": _digest(locked)}
            append_json(folder / LOOKS_FILE, shown)


def _digest(locked: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(locked)).encode()).hexdigest()


def _remembered() -> dict[str, list[str]]:
    """What the cache folder knows: by the folder of a study, a digest of the locked images for each of its looks."""
    found: dict[str, list[str]] = {}
    with suppress(OSError, ValueError, ZooError):
        folder = cache_folder()
        for line in read_lines(folder / LOOKS_FILE) if folder is not None else ():
            if isinstance(line.get("study"), str) and isinstance(line.get("locked"), str):
                found.setdefault(line["study"], []).append(line["locked"])
    return found


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
    write_look(study, {**line, "by": "evaluate", "images": images, "accuracy": accuracy})
    return study


def earlier_looks(study: Path) -> dict[str, int]:
    """Looks at the locked images of a study by other studies: by the name of a folder beside it, or else by its path.

    Studies count that share a locked image, and looked at theirs at least once. Studies in other folders are known from
    the user's cache folder; one that was deleted counts where all its locked images were the same.
    """
    locked, mine = read_locked(study), study.resolve()
    if not locked:
        return {}
    beside = [file.parent for file in sorted(mine.parent.glob(f"*/{LOCKED_FILE}")) if file.parent != mine]
    remembered = _remembered()
    elsewhere = [Path(name) for name in remembered if Path(name) not in (mine, *beside)]
    found: dict[str, int] = {}
    for other in (*beside, *elsewhere):
        if (other / LOCKED_FILE).is_file():
            name = other.name if other in beside else str(other)
            looks = len(read_looks(other)) if locked & read_locked(other) else 0
        else:
            name, looks = f"{other} (deleted or moved)", remembered[str(other)].count(_digest(locked))
        if looks:
            found[name] = looks
    before = remembered.get(str(mine), []).count(_digest(locked)) - len(read_looks(mine))
    return {**found, f"{mine} (deleted or moved)": before} if before > 0 else found
