"""Runner: carries out a study trial by trial, in a folder from which another session can continue after any stop.

`zoo.studies.results` lists the files of the folder.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.config.context import Context
from zoo.data.folds import pool
from zoo.data.leakage import digests
from zoo.data.opening import found_text
from zoo.dataset import Images
from zoo.errors import DiskFull, UsageError, ZooError, counted
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.kept_list import keep_list, with_kept_list
from zoo.runs.looks import LOCKED_FILE, STUDY_FILE, TRIALS, earlier_looks, write_locked
from zoo.runs.run import EXCLUDE_FILE, Run, now
from zoo.runs.run_folder import make_folder
from zoo.storage.files import SCHEMA, append_json, json_text, read_json, write_json
from zoo.storage.folder_lock import FolderHeld, hold_folder, is_held
from zoo.storage.paths import output_path
from zoo.studies.data_checks import check_no_leaks, check_teachers, open_for_study, why_too_few
from zoo.studies.deployment_cost import DeploymentCost, license_of, time_networks, told_unfit, with_latency
from zoo.studies.executor import LocalProcess, LocalProcesses, TrialExecutor, answers_of
from zoo.studies.results import (
    COSTS_FILE,
    CSV_FILE,
    LEADERBOARD_FILE,
    OUTCOMES_FILE,
    Results,
)
from zoo.studies.running import end_session, running_trials, wait_for_trial
from zoo.studies.search_session import search_place, tune
from zoo.studies.search_storage import SearchPlace, close_storage, open_storage
from zoo.studies.study import Study
from zoo.studies.study_folder import check_folder, check_shared_folder, default_folder
from zoo.studies.trial import Trial, TrialResult, TrialState, failed_callbacks, fraction_text
from zoo.studies.winner_scoring import score_winners
from zoo.system.environment import machine, versions
from zoo.system.other_load import MOST_OTHERS, kept_busy
from zoo.system.worker_process import WorkerFailed

HELD_SECONDS = 0.5  # between two looks at whether another session still holds the folder


def study(
    asked: Study | Path | str,
    *,
    out: Path | str | None = None,
    retry: bool = False,
    time_budget: float | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
    executor: TrialExecutor | None = None,
    jobs: int = 1,
    storage: str | None = None,
    study_name: str | None = None,
    grace_period: float | None = None,
) -> Results:
    """Carry out a study, or continue one that was stopped.

    With `storage`, several sessions search together. One that finds another in the same folder helps it to search, and
    returns when the search is at its end.

    Args:
        asked: The study; or the folder of one, which is continued.
        out: The study's folder; if it holds the same study, that is continued. None: a new folder below `runs`.
        retry: Train failed trials again.
        time_budget: Seconds after which no further trial begins. None: the study's own.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.
        executor: Carries out the trials. None: worker processes on this machine.
        jobs: Worker processes on this machine: that many trials are carried out at a time, each by its share of the
            processors.
        storage: Where the trials of the search are kept: a URL of SQLAlchemy or a journal file, which other sessions
            may share. None: `ZOO_STORAGE` or, where that is not set, the study's own `search.db`.
        study_name: Name of the study in `storage`. None: that of its folder.
        grace_period: Seconds without a sign of life after which other sessions that share `storage`, and not the
            folder, take a trial of the search over. None: 120.

    Raises:
        UsageError: `jobs` is below 1; names or settings are wrong, or the folder holds something else.
        ZooError: the data are not usable, or the folder or the storage cannot be used.
    """
    if jobs < 1:
        raise UsageError(f"`--jobs {jobs}` is below 1", hint="it is the number of trials that are trained at a time")
    context = Context.of(plugins, progress)
    plugins, progress = context.plugins, context.progress
    if not isinstance(asked, Study):
        folder = Path(asked)
        asked = Results.open(folder).study
    else:
        asked = asked.located(plugins)
        folder = output_path(out) if out is not None else default_folder()
    budget = time_budget if time_budget is not None else asked.time_budget
    began = time.monotonic()
    trials = asked.trials(plugins)
    place = search_place(asked, trials, folder, storage, study_name, grace_period)
    (check_folder if place is None else check_shared_folder)(folder, asked)
    first = with_kept_list(asked.experiment(trials[0]), folder, progress)
    opened = open_for_study(first, plugins)
    images = opened.images
    for line in (found_text(images), *images.notes):
        progress.note(line)
    few = why_too_few(images, first)
    if few is not None:
        progress.warn(few)
    check_no_leaks(opened, first, progress)
    check_teachers(images, [asked.experiment(trial) for trial in trials])
    if place is not None:
        close_storage(open_storage(place.storage))  # before anything is measured
    make_folder(folder)
    until = None if budget is None else began + budget
    while True:
        session = StudySession(folder, asked, trials, images, context, executor, jobs, place)
        with ExitStack() as held:
            try:
                held.enter_context(
                    hold_folder(folder, "carrying out the study in", "wait for it", partial(session_of, folder))
                )
            except FolderHeld:
                if place is None:
                    raise
            else:
                if not (folder / EXCLUDE_FILE).is_file():
                    keep_list(folder, opened.listed)
                session.begin()
                ended = "interrupted"
                try:
                    ended = session.carry_out(retry, until)
                finally:
                    session.write_status(ended)
                results = Results.open(folder)
                results.write_leaderboard(plugins)
                return results
        if session.help_to_search(until):
            return Results.open(folder)


def session_of(folder: Path) -> str:
    """The session that carries out the study in a folder, for messages; empty where the study does not say."""
    try:
        found = read_json(folder / STUDY_FILE)["session"]
        return f"process {found['process']} on `{found['host']}`, since {found['time']}"
    except (ZooError, KeyError, TypeError):
        return ""


class StudySession:
    """One session of a study. Everything it knows is in the folder, so that another session can continue."""

    def __init__(
        self,
        folder: Path,
        asked: Study,
        trials: tuple[Trial, ...],
        images: Images,
        context: Context,
        executor: TrialExecutor | None = None,
        jobs: int = 1,
        place: SearchPlace | None = None,
    ) -> None:
        self.place = place
        self.folder, self.study, self.trials, self.images = folder, asked, trials, images
        self.plugins, self.progress = context.plugins, context.progress
        self.results: dict[Trial, TrialResult] = {}
        self._told: set[tuple[str, str]] = set()  # callbacks that failed, and why
        self._local = LocalProcess() if jobs == 1 else LocalProcesses(jobs)
        self._executor = executor or self._local
        self._elsewhere: Mapping[str, Any] = {}  # trials that workers of an earlier session still train, by name

    def _experiment(self, trial: Trial, settings: Mapping[str, Any] | None = None) -> Experiment:
        """The settings of a trial, with the list of `--exclude` that the study keeps."""
        return with_kept_list(self.study.experiment(trial, settings), self.folder)

    def begin(self) -> None:
        """Write `study.json`, and read the results of earlier sessions.

        Trials of an earlier session that was killed, and that wait in the queue of a cluster, do not begin any more.
        """
        end_session(self.folder)
        file = self.folder / STUDY_FILE
        few = why_too_few(self.images, self._experiment(self.trials[0]))
        before = read_json(file) if file.is_file() else {"created": now()}
        before.pop("session", None)
        self.record = {
            "schema": SCHEMA,
            **before,
            "study": json.loads(json_text(self.study.to_json())),
            "status": "running",
            "data_name": self.images.name,
            "classes": list(self.images.classes),
            "images": {role: len(samples) for role, samples in self.images.splits.items()},
            "notes": [*self.images.notes, *([few] if few is not None else [])],
            "trials": len(self.trials),
            "machine": machine(),
            "versions": versions(),
        }
        if self.place is not None:
            self.record |= {"storage": self.place.shown, "study_name": self.place.name}
        who = {"host": platform.node(), "process": os.getpid(), "time": now()}
        write_json(file, {**self.record, "session": who})
        (self.folder / TRIALS).mkdir(exist_ok=True)
        if not (self.folder / LOCKED_FILE).is_file():
            write_locked(self.folder, (digest for _, digest in digests(self.images.splits.get("test", ()))))
        for name, looks in earlier_looks(self.folder).items():
            self.progress.warn(
                f"study `{name}` has evaluated on these locked images {counted(looks, 'time')}; if its results led to "
                "this study, figures on them are too optimistic"
            )
        for name in (LEADERBOARD_FILE, CSV_FILE):  # written by the session before; out of date from now on
            (self.folder / name).unlink(missing_ok=True)
        self._read_results()

    def _read_results(self) -> None:
        """Read the results so far; a finished trial whose run is missing or damaged is left out."""
        opened = Results.open(self.folder)
        for result in opened.outcomes:
            if result.finished:
                try:
                    opened.run(result).predictions()
                except ZooError as error:
                    self.progress.warn(f"{result.name} is trained again: {error.message}")
                    continue
            self.results[result.trial] = result

    def carry_out(self, retry: bool, until: float | None) -> str:
        """Carry out every trial without a result; returns the status in which the study ends.

        Args:
            retry: train failed trials again.
            until: time of the monotonic clock after which no further trial begins. None: no limit.
        """
        try:
            costs = self._deployment_costs()
            tuned = self._tuned(costs, until)
            self.progress.start("trials", len(self.trials), "trials")
            if not self._train_all(costs, tuned, retry, until):
                return "out of time"
            if self.study.test:
                self.progress.start("score the winners on `test`", 0)
                score_winners(Results.open(self.folder), self.images, self._local, self.progress)
        except KeyboardInterrupt as stop:
            stop.add_note(f"`zoo study {self.folder}` continues it; finished trials are kept")
            raise
        finally:
            self.progress.stop()
            self._executor.cancel()
            self._local.cancel()
        return "finished"

    def help_to_search(self, until: float | None) -> bool:
        """Search beside the session that holds the folder; False where that has ended before the search has.

        Args:
            until: time of the monotonic clock after which no further trial of the search begins. None: no limit.
        """
        self.progress.note(f"another session carries out the study in `{self.folder}`; this one helps it to search")
        configurations = {trial.configuration for trial in self.trials}
        try:
            while not ((self.folder / STUDY_FILE).is_file() and configurations <= set(Results.open(self.folder).costs)):
                if not is_held(self.folder):
                    return False
                time.sleep(HELD_SECONDS)
            self._tuned(Results.open(self.folder).costs, until, leads=False)
        except KeyboardInterrupt as stop:
            stop.add_note(f"the other sessions in `{self.folder}` go on, and take its trial over")
            raise
        finally:
            self.progress.stop()
            self._local.cancel()
        late = until is not None and time.monotonic() > until
        if not late and not is_held(self.folder) and Results.open(self.folder).status != "finished":
            return False
        self.progress.note("this session has no more to search; the trials are those of the other session")
        return True

    def write_status(self, status: str) -> None:
        """Write the study's status at the end of the session."""
        write_json(self.folder / STUDY_FILE, {**self.record, "status": status, "ended": now()})

    # trials

    def _train_all(
        self, costs: Mapping[str, DeploymentCost], tuned: Mapping[str, Any], retry: bool, until: float | None
    ) -> bool:
        """Train every trial without a result; False where the time ran out before the last one began."""
        running: dict[Future[TrialResult], tuple[int, Path]] = {}
        in_time = True
        for number, trial in self._in_order():
            before = self.results.get(trial)
            if before is not None and not (retry and before.state is TrialState.FAILED):
                self.progress.advance(1)
                continue
            why = costs[trial.configuration].refused(self.study)
            if why:
                self._note(TrialResult(trial=trial, state=TrialState.REFUSED, failure=why), number)
                continue
            while len(running) >= self._executor.slots:
                self._note_completed(running)
            if self._folder_of(trial).name in self._elsewhere:
                while running:
                    self._note_completed(running)
                wait_for_trial(self.folder, self._folder_of(trial).name, until)
            if until is not None and time.monotonic() > until:
                in_time = False
                break
            settings = (tuned.get(trial.configuration) or {}).get("settings")
            experiment = self._experiment(trial, settings)
            folder = self._folder_of(trial)
            running[self._executor.submit(trial, experiment, folder, settings)] = (number, folder)
        while running:
            self._note_completed(running)
        return in_time

    def _in_order(self) -> list[tuple[int, Trial]]:
        """The trials with their numbers; last those that workers of an earlier session still train, to wait for them.

        With another executor, its workers wait.
        """
        self._elsewhere = running_trials(self.folder) if self._executor is self._local else {}
        for name, note in self._elsewhere.items():
            self.progress.note(f"{name} is still trained on `{note['host']}`, since {note['time']}")
        numbered = enumerate(self.trials, start=1)
        return sorted(numbered, key=lambda one: self._folder_of(one[1]).name in self._elsewhere)

    def _folder_of(self, trial: Trial) -> Path:
        """The trial's folder; one of an earlier version is kept, if the run in it is this trial's."""
        old = self.folder / TRIALS / trial.old_name
        try:
            experiment = Run.open(old).experiment
        except ZooError:
            return self.folder / TRIALS / trial.name
        names = ("backbone", "strategy", "seed", "fraction")
        own = all(getattr(experiment, name) == getattr(trial, name) for name in names)
        return old if own else self.folder / TRIALS / trial.name

    def _note_completed(self, running: dict[Future[TrialResult], tuple[int, Path]]) -> None:
        """Wait until a trial ends, and record its result.

        Raises:
            DiskFull: the disk is full, so no further trial could be written.
        """
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            number, folder = running.pop(future)
            try:
                self._note(replace(future.result(), name=folder.name), number)
            except DiskFull as error:
                raise DiskFull(error.message, hint=f"make room; `zoo study {self.folder}` then continues") from error

    def _note(self, result: TrialResult, number: int) -> None:
        """Record a result; only the session writes to `outcomes.jsonl`."""
        append_json(self.folder / OUTCOMES_FILE, result.to_json())
        self.results[result.trial] = result
        trial = result.trial
        words = f"{number}/{len(self.trials)} {trial.configuration} seed {trial.seed}"
        words += f" fraction {fraction_text(trial.fraction)}" if len(self.study.fractions) > 1 else ""
        if result.finished:
            accuracy = result.metrics.get("accuracy")
            figure = "unknown" if accuracy is None else f"{accuracy:.4f}"
            busy = f", while {kept_busy(result.others)}" if result.others > MOST_OTHERS else ""
            self.progress.note(f"{words}: accuracy {figure}, {result.seconds:.0f} s{busy}")
            for name, why in failed_callbacks(self.folder / TRIALS / result.name).items():
                if (name, why) not in self._told:
                    self._told.add((name, why))
                    self.progress.warn(f"{words}: callback `{name}` failed ({why}), and the trial went on without it")
        elif result.state is TrialState.REFUSED:
            self.progress.note(f"{words}: not trained: {result.failure}")
        else:
            self.progress.warn(f"{words} failed: {result.failure}")
        self.progress.advance(1)

    # before the trials

    def _deployment_costs(self) -> dict[str, DeploymentCost]:
        """Deployment costs by configuration: networks with random weights are exported and timed before training."""
        configurations = {trial.configuration: trial for trial in self.trials}
        known = Results.open(self.folder).costs
        if set(configurations) <= set(known):
            return known
        networks = self.folder / "networks"
        networks.mkdir(exist_ok=True)
        found: dict[str, DeploymentCost] = {}
        folds = self._experiment(self.trials[0]).folds
        trained = self.images.splits["train"] if folds is None else pool(self.images)  # by the final run
        images = round(len(trained) * max(self.study.fractions))
        self.progress.start("export untrained networks", len(configurations), "networks")
        experiments = {name: self._experiment(trial) for name, trial in configurations.items()}
        asked = [
            partial(
                self._local.ask,
                "export_untrained",
                experiment=experiment.to_json(),
                classes=list(self.images.classes),
                images=images,
                folder=str(networks),
            )
            for experiment in experiments.values()
        ]
        answers = answers_of(self._local, asked)
        for (configuration, experiment), exported in zip(experiments.items(), answers, strict=True):
            license = license_of(experiment, self.plugins)
            if isinstance(exported, WorkerFailed):
                found[configuration] = DeploymentCost(license=license, failure=exported.reason)
            else:
                found[configuration] = DeploymentCost(license=license, **exported)
            self.progress.advance(1)
        self.progress.stop()
        for line in told_unfit({name: one.unfit for name, one in found.items() if one.unfit}):
            self.progress.warn(line)
        self._local.cancel()  # an idle worker would still take processor time from the networks that are timed
        device = self._experiment(self.trials[0]).device
        latencies = time_networks(networks, device, self.plugins, self.progress)
        found = {configuration: with_latency(one, latencies) for configuration, one in found.items()}
        file = self.folder / COSTS_FILE
        write_json(file, {configuration: one.to_json() for configuration, one in found.items()})
        shutil.rmtree(networks, ignore_errors=True)
        return found

    def _tuned(self, costs: Mapping[str, DeploymentCost], until: float | None, *, leads: bool = True) -> dict[str, Any]:
        """Settings that the search found, by configuration; a configuration without any keeps the study's."""
        largest = max(self.study.fractions)
        experiments = {
            trial.configuration: replace(self._experiment(trial), fraction=largest)
            for trial in reversed(self.trials)
            if not costs[trial.configuration].refused(self.study)
        }
        return tune(
            self.study, self.folder, experiments, self._local, self.progress, place=self.place, until=until, leads=leads
        )
