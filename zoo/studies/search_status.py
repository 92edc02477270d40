"""How far searches are, read from a study's folder or from a storage; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ZooError, counted
from zoo.runs.run import RUN_FILE, Run
from zoo.storage.files import read_json
from zoo.studies.search_trial import IDENTITY, SEARCH, SEARCH_FILE, outcomes
from zoo.studies.trial import TrialState

WORDS = {TrialState.FINISHED: "finished", TrialState.PRUNED: "pruned", TrialState.FAILED: "failed"}


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far one search is.

    Attributes:
        name: Its configuration; in a storage also the study's name.
        trials: Trials in all.
        counts: Trials by state: `finished`, `pruned`, `failed`, and `running`, which also those are that were killed.
    """

    name: str
    trials: int
    counts: Mapping[str, int]

    def __str__(self) -> str:
        """One line, such as `12 of 40 ended: 9 finished, 3 pruned, 0 failed; 2 running`."""
        ended = sum(self.counts.get(word, 0) for word in WORDS.values())
        kinds = ", ".join(f"{self.counts.get(word, 0)} {word}" for word in WORDS.values())
        running = self.counts.get("running", 0)
        return f"{ended} of {counted(self.trials, 'trial')} ended: {kinds}" + (
            f"; {running} running" if running else ""
        )


def searches_of_folder(study: Path, done: Collection[str] = ()) -> list[SearchProgress]:
    """The searches of a study by its folder, without those of configurations that are `done`."""
    found = []
    for file in sorted((study / SEARCH).glob(f"*/{SEARCH_FILE}")):
        try:
            record = read_json(file)
            if record["configuration"] in done:
                continue
            counts: Counter[str] = Counter()
            for run in file.parent.glob(f"*/{RUN_FILE}"):
                if not run.parent.name.isdigit():  # of a storage that was lost
                    continue
                try:
                    counts[Run.open(run.parent).status] += 1
                except ZooError:  # being written
                    continue
            counts["running"] += counts.pop("interrupted", 0)
            found.append(
                SearchProgress(name=str(record["configuration"]), trials=int(record["trials"]), counts=dict(counts))
            )
        except (ZooError, KeyError, TypeError, ValueError):
            continue
    return found


def searches_of_storage(storage: str, study_name: str | None = None) -> list[SearchProgress]:
    """The searches in a storage that sessions of zoo have made.

    Args:
        storage: The storage.
        study_name: Only those of this study. None: all.

    Raises:
        UsageError: it is no storage.
        StorageLost: it cannot be used.
    """
    import optuna

    from zoo.studies.search_storage import close_storage, open_storage, storage_errors

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened = open_storage(storage, make=False)
    found = []
    with storage_errors(storage):
        for one in optuna.get_all_study_summaries(opened, include_best_trial=False):
            identity = one.user_attrs.get(IDENTITY)
            if not isinstance(identity, dict) or "search" not in identity:
                continue
            if study_name is not None and not one.study_name.startswith(f"{study_name}: "):
                continue
            count = int(identity["search"])
            trials = optuna.load_study(study_name=one.study_name, storage=opened).get_trials(deepcopy=False)
            counts = Counter(WORDS[trial.state] for trial in outcomes(trials, count))
            counts["running"] = sum(trial.state.name == "RUNNING" for trial in trials[:count])
            found.append(SearchProgress(name=one.study_name, trials=count, counts=dict(counts)))
    close_storage(opened)
    return sorted(found, key=lambda one: one.name)
