"""Study folder: named, and checked for another study or other files."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

from zoo.errors import UsageError
from zoo.runs.looks import STUDY_FILE
from zoo.storage.files import json_text
from zoo.storage.folder_lock import LOCK_FILE
from zoo.studies.results import Results
from zoo.studies.running import SHARED_SECONDS
from zoo.studies.study import Study, same_study


def default_folder() -> Path:
    """A new folder `runs/<time>-study`."""
    first = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-study"
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())


def check_shared_folder(folder: Path, asked: Study) -> None:
    """`check_folder`, where another session may have begun the same study a moment ago.

    Raises:
        UsageError: it holds something else.
    """
    until = time.monotonic() + SHARED_SECONDS
    while True:
        try:
            return check_folder(folder, asked)
        except UsageError:
            if (folder / STUDY_FILE).is_file() or not (folder / LOCK_FILE).is_file() or time.monotonic() > until:
                raise
            time.sleep(0.2)


def check_folder(folder: Path, asked: Study) -> None:
    """Check that the study may be carried out in a folder: the folder is new or empty, or holds the same study.

    Raises:
        UsageError: it holds something else.
    """
    if (folder / STUDY_FILE).is_file():
        differ = same_study(Results.open(folder).study.to_json(), json.loads(json_text(asked.to_json())))
        if differ:
            raise UsageError(
                f"`{folder}` holds another study, which differs in `{'`, `'.join(differ)}`",
                hint="pass another `--out`, or continue that study with `zoo study FOLDER`",
            )
    elif folder.exists() and (not folder.is_dir() or any(file.name != LOCK_FILE for file in folder.iterdir())):
        raise UsageError(f"`{folder}` exists and is not a study", hint="pass another `--out`")
