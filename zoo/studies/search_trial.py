"""Trials of a hyperparameter search: one training each, with one typed outcome."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, counted
from zoo.runs.run import HISTORY_FILE, RUN_FILE, Run
from zoo.storage.files import SCHEMA, write_json
from zoo.storage.folder_lock import LOCK_FILE
from zoo.studies.trial import TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SEARCH = "search"  # folder of a study that has the runs of its search
SEARCH_FILE = "search.json"
KEPT = (RUN_FILE, HISTORY_FILE, LOCK_FILE)  # of the run of a trial that has ended; weights are of no use any more
# Attributes of Optuna's trials, and of its study
IDENTITY = "zoo"  # of Optuna's study: what is searched
FAILURE, CLAIM, BEAT, EPOCHS_SEEN, SECONDS, INSTEAD = "failure", "claim", "beat", "epochs", "seconds", "instead_of"


@dataclass(frozen=True, kw_only=True)
class SearchTrial:
    """The outcome of a trial of a search.

    Attributes:
        number: Its number, from 0; the name of its folder.
        state: `finished`, `pruned` (ended early, since others were ahead) or `failed`.
        params: The settings that were tried, by Optuna's names.
        loss: Validation loss: of a finished trial the final one, of a pruned one the last. None: there is none.
        epochs: Epochs after which the loss was reported.
        seconds: Wall time of its training. None: not known.
        host: Machine that trained it.
        failure: Why it failed or was pruned; empty for a finished trial.
    """

    number: int
    state: TrialState
    params: Mapping[str, Any] = field(default_factory=dict)
    loss: float | None = None
    epochs: int = 0
    seconds: float | None = None
    host: str = ""
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state), "params": dict(self.params)}


def outcome_of(trial: FrozenTrial) -> SearchTrial | None:
    """The outcome that a storage has of a trial; None: it has not ended."""
    from optuna.trial import TrialState as OptunaState

    if not trial.state.is_finished():
        return None
    attrs = trial.user_attrs
    states = {OptunaState.COMPLETE: TrialState.FINISHED, OptunaState.PRUNED: TrialState.PRUNED}
    state = states.get(trial.state, TrialState.FAILED)
    if state is TrialState.PRUNED and FAILURE in attrs:  # to the sampler it is one of the worst
        state = TrialState.FAILED
    last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    epochs = int(attrs.get(EPOCHS_SEEN, trial.last_step or 0))
    why = {
        TrialState.FINISHED: "",
        TrialState.PRUNED: f"other settings were ahead after {counted(epochs, 'epoch')}",
    }
    return SearchTrial(
        number=int(attrs.get(INSTEAD, trial.number)),
        state=state,
        params=dict(trial.params),
        loss=trial.value if state is TrialState.FINISHED else last,
        epochs=epochs,
        seconds=attrs.get(SECONDS),
        host=str((attrs.get(CLAIM) or {}).get("host", "")),
        failure=why[state] if state in why else str(attrs.get(FAILURE, "it was ended elsewhere")),
    )


def outcomes(trials: Iterable[FrozenTrial], count: int) -> tuple[SearchTrial, ...]:
    """One outcome for each of the first `count` trials that has ended, by number."""
    found: dict[int, SearchTrial] = {}
    for trial in trials:
        one = outcome_of(trial)
        if one is not None and one.number < count and (trial.number < count or INSTEAD in trial.user_attrs):
            found[one.number] = one
    return tuple(found[number] for number in sorted(found))


def best_of(table: Iterable[SearchTrial]) -> SearchTrial | None:
    """The finished trial with the lowest loss, of equals the first; a pruned one never is."""
    finished = [one for one in table if one.state is TrialState.FINISHED and one.loss is not None]
    return min(finished, key=lambda one: (one.loss, one.number), default=None)


def this_host() -> str:
    return platform.node()


def finished_loss(folder: Path) -> float | None:
    """The validation loss of the run in a folder, if that is finished and has one."""
    try:
        run = Run.open(folder)
    except ZooError:
        return None
    loss = run.metrics.get("loss") if run.status == "finished" else None
    return None if loss is None or math.isnan(float(loss)) else float(loss)


def strip_run(folder: Path) -> None:
    """Delete the weights and predictions of a trial that has ended; its record and its history stay."""
    if folder.is_dir():
        for file in folder.iterdir():
            if file.name in KEPT:
                continue
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)


def write_search_file(folder: Path, **values: Any) -> None:
    write_json(folder / SEARCH_FILE, {"schema": SCHEMA, **values})
