"""Hyperparameter search: find better settings for one configuration with Optuna, by the validation loss alone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DiskFull, ZooError, first_line
from zoo.experiment import DEFAULT_EPOCHS, Experiment
from zoo.progress import Silent

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial

    from zoo.plugin import Plugins

DATABASE = "search.db"
STARTUP = 4  # Optuna trials before the median prunes, and before results guide the sampler

# Bounds of the learning rate, as a factor of the default: below a tenth of it a network hardly changes, above ten times
# it training diverges
RATE_FACTOR = 10.0
DECAYS = (1e-4, 0.3)
AUGMENTS = ("none", "light", "trivial")
EPOCHS = (2, 12)


class _OptunaProgress(Silent):
    """Reports the validation loss to Optuna after each epoch, and ends a run that is worse than the median."""

    def __init__(self, trial: OptunaTrial) -> None:
        self.trial, self.count = trial, 0

    def epoch(self, record: dict[str, Any]) -> None:
        from optuna import TrialPruned

        loss = record.get("choice_loss")
        if loss is not None:
            self.count += 1
            self.trial.report(loss, self.count)
            if self.trial.should_prune():
                raise TrialPruned


def search(
    experiment: Experiment, given: Collection[str], count: int, folder: Path, seconds: float | None, plugins: Plugins
) -> dict[str, Any]:
    """Search learning rate, weight decay, augmentation and number of epochs by the loss on `val`, or over all folds.

    For a head that is solved, options of its strategy and the norm policy are searched instead.

    Optuna trials are kept in `search.db` and are not repeated by a later session.

    Args:
        experiment: what is trained; its other settings stay as they are.
        given: names of settings that the user gave, which are not searched.
        count: Optuna trials in all.
        folder: the study's folder.
        seconds: time after which no further Optuna trial begins. None: no limit.
        plugins: loaded plugins.

    Returns:
        The best `settings` (None: no trial was completed, or nothing can be searched) with their `loss`, and how many
        were `tried` and `pruned`; or a `note` that says why nothing was searched.

    Raises:
        ZooError: Optuna is not installed, or its database is locked or damaged.
    """
    try:
        import optuna
        from optuna.trial import TrialState as OptunaState
    except ImportError as error:
        raise ZooError("the search needs Optuna", hint="pip install 'backbone-zoo[study]'") from error
    from sqlalchemy.exc import SQLAlchemyError

    from zoo.config.grammar import parse
    from zoo.studies.solved_space import solved_space
    from zoo.training.entry import train
    from zoo.training.setup import build, plan_phases, resolve

    setup = resolve(experiment, plugins)
    network = build(setup, experiment, classes=2, pretrained=False)
    phases = plan_phases(setup, network, experiment).phases
    solved = None
    if all(phase.solver for phase in phases):
        solved = solved_space(setup.plan, network.model, experiment, given)
        if not solved.values:
            return {"settings": None, "note": "its head is solved, and has no settings to search that were not given"}
    counted = any(
        phase.epochs is not None for phase in parse(experiment.strategy, plugins.strategies).phases(network.anatomy)
    )
    rate = Experiment.lr
    assert isinstance(rate, float)
    start = {"lr": rate, "weight_decay": experiment.weight_decay, "augment": experiment.augment}
    start |= {} if counted else {"epochs": DEFAULT_EPOCHS}
    start = {key: value for key, value in start.items() if key not in given}
    if solved is not None:
        start = solved.combinations(experiment.seed)[0]
        count = min(count, len(solved.combinations(experiment.seed)))
    if not start:
        return {"settings": None, "note": "every setting that it would search was given"}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"{setup.backbone.qualified} {setup.plan}"
    runs = folder / "search" / hashlib.sha256(name.encode()).hexdigest()[:16]

    def objective(trial: OptunaTrial) -> float:
        asked: dict[str, Callable[[], Any]] = {
            "lr": lambda: trial.suggest_float("lr", rate / RATE_FACTOR, rate * RATE_FACTOR, log=True),
            "weight_decay": lambda: trial.suggest_float("weight_decay", *DECAYS, log=True),
            "augment": lambda: trial.suggest_categorical("augment", AUGMENTS),
            "epochs": lambda: trial.suggest_int("epochs", *EPOCHS),
        }
        settings = {key: draw() for key, draw in asked.items() if key in start}
        if solved is not None:
            chosen = {key: trial.suggest_categorical(key, values) for key, values in solved.values.items()}
            settings = solved.settings(chosen)
        out = runs / str(trial.number)
        # of folds, only the whole counts, and a solved head has no epochs
        progress = _OptunaProgress(trial) if experiment.folds is None and solved is None else Silent()
        try:
            run = train(
                replace(experiment, **settings, callback=()), out=out, force=True, plugins=plugins, progress=progress
            )
            loss = run.metrics.get("loss")
            if loss is None:
                raise ZooError("metric `loss`, which the search compares, failed")
            return float(loss)
        except DiskFull:
            raise
        except ZooError as error:
            trial.set_user_attr("failure", error.message)
            raise optuna.TrialPruned from error  # such as a diverged run: counts like one worse than the median
        finally:
            shutil.rmtree(out, ignore_errors=True)

    try:
        found = optuna.create_study(
            storage=f"sqlite:///{folder / DATABASE}",
            study_name=name,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=experiment.seed, n_startup_trials=STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        )
        if not found.trials:
            for one in [start] if solved is None else solved.combinations(experiment.seed):
                found.enqueue_trial(one)  # the defaults are tried first
        for stale in found.get_trials(states=[OptunaState.RUNNING]):  # a session was killed during it: it is repeated
            found.tell(stale.number, state=OptunaState.FAIL)
            found.enqueue_trial(stale.params or start)
        ended = found.get_trials(states=[OptunaState.COMPLETE, OptunaState.PRUNED])
        if len(ended) < count:
            found.optimize(objective, n_trials=count - len(ended), timeout=seconds)
        completed = found.get_trials(states=[OptunaState.COMPLETE])
        pruned = len(found.get_trials(states=[OptunaState.PRUNED]))
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ZooError(
            f"`{folder / DATABASE}` cannot be used: {first_line(error)}",
            hint="another program uses it, or it is damaged: close that program, or delete the file to search again",
        ) from error
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    best = found.best_trial if completed else None
    params = dict(best.params) if best is not None else None
    return {
        "settings": params if params is None or solved is None else solved.settings(params),
        "loss": best.value if best is not None else None,
        "tried": len(completed) + pruned,
        "pruned": pruned,
    }
