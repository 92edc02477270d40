"""Winners of a study are evaluated on the locked split, once, when all trials are done."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from zoo.dataset import Images
from zoo.progress import Progress
from zoo.runs.looks import FINALS, is_by_study, write_look
from zoo.runs.run import Run, now
from zoo.storage.files import SCHEMA
from zoo.studies.executor import LocalProcess, LocalProcesses, answers_of
from zoo.studies.results import Results
from zoo.studies.trial import TrialResult
from zoo.system.worker_process import WorkerFailed


def score_winners(opened: Results, images: Images, local: LocalProcess | LocalProcesses, progress: Progress) -> None:
    """Evaluate every run of the winners on the locked split, once; a run that was trained again is another run.

    Of folds, the configuration is trained on all images that are not locked first. Only this process writes the ledger.
    """
    boards = opened.boards()
    if not boards or "test" not in images.splits:
        return
    largest = max(boards)
    seen = {line.get("run") for line in opened.looks() if is_by_study(line)}
    wanted = [result for name in boards[largest].winners for result in opened.finished(largest)[name]]
    asked = [partial(_score_winner, opened, result, seen, local, progress) for result in wanted]
    for result, found in zip(wanted, answers_of(local, asked), strict=True):
        if isinstance(found, WorkerFailed):
            progress.warn(f"{result.trial.configuration} seed {result.trial.seed} {found.reason}")
        elif found is not None:
            line = {"schema": SCHEMA, "time": now(), "split": "test", "by": "study", **found}
            write_look(opened.path, {**line, "name": result.name, **vars(result.trial)})


def _score_winner(
    opened: Results,
    result: TrialResult,
    seen: Collection[Any],
    local: LocalProcess | LocalProcesses,
    progress: Progress,
) -> dict[str, Any] | None:
    """Evaluate a winner's run on the locked split; None where an earlier session has done so.

    Raises:
        WorkerFailed: it cannot be trained on all images, or evaluated.
    """
    try:
        run = _run_to_score(opened, result, local, progress)
    except WorkerFailed as failure:
        raise WorkerFailed(f"could not be trained on all images: {failure.reason}") from failure
    if run.record.get("id") in seen and (run.path / "predictions-test.safetensors").is_file():
        return None
    try:
        found = local.ask("score", run=str(run.path), split="test")
    except WorkerFailed as failure:
        raise WorkerFailed(f"could not be evaluated on `test`: {failure.reason}") from failure
    return {"run": run.record.get("id"), **found}


def _run_to_score(
    opened: Results, result: TrialResult, local: LocalProcess | LocalProcesses, progress: Progress
) -> Run:
    """The run of a winner that is scored on the locked split, see `Results.locked_run`; of folds it is trained.

    Raises:
        WorkerFailed: it cannot be trained.
    """
    found = opened.locked_run(result)
    if found is not None:
        return found
    folder = opened.path / FINALS / result.name
    progress.start(f"train {result.trial.configuration} on all images that are not locked", 0)
    local.ask("train_final", run=str(opened.run(result).path), folder=str(folder))
    return Run.open(folder)
