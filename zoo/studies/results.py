"""Results: an opened study, and what its finished trials come to, whenever that is asked.

study.json          what was asked, how it stands
outcomes.jsonl      a line per trial: finished, failed, or refused before it was trained, and why
footprints.json     latency, size and licence of every way to train, known before the first trial
trials/NAME/        the runs
search.db           what the search tried (Optuna)
tuned.json          the settings that it found
ledger.jsonl        a line per look at the locked split
leaderboard.json, leaderboard.csv
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError
from zoo.evaluation.intervals import correct, interval
from zoo.evaluation.scoring import compute_metrics
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.runs.run import Run
from zoo.storage.files import check_schema, read_json, read_lines, write_bytes, write_json
from zoo.studies.deployment_cost import Footprint
from zoo.studies.leaderboard import ENSEMBLE, Entry, Leaderboard, ensemble, rank
from zoo.studies.study import Study

STUDY_FILE = "study.json"
OUTCOMES_FILE = "outcomes.jsonl"
FOOTPRINTS_FILE = "footprints.json"
TRIALS = "trials"
TUNED_FILE = "tuned.json"
LEDGER_FILE = "ledger.jsonl"
LEADERBOARD_FILE = "leaderboard.json"
CSV_FILE = "leaderboard.csv"

# A line of `outcomes.jsonl` without one of these is damaged
OF_AN_OUTCOME = {"name", "backbone", "strategy", "seed", "fraction", "status"}

MOST_AVERAGED = 5  # networks in an ensemble: more seldom help, and each costs its latency


@dataclass(frozen=True)
class Results:
    """An opened study: its folder, what was asked, and the outcome of each trial that has one."""

    path: Path
    record: dict[str, Any]
    outcomes: tuple[dict[str, Any], ...]  # the latest of each trial

    @classmethod
    def open(cls, path: Path | str) -> Results:
        """Open a study's folder.

        Raises:
            UsageError: it is no study.
            ZooError: its record is damaged or of a newer schema.
        """
        folder = Path(path)
        file = folder / STUDY_FILE
        if not file.is_file():
            raise UsageError(f"`{folder}` is no study: it has no `{STUDY_FILE}`", hint="`zoo study --out` makes one")
        record = read_json(file)
        if not isinstance(record, dict) or not isinstance(record.get("study"), dict):
            raise ZooError(f"`{file}` is no record of a study", hint="restore it from a copy")
        check_schema(record.get("schema"), file)
        whole = [line for line in read_lines(folder / OUTCOMES_FILE) if set(line) >= OF_AN_OUTCOME]
        return cls(folder, record, tuple({line["name"]: line for line in whole}.values()))

    @property
    def study(self) -> Study:
        return Study.from_json(self.record["study"])

    @property
    def status(self) -> str:
        return str(self.record.get("status"))

    @property
    def footprints(self) -> dict[str, Footprint]:
        """Of each way to train; none where the file is missing or damaged."""
        try:
            found = read_json(self.path / FOOTPRINTS_FILE)
            return {way: Footprint.from_json(one) for way, one in found.items()}
        except (ZooError, AttributeError, KeyError, TypeError):
            return {}

    @property
    def leaderboard(self) -> dict[str, Any]:
        """What the trials that are finished come to, as `leaderboard.json` has it; computed anew.

        Raises:
            ZooError: none is finished, or a run of one is damaged.
        """
        return self.compare(Plugins())[0]

    @property
    def winners(self) -> list[str]:
        """Ways to train that cannot be told apart from the best, best first."""
        return [str(way) for way in self.leaderboard["winners"]]

    def run(self, outcome: Mapping[str, Any]) -> Run:
        """The run of a finished trial.

        Raises:
            ZooError: it is missing or damaged.
        """
        folder = self.path / TRIALS / str(outcome["name"])
        try:
            return Run.open(folder)
        except ZooError as error:
            raise ZooError(error.message, hint=f"`zoo study {self.path}` trains it again") from error

    def looks(self) -> list[dict[str, Any]]:
        """Every look at the locked split."""
        return read_lines(self.path / LEDGER_FILE)

    def finished(self, fraction: float) -> dict[str, list[dict[str, Any]]]:
        """Outcomes of finished trials by way to train, in the order of names and of seeds."""
        ways: dict[str, list[dict[str, Any]]] = {}
        for outcome in sorted(self.outcomes, key=lambda one: (one["backbone"], one["strategy"], one["seed"])):
            if outcome["status"] == "finished" and outcome["fraction"] == fraction:
                ways.setdefault(f"{outcome['backbone']} {outcome['strategy']}", []).append(outcome)
        return ways

    def first(self, way: str) -> dict[str, Any]:
        """The outcome of a way's first seed, at the largest fraction of which a trial is finished."""
        largest = max(one["fraction"] for one in self.outcomes if one["status"] == "finished")
        return self.finished(largest)[way][0]

    def boards(self) -> dict[float, Leaderboard]:
        """By fraction of the training images, those of which a trial is finished."""
        fractions = {float(one["fraction"]) for one in self.outcomes if one["status"] == "finished"}
        return {fraction: self._board(fraction) for fraction in sorted(fractions)}

    def _board(self, fraction: float) -> Leaderboard:
        footprints, entries, tests = self.footprints, [], {}
        for way, outcomes in self.finished(fraction).items():
            runs = [self.run(outcome) for outcome in outcomes]
            entries.append(
                Entry(
                    backbone=outcomes[0]["backbone"],
                    strategy=outcomes[0]["strategy"],
                    seeds=tuple(outcome["seed"] for outcome in outcomes),
                    tables=tuple(run.predictions() for run in runs),
                    metrics=tuple(run.metrics for run in runs),
                    seconds=tuple(outcome.get("seconds", 0.0) for outcome in outcomes),
                    core_seconds=tuple(outcome.get("core_seconds", 0.0) for outcome in outcomes),
                    trained=max(phase["trainable_parameters"] for phase in runs[0].record["phases"]),
                    footprint=footprints.get(way, Footprint()),
                )
            )
            scored = [table for run in runs if (table := _locked(run)) is not None]
            if scored:
                right = correct(scored)
                found = {"accuracy": float(right.mean()), "interval": list(interval(right)), "images": right.shape[1]}
                tests[way] = found
        board = rank(entries)
        if any(outcome.get("tuned") for outcomes in self.finished(fraction).values() for outcome in outcomes):
            note = f"settings were searched by the loss on `{board.split}`, which flatters what is told of it"
            board = replace(board, notes=(*board.notes, note))
        return replace(board, rows=tuple(replace(row, test=tests.get(row.way)) for row in board.rows))

    def compare(self, plugins: Plugins) -> tuple[dict[str, Any], Leaderboard]:
        """The leaderboard of the largest fraction, as JSON with those of the others, and by itself.

        Raises:
            ZooError: no trial is finished, or a run of one is damaged.
        """
        boards = self.boards()
        if not boards:
            raise ZooError(
                f"study `{self.path}` has no leaderboard: no trial is finished", hint=f"`zoo study {self.path}` goes on"
            )
        largest = max(boards)
        full = boards[largest].to_json()
        full["fractions"] = {f"{fraction:g}": board.to_json() for fraction, board in boards.items()}
        full["ensemble"] = self._ensemble(largest, boards[largest], plugins)
        full["looks"] = len(self.looks())
        return json.loads(json.dumps(full)), boards[largest]  # tuples as lists, as a reader of the file has them

    def write_leaderboard(self, plugins: Plugins) -> None:
        """Write `leaderboard.json` and `leaderboard.csv`, if a trial is finished."""
        if any(one["status"] == "finished" for one in self.outcomes):
            full, board = self.compare(plugins)
            write_json(self.path / LEADERBOARD_FILE, full)
            write_bytes(self.path / CSV_FILE, board.to_csv().encode())

    def _ensemble(self, fraction: float, board: Leaderboard, plugins: Plugins) -> dict[str, Any] | None:
        """The mean of one network of each winner; `helps` where it is better on what is chosen on than the best."""
        members = board.winners[:MOST_AVERAGED]
        if len(members) < 2:
            return None
        finished = self.finished(fraction)
        runs = [self.run(finished[way][0]) for way in members]
        table = ensemble([run.predictions() for run in runs])
        metrics = compute_metrics(table, plugins)
        latencies = [row.latency for row in board.rows if row.way in members]
        scored = [one for run in runs if (one := _locked(run)) is not None]
        right = correct([ensemble(scored)]) if len(scored) == len(runs) else None
        return {
            "name": ENSEMBLE,
            "members": list(members),
            "helps": (metrics["accuracy"] or 0.0) > board.rows[0].accuracy,
            "metrics": metrics,
            "interval": list(interval(correct([table]))),
            "latency": sum(one[0] for one in latencies if one) if all(latencies) else None,
            "test": None if right is None else {"accuracy": float(right.mean()), "interval": list(interval(right))},
        }


def _locked(run: Run) -> Predictions | None:
    """Predictions of the locked split, where a run was scored on it."""
    return run.predictions("test") if (run.path / "predictions-test.safetensors").is_file() else None
