"""Hyperparameter search: find better settings for one configuration with Optuna, by the validation loss alone."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DiskFull, Pruned, ZooError, counted, type_and_first_line
from zoo.experiment import DEFAULT_EPOCHS, Experiment
from zoo.progress import Silent
from zoo.runs.run import Run
from zoo.studies.pruners import make_pruner
from zoo.studies.search_storage import SearchPlace
from zoo.studies.search_trial import (
    EPOCHS_SEEN,
    FAILURE,
    SEARCH,
    SECONDS,
    best_of,
    finished_loss,
    strip_run,
    write_search_file,
)
from zoo.studies.trial import TrialState, can_continue

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial
    from optuna.samplers import BaseSampler

    from zoo.plugin import Plugins
    from zoo.studies.search_queue import Claim
    from zoo.studies.solved_space import SolvedSpace

DATABASE = "search.db"
STARTUP = 4  # trials before results guide the sampler

# Bounds of the learning rate, as a factor of the default: below a tenth of it a network hardly changes, above ten times
# it training diverges
RATE_FACTOR = 10.0
DECAYS = (1e-4, 0.3)
AUGMENTS = ("none", "light", "trivial")
EPOCHS = (2, 12)

# Settings that may differ between machines that search together: where files are, and what changes no figure
OF_A_MACHINE = ("data", "exclude", "device", "workers", "cache", "engine", "save_every", "callback", "backbone")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is searched for one configuration.

    Attributes:
        start: The settings that are tried first.
        solved: What is searched for a head that is solved, instead. None: it is trained by steps.
        most_epochs: Epochs of the longest trial.
    """

    start: Mapping[str, Any]
    solved: SolvedSpace | None
    most_epochs: int

    def first(self, seed: int) -> list[dict[str, Any]]:
        """Values of the first trials; of a solved head, of all."""
        return [dict(self.start)] if self.solved is None else self.solved.combinations(seed)

    def draw(self, trial: OptunaTrial) -> dict[str, Any]:
        """Settings for a trial."""
        if self.solved is not None:
            return self.solved.settings(
                {key: trial.suggest_categorical(key, values) for key, values in self.solved.values.items()}
            )
        rate = _default_rate()
        asked: dict[str, Callable[[], Any]] = {
            "lr": lambda: trial.suggest_float("lr", rate / RATE_FACTOR, rate * RATE_FACTOR, log=True),
            "weight_decay": lambda: trial.suggest_float("weight_decay", *DECAYS, log=True),
            "augment": lambda: trial.suggest_categorical("augment", AUGMENTS),
            "epochs": lambda: trial.suggest_int("epochs", *EPOCHS),
        }
        return {key: draw() for key, draw in asked.items() if key in self.start}

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of an experiment for Optuna's parameters."""
        return dict(params) if self.solved is None else self.solved.settings(params)

    def to_json(self) -> dict[str, Any]:
        """What sessions that search together must agree on."""
        if self.solved is not None:
            return {name: list(values) for name, values in self.solved.values.items()}
        ranges = {
            "lr": [_default_rate() / RATE_FACTOR, _default_rate() * RATE_FACTOR],
            "weight_decay": list(DECAYS),
            "augment": list(AUGMENTS),
            "epochs": list(EPOCHS),
        }
        return {name: ranges[name] for name in self.start}


