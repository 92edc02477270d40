"""Studying: carries a study out, trial by trial, in a folder that it goes on from after whatever stopped it.

study.json          what was asked, how it stands
outcomes.jsonl      a line per trial: finished, failed, or refused before it was trained, and why
footprints.json     latency, size and licence of every way to train, known before the first trial
trials/NAME/        the runs
search.db           what the search tried (Optuna)
ledger.jsonl        a line per look at the locked split
leaderboard.json, leaderboard.csv
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.dataset import Images, Sample, absolute, open_images
from zoo.errors import UsageError, ZooError
from zoo.evaluation import compute_metrics
from zoo.files import SCHEMA, append_json, check_schema, read_json, write_bytes, write_json
from zoo.footprint import Footprint, license_of, time_networks, with_latency
from zoo.leaderboard import ENSEMBLE, Entry, Leaderboard, correct, ensemble, interval, rank
from zoo.machine import machine, versions
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.progress import Progress, Silent
from zoo.run import Run, make_folder, now
from zoo.trials import Study, Trial, same_study
from zoo.worker import WorkerFailed, WorkerProcess

STUDY_FILE = "study.json"
OUTCOMES_FILE = "outcomes.jsonl"
FOOTPRINTS_FILE = "footprints.json"
LEDGER_FILE = "ledger.jsonl"
TUNED_FILE = "tuned.json"
LEADERBOARD_FILE = "leaderboard.json"
LOCK_FILE = ".lock"
WORKER = "zoo.trial_worker:Worker"

# What is read of these files; a line or a file without is damaged
OF_AN_OUTCOME = {"name", "backbone", "strategy", "seed", "fraction", "status"}
OF_A_ROW = {"way", "backbone", "strategy", "accuracy", "interval", "winner", "cheapest", "latency", "seconds", "test"}

MOST_AVERAGED = 5  # networks in an ensemble: more seldom help, and each costs its latency
FULL_DISK = "No space left on device"


@dataclass(frozen=True)
class Results:
    """An opened study: its folder, what was asked, and what came out so far."""

    path: Path
    record: dict[str, Any]
    outcomes: tuple[dict[str, Any], ...]

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
        return cls(folder, record, tuple(_outcomes(folder)))

    @property
    def study(self) -> Study:
        return Study.from_json(self.record["study"])

    @property
    def status(self) -> str:
        return str(self.record["status"])

    @property
    def leaderboard(self) -> dict[str, Any]:
        """The content of `leaderboard.json`.

        Raises:
            ZooError: there is none yet.
        """
        file = self.path / LEADERBOARD_FILE
        if not file.is_file():
            raise ZooError(
                f"study `{self.path}` has no leaderboard: no trial is finished", hint=f"`zoo study {self.path}` goes on"
            )
        found: dict[str, Any] = read_json(file)
        rows = found.get("rows") if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) >= OF_A_ROW for row in rows):
            raise ZooError(f"`{file}` is damaged", hint=f"`zoo study {self.path}` writes it anew")
        return found

    @property
    def winners(self) -> list[str]:
        """Ways to train that cannot be told apart from the best, best first."""
        return [str(way) for way in self.leaderboard["winners"]]

    def run(self, outcome: Mapping[str, Any]) -> Run:
        """The run of a finished trial."""
        return Run.open(self.path / "trials" / outcome["name"])

    def looks(self) -> list[dict[str, Any]]:
        """Every look at the locked split."""
        return _lines(self.path / LEDGER_FILE)


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
    with _alone_in(folder):
        session = Session(folder, asked, trials, images, plugins, progress)
        session.begin()
        ended = "interrupted"
        try:
            ended = session.carry_out(retry, None if budget is None else began + budget)
        finally:
            session.stand(ended)
        return session.end()


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
        self.outcomes = {line["name"]: line for line in _outcomes(folder)}
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
        (self.folder / "trials").mkdir(exist_ok=True)

    def carry_out(self, retry: bool, until: float | None) -> str:
        """Every trial that has no outcome yet; returns how it ended."""
        try:
            footprints = self._footprints()
            tuned = self._tuned(footprints, until)
            for number, trial in enumerate(self.trials, start=1):
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
            if self._worker is not None:
                self._worker.close()
        return "finished"

    def stand(self, status: str) -> None:
        """Write how the study stands."""
        write_json(self.folder / STUDY_FILE, {**self.record, "status": status, "ended": now()})

    def end(self) -> Results:
        """Compare what is finished."""
        boards = self._leaderboards()
        if boards:
            first = boards[max(boards)]
            full = first.to_json()
            full["fractions"] = {f"{fraction:g}": board.to_json() for fraction, board in sorted(boards.items())}
            full["ensemble"] = self._ensemble(first)
            full["looks"] = len(_lines(self.folder / LEDGER_FILE))
            write_json(self.folder / LEADERBOARD_FILE, full)
            write_bytes(self.folder / "leaderboard.csv", first.to_csv().encode())
        return Results.open(self.folder)

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
        folder = self.folder / "trials" / trial.name
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
        known = _read_footprints(self.folder)
        if set(ways) <= set(known):
            return known
        file = self.folder / FOOTPRINTS_FILE
        networks = self.folder / "networks"
        networks.mkdir(exist_ok=True)
        found: dict[str, Footprint] = {}
        self.progress.start("weigh networks", len(ways))
        for way, trial in ways.items():
            experiment = self.study.experiment(trial)
            license = license_of(experiment, self.plugins)
            try:
                asked = {"experiment": experiment.to_json(), "classes": list(self.images.classes)}
                found[way] = Footprint(license=license, **self._ask("weigh", **asked, folder=str(networks)))
            except WorkerFailed as failure:
                found[way] = Footprint(license=license, failure=failure.reason)
            self.progress.advance(1)
        self.progress.stop()
        if self._worker is not None:
            self._worker.close()  # it would take processor time from what is timed
            self._worker = None
        device = self.study.experiment(self.trials[0]).device
        latencies = time_networks(sorted(networks.glob("*.onnx")), device, self.plugins)
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

    def _finished(self, fraction: float) -> dict[str, list[tuple[Trial, dict[str, Any]]]]:
        ways: dict[str, list[tuple[Trial, dict[str, Any]]]] = {}
        for trial in self.trials:
            outcome = self.outcomes.get(trial.name)
            if trial.fraction == fraction and outcome is not None and outcome["status"] == "finished":
                ways.setdefault(trial.way, []).append((trial, outcome))
        return ways

    def _run(self, trial: Trial) -> Run:
        return Run.open(self.folder / "trials" / trial.name)

    def _leaderboards(self) -> dict[float, Leaderboard]:
        """By fraction, those of which a trial is finished."""
        footprints = _read_footprints(self.folder)
        boards = {}
        for fraction in self.study.fractions:
            entries = [
                Entry(
                    backbone=some[0][0].backbone,
                    strategy=some[0][0].strategy,
                    seeds=tuple(trial.seed for trial, _ in some),
                    tables=tuple(self._run(trial).predictions() for trial, _ in some),
                    metrics=tuple(outcome["metrics"] for _, outcome in some),
                    seconds=tuple(outcome["seconds"] for _, outcome in some),
                    core_seconds=tuple(outcome["core_seconds"] for _, outcome in some),
                    footprint=footprints.get(way, Footprint()),
                )
                for way, some in self._finished(fraction).items()
            ]
            if entries:
                board = rank(entries)
                rows = tuple(replace(row, test=self._of_test(row.way, fraction)) for row in board.rows)
                boards[float(fraction)] = replace(board, rows=rows)
        return boards

    def _of_test(self, way: str, fraction: float) -> dict[str, Any] | None:
        """Accuracy on the locked split of a way that was scored there, the mean of its seeds."""
        tables = [table for trial, _ in self._finished(fraction)[way] if (table := _of_split(self._run(trial), "test"))]
        if not tables:
            return None
        right = correct(tables)
        return {"accuracy": float(right.mean()), "interval": list(interval(right)), "images": right.shape[1]}

    def _open_lockbox(self) -> None:
        """Score the winners on the locked split, once: a run that was scored there is not scored again."""
        boards = self._leaderboards()
        if not boards or "test" not in self.images.splits:
            return
        fraction = max(boards)
        seen = {look.get("name") for look in _lines(self.folder / LEDGER_FILE)}
        for way in boards[fraction].winners:
            for trial, _ in self._finished(fraction)[way]:
                if trial.name in seen:
                    continue
                try:
                    found = self._ask("score", run=str(self.folder / "trials" / trial.name), split="test")
                except WorkerFailed as failure:
                    self.progress.warn(f"{way} seed {trial.seed} could not be scored on `test`: {failure.reason}")
                    continue
                append_json(
                    self.folder / LEDGER_FILE,
                    {"schema": SCHEMA, "time": now(), "split": "test", "name": trial.name, **vars(trial), **found},
                )

    def _ensemble(self, board: Leaderboard) -> dict[str, Any] | None:
        """The mean of one network of each winner, where it is better on what is chosen on than the best of them."""
        fraction, members = max(self.study.fractions), list(board.winners)[:MOST_AVERAGED]
        trials = [self._finished(fraction)[way][0][0] for way in members if way in self._finished(fraction)]
        if len(trials) < 2:
            return None
        table = ensemble([self._run(trial).predictions() for trial in trials])
        metrics = compute_metrics(table, self.plugins)
        latencies = [row.latency for row in board.rows if row.way in members]
        test = [_of_split(self._run(trial), "test") for trial in trials]
        scored = [one for one in test if one is not None]
        found: dict[str, Any] = {
            "name": ENSEMBLE,
            "members": members,
            "helps": (metrics["accuracy"] or 0.0) > board.rows[0].accuracy,
            "metrics": metrics,
            "interval": list(interval(correct([table]))),
            "latency": sum(one[0] for one in latencies if one) if all(latencies) else None,
            "test": None,
        }
        if len(scored) == len(trials):
            right = correct([ensemble(scored)])
            found["test"] = {"accuracy": float(right.mean()), "interval": list(interval(right))}
        return found


def _read_footprints(folder: Path) -> dict[str, Footprint]:
    """Those that are known already; none of a file that is damaged, so that networks are weighed anew."""
    try:
        return {way: Footprint.from_json(one) for way, one in read_json(folder / FOOTPRINTS_FILE).items()}
    except (ZooError, AttributeError, KeyError, TypeError):
        return {}


def _of_split(run: Run, split: str) -> Predictions | None:
    return run.predictions(split) if (run.path / f"predictions-{split}.safetensors").is_file() else None


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


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the study's folder; a killed process lets go of it.

    Raises:
        ZooError: another process holds it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ZooError(f"another process is carrying out the study in `{folder}`", hint="wait for it") from error
    except OSError as error:
        raise ZooError(f"`{folder}` cannot be written: {error.strerror}", hint="pass another `--out`") from error
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            (folder / LOCK_FILE).unlink(missing_ok=True)


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


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    """Outcomes that say of which trial they are and how it ended; a trial without is carried out, or found finished."""
    return [line for line in _lines(folder / OUTCOMES_FILE) if set(line) >= OF_AN_OUTCOME]


def _lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines of a file; what a kill cut short is left out."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found
