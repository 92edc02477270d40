"""Results: an opened study, and the leaderboard of its finished trials, computed whenever it is asked for.

study.json          the study's description, and its status
outcomes.jsonl      a line per trial: finished, failed, or refused before it was trained, and why
footprints.json     deployment cost of every configuration, known before the first trial
trials/NAME/        the runs
running/            with `--on`: which trials run, and where
finals/NAME/        with `--folds`: the winners' trials, trained on all images that are not locked
search.db           the trials of the hyperparameter search (Optuna); with `--storage` they are there
search/DIGEST/      their runs, without weights
tuned.json          settings that it found, and all of its trials
locked.json         the SHA-256 of each image of the locked split
ledger.jsonl        a line per evaluation on the locked split
leaderboard.json    the leaderboard, also as leaderboard.csv
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError, counted
from zoo.evaluation.evaluation import compute_metrics
from zoo.evaluation.statistics import accuracy_interval, correct, seeds_interval
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.runs.looks import FINALS, STUDY_FILE, TRIALS, earlier_looks, is_by_study, read_looks
from zoo.runs.run import Run
from zoo.storage.files import check_schema, json_text, read_json, read_lines, write_bytes, write_json
from zoo.storage.folder_lock import is_held
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.leaderboard import ENSEMBLE, ConfigurationResults, Leaderboard, LeaderboardContent, ensemble, rank
from zoo.studies.study import Study
from zoo.studies.trial import Trial, TrialResult, TrialState, fraction_text
from zoo.system.other_load import kept_busy

OUTCOMES_FILE = "outcomes.jsonl"
COSTS_FILE = "footprints.json"
TUNED_FILE = "tuned.json"
LEADERBOARD_FILE = "leaderboard.json"
CSV_FILE = "leaderboard.csv"

MOST_AVERAGED = 5  # networks in an ensemble: more rarely help, and each adds its latency


@dataclass(frozen=True)
class Results:
    """An opened study: its folder, the content of `study.json`, and the latest result of each trial that has one."""

    path: Path
    record: dict[str, Any]
    outcomes: tuple[TrialResult, ...]

    def __repr__(self) -> str:
        """One line: folder, status and number of finished trials."""
        finished = sum(result.state is TrialState.FINISHED for result in self.outcomes)
        return f"<Results {self.path}: {self.status}, {counted(finished, 'trial')} finished>"

    @classmethod
    def open(cls, path: Path | str) -> Results:
        """Open a study's folder.

        Raises:
            UsageError: the folder is not a study.
            ZooError: its record is damaged or has a newer schema.
        """
        folder = Path(path)
        file = folder / STUDY_FILE
        if not file.is_file():
            raise UsageError(f"`{folder}` is not a study: it has no `{STUDY_FILE}`", hint="`zoo study --out` makes one")
        record = read_json(file)
        if not isinstance(record, dict) or not isinstance(record.get("study"), dict):
            raise ZooError(f"`{file}` is not the record of a study", hint="restore it from a copy")
        check_schema(record.get("schema"), file)
        latest: dict[Trial, TrialResult] = {}
        for line in read_lines(folder / OUTCOMES_FILE):
            try:
                result = TrialResult.from_json(line)
                latest[result.trial] = result
            except (KeyError, ValueError, TypeError):
                continue  # cut short by a kill, or damaged
        return cls(folder, record, tuple(latest.values()))

    @property
    def study(self) -> Study:
        """The study's description."""
        return Study.from_json(self.record["study"])

    @property
    def status(self) -> str:
        """`running`, `finished`, `interrupted` or `out of time`."""
        return str(self.record.get("status"))

    @property
    def is_stopped(self) -> bool:
        """Whether its session was killed: `status` is `running`, and no process of any machine holds the folder."""
        return self.status == "running" and is_held(self.path) is False

    @property
    def costs(self) -> dict[str, DeploymentCost]:
        """Deployment cost of each configuration; empty where the file is missing or damaged."""
        try:
            found = read_json(self.path / COSTS_FILE)
            return {name: DeploymentCost.from_json(one) for name, one in found.items()}
        except (ZooError, AttributeError, KeyError, TypeError):
            return {}

    @property
    def leaderboard(self) -> LeaderboardContent:
        """The leaderboard of the finished trials, computed now, with the content of `leaderboard.json`.

        Raises:
            ZooError: no trial is finished, or the run of one is damaged.
        """
        return self.compare(Plugins())[0]

    @property
    def winners(self) -> list[str]:
        """Configurations that are not significantly worse than any other, best first."""
        return [str(name) for name in self.leaderboard["winners"]]

    def run(self, result: TrialResult) -> Run:
        """The run of a finished trial.

        Raises:
            ZooError: it is missing or damaged.
        """
        folder = self.path / TRIALS / result.name
        try:
            return Run.open(folder)
        except ZooError as error:
            raise ZooError(error.message, hint=f"`zoo study {self.path}` trains it again") from error

    def locked_run(self, result: TrialResult) -> Run | None:
        """The run that is scored on the locked split: the trial's own or, of folds, its final run if that is finished.

        Raises:
            ZooError: the trial's run is missing or damaged.
        """
        run = self.run(result)
        if not run.record.get("folds"):
            return run
        try:
            final = Run.open(self.path / FINALS / result.name)
        except ZooError:
            return None
        of_this = (final.record.get("final") or {}).get("id") == run.record.get("id")
        return final if of_this and final.status == "finished" else None

    @property
    def chosen(self) -> Run:
        """The run of the cheapest winner's first seed, which `zoo.train_final` takes.

        Raises:
            ZooError: the study is not at its end, no trial is finished, or the run of one is damaged.
        """
        if self.status not in ("finished", "out of time"):
            raise ZooError(
                f"study `{self.path}` is {self.status}, not finished", hint=f"`zoo study {self.path}` continues it"
            )
        return self.run(self.first(str(self.leaderboard["cheapest"])))

    def looks(self) -> list[dict[str, Any]]:
        """Every evaluation on the locked split, as the study's ledger records it."""
        return read_looks(self.path)

    def _looked(self) -> set[Any]:
        """Ids of the runs that the study itself evaluated on the locked split."""
        return {look.get("run") for look in self.looks() if is_by_study(look)}

    def finished(self, fraction: float) -> dict[str, list[TrialResult]]:
        """Results of finished trials by configuration, sorted by backbone, strategy and seed."""
        found: dict[str, list[TrialResult]] = {}
        key = lambda one: (one.trial.backbone, one.trial.strategy, one.trial.seed)
        for result in sorted(self.outcomes, key=key):
            if result.finished and result.trial.fraction == fraction:
                found.setdefault(result.trial.configuration, []).append(result)
        return found

    def first(self, configuration: str) -> TrialResult:
        """The result of a configuration's first seed, at the largest fraction with a finished trial."""
        largest = max(one.trial.fraction for one in self.outcomes if one.finished)
        return self.finished(largest)[configuration][0]

    def boards(self) -> dict[float, Leaderboard]:
        """A leaderboard for each fraction of the training images with a finished trial."""
        fractions = {float(one.trial.fraction) for one in self.outcomes if one.finished}
        return {fraction: self._board(fraction) for fraction in sorted(fractions)}

    def _board(self, fraction: float) -> Leaderboard:
        costs, compared, tests, looked = self.costs, [], {}, self._looked()
        for configuration, results in self.finished(fraction).items():
            runs = [self.run(result) for result in results]
            compared.append(
                ConfigurationResults(
                    backbone=results[0].trial.backbone,
                    strategy=results[0].trial.strategy,
                    seeds=tuple(result.trial.seed for result in results),
                    tables=tuple(run.predictions() for run in runs),
                    metrics=tuple(run.metrics for run in runs),
                    seconds=tuple(result.seconds for result in results),
                    core_seconds=tuple(result.core_seconds for result in results),
                    trained=max(phase["trainable_parameters"] for phase in runs[0].record["phases"]),
                    cost=costs.get(configuration, DeploymentCost()),
                )
            )
            scored = [table for one in results if (table := _locked(self.locked_run(one), looked)) is not None]
            if scored:
                right = correct(scored)
                interval = list(seeds_interval(scored))
                tests[configuration] = {
                    "accuracy": float(right.mean()),
                    "interval": interval,
                    "images": right.shape[1],
                }
        board = rank(compared)
        if any(result.tuned for results in self.finished(fraction).values() for result in results):
            note = f"settings were searched by the loss on `{board.split}`, so its figures are too optimistic"
            board = replace(board, notes=(*board.notes, note))
        if busiest := max((one.cost.others for one in compared if one.cost.busy), default=0.0):
            note = f"latencies were measured while {kept_busy(busiest, here=False)}, so they may be too high"
            board = replace(board, notes=(*board.notes, note))
        return replace(board, rows=tuple(replace(row, test=tests.get(row.way)) for row in board.rows))

    def compare(self, plugins: Plugins) -> tuple[LeaderboardContent, Leaderboard]:
        """The leaderboard of the largest fraction: as JSON, with those of the other fractions, and as an object.

        Raises:
            ZooError: no trial is finished, or the run of one is damaged.
        """
        boards = self.boards()
        if not boards:
            raise ZooError(
                f"study `{self.path}` has no leaderboard: no trial is finished",
                hint=f"`zoo study {self.path}` continues it",
            )
        largest = max(boards)
        full = boards[largest].to_json()
        full["fractions"] = {fraction_text(fraction): board.to_json() for fraction, board in boards.items()}
        full["ensemble"] = self._ensemble(largest, boards[largest], plugins)
        full["looks"] = len(self.looks())
        full["earlier_looks"] = earlier_looks(self.path)
        # through JSON, so that tuples are lists as in the file
        return LeaderboardContent(json.loads(json_text(full))), boards[largest]

    def write_leaderboard(self, plugins: Plugins) -> None:
        """Write `leaderboard.json` and `leaderboard.csv`, if a trial is finished."""
        if any(one.finished for one in self.outcomes):
            full, board = self.compare(plugins)
            write_json(self.path / LEADERBOARD_FILE, full)
            write_bytes(self.path / CSV_FILE, board.to_csv().encode())

    def _ensemble(self, fraction: float, board: Leaderboard, plugins: Plugins) -> dict[str, Any] | None:
        """The mean of the winners' probabilities, one network each; None for a single winner.

        `helps` says whether its accuracy on the compared split is higher than the best configuration's.
        """
        members = board.winners[:MOST_AVERAGED]
        if len(members) < 2:
            return None
        finished = self.finished(fraction)
        runs = [self.run(finished[name][0]) for name in members]
        table = ensemble([run.predictions() for run in runs])
        metrics = compute_metrics(table, plugins)
        latencies = [row.latency for row in board.rows if row.way in members]
        looked = self._looked()
        final = [self.locked_run(finished[name][0]) for name in members]
        scored = [one for run in final if (one := _locked(run, looked)) is not None]
        mixed = ensemble(scored) if len(scored) == len(runs) else None
        test = None
        if mixed is not None:
            test = {"accuracy": float(mixed.correct.mean()), "interval": list(accuracy_interval(mixed))}
        return {
            "name": ENSEMBLE,
            "members": list(members),
            "helps": (metrics["accuracy"] or 0.0) > board.rows[0].accuracy,
            "metrics": metrics,
            "interval": list(accuracy_interval(table)),
            "latency": sum(one[0] for one in latencies if one) if all(latencies) else None,
            "test": test,
        }


def _locked(run: Run | None, looked: Collection[Any]) -> Predictions | None:
    """A run's predictions on the locked split; None where the study did not evaluate it there, or there is no run.

    `zoo evaluate` may have, but a leaderboard with such figures would invite to choose by them.
    """
    if run is None or run.record.get("id") not in looked or not (run.path / "predictions-test.safetensors").is_file():
        return None
    return run.predictions("test")