class _Reports(Silent):
    """Reports the validation loss after each epoch, and ends a training that the pruner gives up."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def epoch(self, record: dict[str, Any]) -> None:
        loss = record.get("choice_loss")
        if loss is not None and self.claim.should_prune(int(record["epoch"]), float(loss)):
            raise Pruned(f"other settings were ahead after {counted(int(record['epoch']), 'epoch')}")


def search(
    experiment: Experiment,
    given: Collection[str],
    count: int,
    folder: Path,
    seconds: float | None,
    plugins: Plugins,
    *,
    pruner: str = "median",
    place: SearchPlace | None = None,
    session: str = "",
) -> dict[str, Any]:
    """Search learning rate, weight decay, augmentation and number of epochs by the loss on `val`, or over all folds.

    For a head that is solved, options of its strategy and the norm policy are searched instead.

    Optuna's trials are kept, in `search.db` or in `place`, and are not repeated by a later session. The folder of a
    trial decides its outcome: one that is finished there is told, and not trained again.

    Args:
        experiment: what is trained; its other settings stay as they are.
        given: names of settings that the user gave, which are not searched.
        count: Optuna trials in all.
        folder: the study's folder.
        seconds: time after which no further Optuna trial begins. None: no limit.
        plugins: loaded plugins.
        pruner: one of `zoo.studies.pruners`. Of folds, and for solved heads, nothing is pruned.
        place: a storage that other sessions may share. None: the folder's own.
        session: a text that all processes of this session have, and no other.

    Returns:
        The best `settings` (None: no trial was completed, or nothing can be searched) with their `loss`, how many were
        `tried`, and of them `pruned` and `failed`, and all `trials`; or a `note` that says why nothing was searched.

    Raises:
        StorageLost: the storage cannot be used, or holds another search of this name.
        ZooError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ZooError("the search needs Optuna", hint="pip install 'backbone-zoo[study]'") from error
    from zoo.studies.search_queue import SearchQueue
    from zoo.training.setup import resolve

    setup = resolve(experiment, plugins)
    space = _space(experiment, given, plugins)
    if isinstance(space, str):
        return {"settings": None, "note": space}
    if space.solved is not None:
        count = min(count, len(space.first(experiment.seed)))
    name = f"{setup.backbone.qualified} {setup.plan}"
    runs = search_folder(folder, name)
    runs.mkdir(parents=True, exist_ok=True)
    seed = experiment.seed

    def sampler(number: int) -> BaseSampler:
        """By the trial's number, so that sessions that search together do not draw the same."""
        mixed = int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4])
        return optuna.samplers.TPESampler(seed=mixed, n_startup_trials=STARTUP)

    shown = "" if place is None else place.shown
    write_search_file(runs, configuration=name, trials=count, pruner=pruner, storage=shown)
    queue = SearchQueue(
        f"sqlite:///{folder / DATABASE}" if place is None else place.storage,
        name if place is None else f"{place.name}: {_shortened(name)}",
        folder=runs,
        identity={} if place is None else _identity(experiment, space, count, pruner, plugins),
        first=space.first(seed),
        count=count,
        pruner=make_pruner(pruner, space.most_epochs),
        sampler=sampler,
        session=session,
        grace=None if place is None else place.grace,
    )
    until = None if seconds is None else time.monotonic() + seconds
    try:
        while until is None or time.monotonic() < until:
            claim = queue.claim()
            if claim is not None:
                with claim:
                    _train(claim, experiment, space, runs / str(claim.number), plugins)
            elif len(queue.table()) >= count:
                break
            else:
                time.sleep(queue.poll)  # others train the last ones
        table = queue.table()
    finally:
        queue.close()
    for one in table:
        strip_run(runs / str(one.number))
    best = best_of(table)
    states = [one.state for one in table]
    return {
        "settings": None if best is None else space.settings(best.params),
        "loss": None if best is None else best.loss,
        "tried": len(table),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAILED),
        "pruner": pruner,
        "trials": [one.to_json() for one in table],
    }


def search_folder(study: Path, configuration: str) -> Path:
    """The folder of a study that has the runs of a search."""
    return study / SEARCH / hashlib.sha256(configuration.encode()).hexdigest()[:16]


def _train(claim: Claim, experiment: Experiment, space: SearchSpace, out: Path, plugins: Plugins) -> None:
    """Train a claimed trial, or go on with its run that is in the folder, and tell its outcome."""
    from optuna.trial import TrialState as OptunaState

    from zoo.studies.search_queue import MOST_DEATHS, ClaimLost, dead_words
    from zoo.training.entry import resume, train

    settings = claim.sample(space.draw)
    asked = replace(experiment, **settings, callback=())
    if not _is_of(out, settings):
        _set_aside(out)
    loss = finished_loss(out)
    # of folds, only the whole counts, and a solved head has no epochs
    reports = _Reports(claim) if experiment.folds is None and space.solved is None else Silent()
    state, began = OptunaState.PRUNED, time.monotonic()
    attrs: dict[str, Any] = {}
    try:
        if loss is None and _status(out) != "pruned":
            if claim.deaths >= MOST_DEATHS:
                claim.tell(OptunaState.FAIL, attrs={FAILURE: dead_words(claim.deaths)})
                return
            if can_continue(out):
                run = resume(out, force=True, plugins=plugins, progress=reports)
            else:
                shutil.rmtree(out, ignore_errors=True)
                run = train(asked, out=out, force=True, plugins=plugins, progress=reports)
            found = run.metrics.get("loss")
            if found is None or math.isnan(float(found)):
                raise ZooError("metric `loss`, which the search compares, failed")
            loss = float(found)
            attrs[SECONDS] = round(time.monotonic() - began, 2)
    except (DiskFull, ClaimLost) as error:
        if isinstance(error, DiskFull):
            raise
        return
    except Pruned:
        attrs[SECONDS] = round(time.monotonic() - began, 2)
    except ZooError as error:  # such as a diverged run: to the sampler it is one of the worst
        attrs[FAILURE] = error.message
    except Exception as error:
        traceback.print_exc()
        attrs[FAILURE] = type_and_first_line(error)
    attrs[EPOCHS_SEEN] = max(_epochs_done(out), claim.last_step)
    if loss is not None and FAILURE not in attrs:
        state = OptunaState.COMPLETE
    if claim.tell(state, loss if state is OptunaState.COMPLETE else None, attrs):
        strip_run(out)


