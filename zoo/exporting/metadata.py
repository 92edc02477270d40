"""Metadata of an exported file: what it records of its run, beside its classes and preprocessing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.config.references import with_short_teachers
from zoo.errors import UsageError
from zoo.exporting.model_card import card
from zoo.runs.run import Run, now
from zoo.system.environment import versions


def _time_of_export() -> str:
    """The time, or that of `SOURCE_DATE_EPOCH`, with which two exports of a run are equal byte for byte.

    https://reproducible-builds.org/specs/source-date-epoch/

    Raises:
        UsageError: the variable is not a whole number of seconds since 1970.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return now()
    try:
        return datetime.fromtimestamp(int(text), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"`SOURCE_DATE_EPOCH={text}` is not a number of seconds since 1970", hint="set it as `date +%s` prints it"
        ) from error


def file_metadata(run: Run) -> dict[str, Any]:
    """What the file records about itself beside its classes and preprocessing; JSON values."""
    record = run.record
    keys = ("backbone", "strategy", "license", "metrics", "accuracy_interval_95", "reported_split")
    weights = dict(record.get("weights") or {})
    if weights.get("tag") in ("file", "run"):  # without the folders of the machine that made the file
        source = Path(weights["source"])
        weights["source"] = source.name if weights["tag"] == "file" else f"{source.parent.name}/{source.name}"
    return {
        **{key: record.get(key) for key in keys},
        "strategy": with_short_teachers(str(record.get("strategy"))),
        "weights": weights,
        "data_name": Path(str(record.get("data_name"))).name,
        "split_seed": run.experiment.split_seed,
        "data": record.get("data"),
        "weights_sha256": record.get("weights_sha256"),
        "trained": record.get("created"),
        "exported": _time_of_export(),
        "card": card(run),
        "versions": versions(),
    }
