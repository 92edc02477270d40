"""Weights of a finished run, compared with the digest that its record has of them."""

from __future__ import annotations

import hashlib

from zoo.errors import ZooError
from zoo.runs.run import WEIGHTS_FILE, Run


def check_finished(run: Run) -> None:
    """Check that a run has ended with weights.

    Raises:
        ZooError: it has not.
    """
    if run.status != "finished":
        raise ZooError(
            f"run `{run.path}` is {run.status}, not finished", hint=f"`zoo train --resume {run.path}` continues it"
        )


def intact_weights(run: Run) -> str:
    """SHA-256 of the weights of a finished run, which are those that it ended with.

    Raises:
        ZooError: its weights are missing, cannot be read, or are others.
    """
    file = run.path / WEIGHTS_FILE
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ZooError(
            f"run `{run.path}` has no weights: `{WEIGHTS_FILE}` is missing", hint="restore it from a copy"
        ) from error
    except OSError as error:
        raise ZooError(f"`{file}` cannot be read: {error.strerror or error}") from error
    if run.record.get("weights_sha256") not in (None, found):
        raise ZooError(
            f"weights `{file}` are not those that the run ended with: the file is damaged or was replaced",
            hint="restore it from a copy, or train the run again with `--force`",
        )
    return found
