"""Pruners: what ends trials of a search early, by their validation loss after each epoch.

`asha` is asynchronous successive halving: of the trials that have reached 1, 3, 9, ... epochs, the best third go on
(Li et al. 2018, "Massively parallel hyperparameter tuning"). `hyperband` does so in several brackets, of which some
begin to compare later (Li et al. 2017, "Hyperband: a novel bandit-based approach"). `median` ends a trial that is worse
than the median of the others at the same epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

PRUNERS = ("median", "asha", "hyperband", "none")  # the first is the default
STARTUP = 4  # trials before the median prunes
REDUCTION = 3  # one trial in three goes on from a rung; both papers have 3 or 4


def make_pruner(name: str, most_epochs: int) -> BasePruner:
    """Optuna's pruner of a name, for trials of at most so many epochs."""
    from optuna import pruners

    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=most_epochs, reduction_factor=REDUCTION)
    return pruners.NopPruner() if name == "none" else pruners.MedianPruner(n_startup_trials=STARTUP)
