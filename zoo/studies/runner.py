"""Studying: carries a study out, trial by trial, in a folder that it goes on from after whatever stopped it.

What the folder holds stands in `zoo.studies.results`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.data.opening import absolute, open_images
from zoo.dataset import Images, Sample
from zoo.errors import UsageError, ZooError
from zoo.plugin import Plugins
from zoo.progress import Progress, Silent
from zoo.runs.run import make_folder, now
from zoo.storage.files import FULL_DISK, SCHEMA, append_json, read_json, write_json
from zoo.storage.folder_lock import alone_in
from zoo.studies.deployment_cost import Footprint, license_of, time_networks, with_latency
from zoo.studies.results import (
    CSV_FILE,
    FOOTPRINTS_FILE,
    LEADERBOARD_FILE,
    LEDGER_FILE,
    OUTCOMES_FILE,
    STUDY_FILE,
    TRIALS,
    TUNED_FILE,
    Results,
)
from zoo.studies.study import Study, Trial, same_study
from zoo.system.environment import machine, versions
from zoo.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "zoo.studies.trial_worker:Worker"


def study(
    asked: Study | Path | str,
    *,
    out: Path | str | None = None,
    retry: bool = False,
    time_budget: float | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Results:
    """Carry a study out, or go on with the one in the folder `out`, or `asked`, where it was stopped.

    A trial that fails is an outcome, and is not tried again unless `retry`. `time_budget` of a folder that goes on
    takes the place of the study's own.

    Raises:
        UsageError: names or settings are wrong, or the folder holds another study.
        ZooError: the data are not usable, or the folder cannot be written.
    """
    plugins, progress = plugins or Plugins(), progress or Silent()
    if not isinstance(asked, Study):
        folder = Path(asked)
        asked = Results.open(folder).study
    else:
        asked = replace(asked, data=absolute(asked.data))  # so that it goes on from anywhere
        folder = Path(out).expanduser() if out is not None else _default_folder()
    budget = time_budget if time_budget is not None else asked.time_budget
    began = time.monotonic()
    trials = asked.trials(plugins)
    _check_folder(folder, asked)
    images = open_images(asked.experiment(trials[0]).data, asked.experiment(trials[0]).split_seed, plugins)
    for line in images.notes:
        progress.note(line)
    _check_apart(images, progress)
    make_folder(folder)
    with alone_in(folder, "carrying out the study in", "wait for it"):
        session = Session(folder, asked, trials, images, plugins, progress)
        session.begin()
        ended = "interrupted"
        try:
            ended = session.carry_out(retry, None if budget is None else began + budget)
        finally:
            session.stand(ended)
        results = Results.open(folder)
        results.write_leaderboard(plugins)
        return results


class Session:
    """One sitting of a study; all that it knows is in the folder."""

    def __init__(
        self,
        folder: Path,
        asked: Study,
        trials: tuple[Trial, ...],
        images: Images,
        plugins: Plugins,
        progress: Progress,
    ) -> None:
        self.folder, self.study, self.trials, self.images = folder, asked, trials, images
        self.plugins, self.progress = plugins, progress
        self.outcomes: dict[str, dict[str, Any]] = {}
        self._worker: WorkerProcess | None = None

    def begin(self) -> None:
        file = self.folder / STUDY_FILE
        before = read_json(file) if file.is_file() else {"created": now()}
        self.record = {
            "schema": SCHEMA,
            **before,
            "study": json.loads(json.dumps(self.study.to_json())),
            "status": "running",
            "data_name": self.images.name,
            "classes": list(self.images.classes),
            "images": {role: len(samples) for role, samples in self.images.splits.items()},
            "notes": list(self.images.notes),
            "trials": len(self.trials),
            "machine": machine(),
            "versions": versions(),
        }
        write_json(file, self.record)
        (self.folder / TRIALS).mkdir(exist_ok=True)
        for name in (LEADERBOARD_FILE, CSV_FILE):  # of the session before; while this one goes on they would be old
            (self.folder / name).unlink(missing_ok=True)
        self._read_outcomes()

    def _read_outcomes(self) -> None:
        """Outcomes so far; a finished trial whose run is missing or damaged counts as not begun."""
        results = Results.open(self.folder)
        for outcome in results.outcomes:
            if outcome["status"] == "finished":
                try:
                    results.run(outcome).predictions()
                except ZooError as error:
                    self.progress.warn(f"{outcome['name']} is trained again: {error.message}")
                    continue
            self.outcomes[outcome["name"]] = outcome

    def carry_out(self, retry: bool, until: float | None) -> str:
        """Every trial that has no outcome yet; returns how it ended."""
        try:
            footprints = self._footprints()
            tuned = self._tuned(footprints, until)
            self.progress.start("trials", len(self.trials), "trials")
            for number, trial in enumerate(self.trials, start=1):
                self.progress.advance(int(number > 1))  # the one before is done
                before = self.outcomes.get(trial.name)
                if before is not None and not (retry and before["status"] == "failed"):
                    continue
                why = footprints[trial.way].refused(self.study)
                if not why and until is not None and time.monotonic() > until:
                    return "out of time"
                self._note(trial, {"status": "refused", "failure": why} if why else self._train(trial, tuned), number)
            if self.study.test:
                self._open_lockbox()
        finally:
            self.progress.stop()
            if self._worker is not None:
                self._worker.close()
        return "finished"

    def stand(self, status: str) -> None:
        """Write how the study stands."""
        write_json(self.folder / STUDY_FILE, {**self.record, "status": status, "ended": now()})

    # trials

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Have the worker do something; a new one takes the place of one that died.

        Raises:
            WorkerFailed: it could not be done.
            ZooError: the disk is full, which no other trial would mend.
        """
        if self._worker is None:
            self._worker = WorkerProcess(WORKER)
        try:
            return self._worker.ask(do, timeout=None, **request)
        except WorkerFailed as failure:
            if not self._worker.alive:
                self._worker.close()
                self._worker = None
            if FULL_DISK in failure.reason:
                raise ZooError(
                    failure.reason, hint=f"make room; `zoo study {self.folder}` then goes on where it was"
                ) from failure
            raise

    def _train(self, trial: Trial, tuned: dict[str, Any]) -> dict[str, Any]:
        settings = tuned.get(trial.way, {}).get("settings")
        folder = self.folder / TRIALS / trial.name
        try:
            done = self._ask("train", experiment=self.study.experiment(trial, settings).to_json(), folder=str(folder))
        except WorkerFailed as failure:
            return {"status": "failed", "failure": failure.reason, "hint": failure.hint, "log": failure.log[-2000:]}
        return {"status": "finished", **done, **({"tuned": settings} if settings else {})}

    def _note(self, trial: Trial, outcome: dict[str, Any], number: int) -> None:
        line = {**vars(trial), "name": trial.name, "time": now(), **outcome}
        append_json(self.folder / OUTCOMES_FILE, line)
        self.outcomes[trial.name] = line
        words = f"{number}/{len(self.trials)} {trial.way} seed {trial.seed}"
        words += f" fraction {trial.fraction:g}" if len(self.study.fractions) > 1 else ""
        if outcome["status"] == "finished":
            accuracy = outcome["metrics"].get("accuracy")
            self.progress.note(f"{words}: accuracy {accuracy:.4f}, {outcome['seconds']:.0f} s")
        elif outcome["status"] == "refused":
            self.progress.note(f"{words}: not trained: {outcome['failure']}")
        else:
            self.progress.warn(f"{words} failed: {outcome['failure']}")

    # before the trials

    def _footprints(self) -> dict[str, Footprint]:
        """Of every way to train: written as a file with random weights, and timed, before anything is trained."""
        ways = {trial.way: trial for trial in self.trials}
        known = Results.open(self.folder).footprints
        if set(ways) <= set(known):
            return known
        file = self.folder / FOOTPRINTS_FILE
        networks = self.folder / "networks"
        networks.mkdir(exist_ok=True)
        found: dict[str, Footprint] = {}
        images = round(len(self.images.splits["train"]) * max(self.study.fractions))
        self.progress.start("weigh networks", len(ways), "networks")
        for way, trial in ways.items():
            experiment = self.study.experiment(trial)
            license = license_of(experiment, self.plugins)
            try:
                weighed = self._ask(
                    "weigh",
                    experiment=experiment.to_json(),
                    classes=list(self.images.classes),
                    images=images,
                    folder=str(networks),
                )
                found[way] = Footprint(license=license, **weighed)
                if found[way].unfit:
                    self.progress.warn(f"{way} will not be trained: {found[way].unfit}")
            except WorkerFailed as failure:
                found[way] = Footprint(license=license, failure=failure.reason)
            self.progress.advance(1)
        self.progress.stop()
        if self._worker is not None:
            self._worker.close()  # it would take processor time from what is timed
            self._worker = None
        device = self.study.experiment(self.trials[0]).device
        latencies = time_networks(networks, device, self.plugins)
        found = {way: with_latency(one, latencies) for way, one in found.items()}
        write_json(file, {way: one.to_json() for way, one in found.items()})
        shutil.rmtree(networks, ignore_errors=True)
        return found

    def _tuned(self, footprints: dict[str, Footprint], until: float | None) -> dict[str, Any]:
        """Settings that the search found, by way to train; those without stay at the study's."""
        file = self.folder / TUNED_FILE
        found: dict[str, Any] = read_json(file) if file.is_file() else {}
        if not self.study.search:
            return found
        for way, trial in {trial.way: trial for trial in reversed(self.trials)}.items():
            if way in found or footprints[way].refused(self.study):
                continue
            left = None if until is None else max(until - time.monotonic(), 1.0)
            experiment = replace(self.study.experiment(trial), fraction=max(self.study.fractions))
            try:
                found[way] = self._ask(
                    "search",
                    experiment=experiment.to_json(),
                    given=list(self.study.settings),
                    count=self.study.search,
                    folder=str(self.folder),
                    seconds=left,
                )
            except WorkerFailed as failure:
                found[way] = {"settings": None, "failure": failure.reason}
                self.progress.warn(f"search {way} failed: {failure.reason}")
            write_json(file, found)
            self.progress.note(f"search {way}: {found[way].get('note') or found[way].get('settings')}")
        return found

    # after the trials

    def _open_lockbox(self) -> None:
        """Score the winners on the locked split: each of their runs once, for as long as it is that run."""
        results = Results.open(self.folder)
        boards = results.boards()
        if not boards or "test" not in self.images.splits:
            return
        largest = max(boards)
        seen = {look.get("run") for look in results.looks()}
        for way in boards[largest].winners:
            for outcome in results.finished(largest)[way]:
                run = results.run(outcome)
                if run.record.get("id") in seen and (run.path / "predictions-test.safetensors").is_file():
                    continue
                try:
                    found = self._ask("score", run=str(run.path), split="test")
                except WorkerFailed as failure:
                    self.progress.warn(f"{way} seed {outcome['seed']} could not be scored on `test`: {failure.reason}")
                    continue
                kept = {name: outcome[name] for name in ("name", "backbone", "strategy", "seed", "fraction")}
                look = {"schema": SCHEMA, "time": now(), "split": "test", "run": run.record.get("id"), **kept, **found}
                append_json(self.folder / LEDGER_FILE, look)


