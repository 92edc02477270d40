"""Track record: how well advice agreed with the results of the studies that it was given for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.runs.looks import STUDY_FILE
from zoo.storage.files import read_json
from zoo.studies.results import Results

ADVICE_FILE = "advice.json"  # in a study's folder
SHORTLIST = 3  # backbones that advice recommends


def track_record(folder: Path) -> dict[str, Any] | None:
    """How the advice kept in the studies below `folder` agrees with their results; None where there is no such study.

    `tau` is Kendall's rank correlation of the advice's ranks with accuracies. `regret_top_1` is the best accuracy of
    any backbone less that of the advice's first; `regret_top_3` takes the best of the advice's first three. Every
    backbone counts with its best strategy. Figures are given for each study, and as means over studies.
    """
    from scipy.stats import kendalltau

    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob(f"*/{ADVICE_FILE}")) if folder.is_dir() else []:
        try:
            if not (file.parent / STUDY_FILE).is_file():
                continue
            advice, board = read_json(file), Results.open(file.parent).leaderboard
            best: dict[str, float] = {}
            for row in board["rows"]:
                best[row["backbone"]] = max(best.get(row["backbone"], 0.0), row["accuracy"])
            ranked = [name for name in advice["backbones"] if name in best]
        except (ZooError, KeyError, TypeError):
            continue
        if len(ranked) < 2:
            continue
        accuracies = [best[name] for name in ranked]
        tau = kendalltau([-advice["backbones"][name]["rank"] for name in ranked], accuracies).statistic
        rows.append(
            {
                "study": file.parent.name,
                "backbones": len(ranked),
                "images": board["rows"][0]["images"],
                "tau": None if np.isnan(tau) else float(tau),
                "regret_top_1": max(accuracies) - accuracies[0],
                "regret_top_3": max(accuracies) - max(accuracies[:SHORTLIST]),
            }
        )
    if not rows:
        return None
    taus = [row["tau"] for row in rows if row["tau"] is not None]
    return {
        "studies": rows,
        "tau": sum(taus) / len(taus) if taus else None,
        **{name: sum(row[name] for row in rows) / len(rows) for name in ("regret_top_1", "regret_top_3")},
    }
