"""The doctor's files: `doctor.csv`, `doctor.html` and `doctor.json` in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.doctor.contact_sheet import contact_sheet
from zoo.doctor.examination import Examination, examine
from zoo.doctor.findings import findings_csv
from zoo.errors import UsageError, ZooError
from zoo.runs.run_folder import make_folder
from zoo.storage.files import write_bytes, write_json
from zoo.storage.paths import output_path

CSV, HTML, JSON = "doctor.csv", "doctor.html", "doctor.json"


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What the doctor found, and its files."""

    examination: Examination
    csv: Path
    html: Path
    json: Path


def doctor(
    data: str, *, out: Path | str | None = None, force: bool = False, photographs: bool = True, **settings: Any
) -> DoctorReport:
    """Examine data, and write what was found; nothing of the data is changed.

    Args:
        data: A folder, or `NAME:ARGUMENT` of a dataset.
        out: Folder of the files. None: a new one below `runs`.
        force: Replace files of an earlier examination in it, also an edited `doctor.csv`.
        photographs: Draw small pictures of the images. False: only their names.
        settings: Of `zoo.doctor.examination.examine`.

    Raises:
        UsageError: a name is wrong, or the folder holds an examination and `force` is not set.
        ZooError: the data hold no images, weights are not available, or the folder cannot be written.
    """
    folder = output_path(out) if out is not None else _default_folder()
    check_output(folder, force)
    found, seen = examine(data, **settings)
    page = contact_sheet(found, seen, photographs=photographs)
    make_folder(folder)
    report = DoctorReport(examination=found, csv=folder / CSV, html=folder / HTML, json=folder / JSON)
    write_bytes(report.html, page.encode())
    write_json(report.json, found.to_json())
    write_bytes(report.csv, findings_csv(found.findings).encode())
    return report


def check_output(folder: Path, force: bool, names: Sequence[str] = (CSV, HTML, JSON)) -> None:
    """Check before the work is done that the files can be written.

    Raises:
        UsageError: one of them exists and `force` is not set, or the folder is a file.
        ZooError: the folder cannot be written.
    """
    if str(folder) == "":
        raise UsageError("`--out` is empty", hint="pass a folder, or leave it out for one below `runs/`")
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`{folder}` is a file", hint="pass another `--out`")
        there = [name for name in names if (folder / name).exists()]
        if there and not force:
            raise UsageError(
                f"`{folder}` already holds `{there[0]}`, which may have been edited",
                hint="pass another `--out`, or `--force` to replace it",
            )
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise ZooError(f"`{folder}` cannot be used: {(error.strerror or str(error)).lower()}") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ZooError(f"`{nearest}` cannot be written", hint="pass another `--out`")


def _default_folder() -> Path:
    first = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-doctor"
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())