def _set_aside(out: Path) -> None:
    """Make room for a run of other settings; one that has ended is kept beside it, such as where a storage was lost."""
    if _status(out) in ("finished", "pruned"):
        out.rename(out.with_name(f"{out.name}-{secrets.token_hex(4)}"))
    else:
        shutil.rmtree(out, ignore_errors=True)


def _status(out: Path) -> str:
    try:
        return Run.open(out).status
    except ZooError:
        return ""


def _epochs_done(out: Path) -> int:
    """Epochs of the run in a folder whose loss on the validation images is known."""
    try:
        return sum("choice_loss" in line for line in Run.open(out).history)
    except ZooError:
        return 0


def _is_of(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the run in a folder has these settings; a storage that was deleted gives others to the same number."""
    try:
        found = Run.open(out).experiment
    except ZooError:
        return False
    return all(getattr(found, name) == value for name, value in settings.items())


def _space(experiment: Experiment, given: Collection[str], plugins: Plugins) -> SearchSpace | str:
    """What is searched, or why nothing can be."""
    from zoo.config.grammar import parse
    from zoo.studies.solved_space import solved_space
    from zoo.training.setup import build, plan_phases, resolve

    setup = resolve(experiment, plugins)
    network = build(setup, experiment, classes=2, pretrained=False)
    planned = plan_phases(setup, network, experiment)
    if all(phase.solver for phase in planned.phases):
        solved = solved_space(setup.plan, network.model, experiment, given)
        if not solved.values:
            return "its head is solved, and has no settings to search that were not given"
        return SearchSpace(start=solved.combinations(experiment.seed)[0], solved=solved, most_epochs=1)
    counted = any(
        phase.epochs is not None for phase in parse(experiment.strategy, plugins.strategies).phases(network.anatomy)
    )
    start = {"lr": _default_rate(), "weight_decay": experiment.weight_decay, "augment": experiment.augment}
    start |= {} if counted else {"epochs": DEFAULT_EPOCHS}
    start = {key: value for key, value in start.items() if key not in given}
    if not start:
        return "every setting that it would search was given"
    most = EPOCHS[1] if "epochs" in start else max(1, sum(planned.epochs))
    return SearchSpace(start=start, solved=None, most_epochs=most)


def _default_rate() -> float:
    rate = Experiment.lr
    assert isinstance(rate, float)
    return rate


def _identity(experiment: Experiment, space: SearchSpace, count: int, pruner: str, plugins: Plugins) -> dict[str, Any]:
    """What sessions that search together must agree on, as JSON: settings, images, versions, and what is searched."""
    from zoo.storage.files import json_text
    from zoo.studies.machine_state import machine_state

    settings = {name: value for name, value in experiment.to_json().items() if name not in OF_A_MACHINE}
    for name in space.start:
        settings.pop(name, None)
    excluded = None
    if experiment.exclude is not None and Path(experiment.exclude).is_file():
        excluded = hashlib.sha256(Path(experiment.exclude).read_bytes()).hexdigest()
    state = machine_state(experiment, plugins)
    whole = {
        **settings,
        **{f"version of {name}": version for name, version in state["versions"].items()},
        "exclude": excluded,
        "images": state["images"],
        "searched": space.to_json(),
        "search": count,
        "pruner": pruner,
    }
    found: dict[str, Any] = json.loads(json_text(whole))
    return found


def _shortened(name: str) -> str:
    """A name of at most 300 characters: databases bound it."""
    return name if len(name) <= 300 else f"{name[:280]} {hashlib.sha256(name.encode()).hexdigest()[:16]}"
