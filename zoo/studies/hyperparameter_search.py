"""Search: better settings for one way to train, by Optuna, on what may be chosen on and nothing else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DiskFull, ZooError
from zoo.experiment import DEFAULT_EPOCHS, Experiment
from zoo.progress import Silent

if TYPE_CHECKING:
    from optuna import Trial

    from zoo.plugin import Plugins

DATABASE = "search.db"
STARTUP = 4  # trials before the median prunes, and before what was seen guides

# Bounds of rates, around the default: a network that is trained further than a tenth or ten times off it
# either does not move or comes apart
RATE_FACTOR = 10.0
DECAYS = (1e-4, 0.3)
AUGMENTS = ("none", "light", "trivial")
EPOCHS = (2, 12)


class _Watched(Silent):
    """Tells Optuna the loss on val after each epoch, and stops what is worse than the median."""

    def __init__(self, trial: Trial) -> None:
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
    """Try `count` settings of an experiment: rate, weight decay, augmentation, epochs; by the loss on `val`.

    Those of them that were `given` stay as they are.

    What was tried stands in `search.db` and is not tried again. Returns the best `settings` (None: the experiment's
    own are the best, or nothing can be searched), and how many were tried and pruned.

    Raises:
        ZooError: Optuna is not installed, or its database is locked or damaged.
    """
    try:
        import optuna
        from optuna.trial import TrialState
    except ImportError as error:
        raise ZooError("the search needs Optuna", hint="pip install 'backbone-zoo[study]'") from error
    from sqlalchemy.exc import SQLAlchemyError

    from zoo.config.grammar import parse
    from zoo.training.session import train
    from zoo.training.setup import build, plan_phases, resolve

    setup = resolve(experiment, plugins)
    network = build(setup, experiment, classes=2, pretrained=False)
    phases = plan_phases(setup, network, experiment).phases
    if all(phase.solver for phase in phases):
        return {"settings": None, "note": "its head is solved, so it has no settings to search"}
    counted = any(
        phase.epochs is not None for phase in parse(experiment.strategy, plugins.strategies).phases(network.anatomy)
    )
    rate = Experiment.lr
    assert isinstance(rate, float)
    start = {"lr": rate, "weight_decay": experiment.weight_decay, "augment": experiment.augment}
    start |= {} if counted else {"epochs": DEFAULT_EPOCHS}
    start = {key: value for key, value in start.items() if key not in given}
    if not start:
        return {"settings": None, "note": "all that it would search was given"}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"{setup.backbone.qualified} {setup.plan}"
    tries = folder / "search" / hashlib.sha256(name.encode()).hexdigest()[:16]

    def objective(trial: Trial) -> float:
        asked: dict[str, Callable[[], Any]] = {
            "lr": lambda: trial.suggest_float("lr", rate / RATE_FACTOR, rate * RATE_FACTOR, log=True),
            "weight_decay": lambda: trial.suggest_float("weight_decay", *DECAYS, log=True),
            "augment": lambda: trial.suggest_categorical("augment", AUGMENTS),
            "epochs": lambda: trial.suggest_int("epochs", *EPOCHS),
        }
        settings = {key: draw() for key, draw in asked.items() if key in start}
        out = tries / str(trial.number)
        try:
            run = train(replace(experiment, **settings), out=out, force=True, plugins=plugins, progress=_Watched(trial))
            return float(run.metrics["loss"])
        except DiskFull:
            raise
        except ZooError as error:
            trial.set_user_attr("failure", error.message)
            raise optuna.TrialPruned from error  # it diverged: as bad as what is worse than the median
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
            found.enqueue_trial(start)  # the defaults are one of those tried
        for one in found.get_trials(states=[TrialState.RUNNING]):  # when a session was killed: tried again
            found.tell(one.number, state=TrialState.FAIL)
            found.enqueue_trial(one.params or start)
        ended = found.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])
        if len(ended) < count:
            found.optimize(objective, n_trials=count - len(ended), timeout=seconds)
        whole = found.get_trials(states=[TrialState.COMPLETE])
        pruned = len(found.get_trials(states=[TrialState.PRUNED]))
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ZooError(
            f"`{folder / DATABASE}` cannot be used: {str(error).splitlines()[0]}",
            hint="another program holds it, or it is damaged: close that program, or delete it to search anew",
        ) from error
    finally:
        shutil.rmtree(tries, ignore_errors=True)
    best = found.best_trial if whole else None
    return {
        "settings": dict(best.params) if best is not None else None,
        "loss": best.value if best is not None else None,
        "tried": len(whole) + pruned,
        "pruned": pruned,
    }
