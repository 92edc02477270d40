"""The learning-rate finder: a short training at rising learning rates, whose losses show which rate to use."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from zoo.errors import Diverged, UsageError, ZooError
from zoo.networks.freezing import apply_phase
from zoo.progress import Progress, Silent
from zoo.training.optimizer import trained_by
from zoo.training.preparation import Job
from zoo.training.sampler import batches, epoch_order
from zoo.training.solved_phase import solve_phase
from zoo.training.workspace import Workspace

# Smith 2017, "Cyclical learning rates for training neural networks", section 3.3: the rate rises from one that changes
# nothing to one at which training diverges. A tenth of the rate with the lowest loss is recommended, which is the rule
# of Howard and Gugger, fastai
LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
SMOOTHING = 0.9
DIVERGED = 4.0  # times the lowest smoothed loss
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """The recommended learning rate, with the curve of losses that it was read from."""

    lr: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]  # smoothed


def find_rate(job: Job, progress: Progress) -> FoundRate:
    """Find the learning rate for the first phase that takes steps; the job's network is left as it was.

    Raises:
        UsageError: no phase takes steps.
        ZooError: the loss fell at none of the rates.
    """
    # at a rate of 1 the parameter groups hold each stage's share; torch.compile would cost more than it saves
    experiment = replace(job.experiment, lr=1.0, compile=False)
    context = replace(job.context, progress=Silent())
    return _search(Workspace(replace(job, experiment=experiment, context=context)), progress)


def _search(workspace: Workspace, progress: Progress) -> FoundRate:
    model, experiment = workspace.model, workspace.experiment
    number = next((number for number, phase in enumerate(workspace.phases) if phase.solver is None), None)
    if number is None:
        raise UsageError("`--lr find` needs optimiser steps, and no phase takes any", hint="leave it out")
    before = copy.deepcopy(model.state_dict())
    for phase in workspace.phases[:number]:
        solve_phase(workspace, phase, 0)
    phase = workspace.phases[number]
    progress.start("find the learning rate", STEPS * experiment.batch_size)
    norm = "frozen" if phase.norm == "recalibrate" else phase.norm
    apply_phase(model, trained_by(workspace.network, phase), norm)
    steps = workspace.open_phase(number, workspace.make_optimizer(number), fold=False)
    rates, losses, average = [], [], 0.0
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in steps.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        epoch, indices = _indices(workspace, step)
        view = steps.view(epoch, 0)
        try:
            steps.prepare(view)
            loss, _ = steps.step(indices, [view] * len(indices), epoch=epoch, batch=step)
        except Diverged:
            break
        progress.advance(len(indices))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(average / (1 - SMOOTHING ** (step + 1)))
        if losses[-1] - min(losses) > (DIVERGED - 1) * abs(min(losses)):  # a loss may be negative
            break
    model.load_state_dict(before)
    progress.stop()
    if not losses or min(losses) >= losses[0]:
        raise ZooError(
            "`--lr find`: the loss fell at no learning rate, so no rate can be recommended",
            hint="pass a rate: the default is 0.005",
        )
    lr = float(f"{rates[int(np.argmin(losses))] * MARGIN:.2g}")
    return FoundRate(lr=lr, rates=tuple(rates), losses=tuple(losses))


def _indices(workspace: Workspace, step: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Epoch and image indices of a step's batch, in the order in which training will see them."""
    epoch, batch = divmod(step, workspace.steps_per_epoch)
    order = epoch_order(workspace.train.labels, workspace.experiment, epoch)
    return epoch, batches(order, workspace.experiment.batch_size)[batch]