def _default_folder() -> Path:
    first = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-study"
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())


def _check_folder(folder: Path, asked: Study) -> None:
    """Whether the study may be carried out there: nothing is there, or this very study is.

    Raises:
        UsageError: something else is.
    """
    if (folder / STUDY_FILE).is_file():
        differ = same_study(Results.open(folder).record["study"], json.loads(json.dumps(asked.to_json())))
        if differ:
            raise UsageError(
                f"`{folder}` holds another study, which differs in `{'`, `'.join(differ)}`",
                hint="pass another `--out`, or go on with that one by `zoo study FOLDER`",
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"`{folder}` exists and is no study", hint="pass another `--out`")


def _check_apart(images: Images, progress: Progress) -> None:
    """No photograph of the locked split is in another one, by its content.

    Raises:
        ZooError: one is.
    """
    seen: dict[str, tuple[str, str]] = {}
    overlaps: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for role in ("train", "val", "test"):
        for sample, digest in _digests(images.splits.get(role, ())):
            before = seen.setdefault(digest, (role, sample.id))
            if before[0] != role:
                overlaps.setdefault((before[0], role), []).append((before[1], sample.id))
    for (first, second), pairs in overlaps.items():
        words = f"`{pairs[0][1]}` of {second} is `{pairs[0][0]}` of {first} once more ({len(pairs)} such)"
        if second == "test":
            raise ZooError(f"test overlaps {first}: {words}", hint="delete one of the two; by their content, not names")
        progress.warn(f"{second} overlaps {first}: {words}; what is chosen on it is too sure of itself")


def _digests(samples: Iterable[Sample]) -> Iterator[tuple[Sample, str]]:
    for sample in samples:
        try:
            data = sample.source.read_bytes() if isinstance(sample.source, Path) else sample.source.tobytes()
        except OSError:
            continue  # the scan names it
        yield sample, hashlib.sha256(data).hexdigest()
