"""Source run: a finished run that another is made from, as its parent, its teacher, or a part of a soup or ensemble."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runs.run import WEIGHTS_FILE, Run


@dataclass(frozen=True, kw_only=True)
class SourceRun:
    """A finished run of one network, whose weights are those that it ended with.

    Attributes:
        run: The run.
        sha256: Of its file of weights.
    """

    run: Run = field(repr=False)
    sha256: str

    @property
    def backbone(self) -> str:
        """The qualified name of its backbone."""
        return str(self.run.record["backbone"])

    @property
    def file(self) -> Path:
        """Its file of weights."""
        return self.run.path / WEIGHTS_FILE

    @property
    def temperature(self) -> float:
        """What its logits were divided by, as part of its head."""
        return float((self.run.record.get("temperature") or {}).get("value", 1.0))

    def to_json(self) -> dict[str, Any]:
        """What the record of the other run says of it."""
        return {
            "run": str(self.run.path.resolve()),
            "id": self.run.record.get("id"),
            "weights_sha256": self.sha256,
        }

    def has_weights_of(self, recorded: Mapping[str, Any]) -> bool:
        """Whether its weights are those that another run's record names."""
        return bool(self.sha256 == recorded.get("weights_sha256"))


def check_is_source(run: Run) -> None:
    """Check that a run has ended, and is one network; its weights are not looked at.

    Raises:
        ZooError: it has not, or is several networks.
    """
    if run.status != "finished":
        raise ZooError(
            f"run `{run.path}` is {run.status}, not finished", hint=f"`zoo train --resume {run.path}` continues it"
        )
    run.check_is_network()


def open_source(run: Run) -> SourceRun:
    """A run as a source, with the digest of its weights.

    Raises:
        ZooError: it has not ended, or is several networks; its weights are missing, cannot be read, or are not those
            that it ended with.
    """
    check_is_source(run)
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
    return SourceRun(run=run, sha256=found)
