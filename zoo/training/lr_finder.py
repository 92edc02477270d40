"""The learning-rate finder: a short run over rising rates, whose loss tells which rate is good."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.errors import UsageError, ZooError
from zoo.networks.freezing import apply_phase
from zoo.progress import Progress
from zoo.training.optimizer import make_optimizer, pulled_by, trained_by
from zoo.training.recipe import Recipe
from zoo.training.sampler import batches, epoch_order

# Smith 2017, "Cyclical learning rates for training neural networks", section 3.3: the rate rises from one that does
# nothing to one that diverges. The rule, a tenth of the rate of the lowest loss, is that of Howard and Gugger's fastai
LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
SMOOTHING = 0.9
DIVERGED = 4.0  # times the lowest smoothed loss
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rate, with the curve that it was read from."""

    lr: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]  # smoothed


def find_rate(recipe: Recipe, progress: Progress) -> Found:
    """The rate for the first phase that steps; the network is left as it was.

    The recipe's own rate must be 1, so that its groups hold each stage's share.

    Raises:
        UsageError: no phase steps.
        ZooError: the loss never fell.
    """
    assert recipe.experiment.lr == 1.0
    number = next((number for number, phase in enumerate(recipe.phases) if phase.solver is None), None)
    if number is None:
        raise UsageError("`--lr find` is for steps, and no phase takes any", hint="leave it out")
    before = copy.deepcopy(recipe.model.state_dict())
    for phase in recipe.phases[:number]:
        recipe.solve(phase)
    phase = recipe.phases[number]
    progress.start("find the learning rate", STEPS * recipe.experiment.batch_size)
    apply_phase(
        recipe.model, trained_by(recipe.network, phase), "frozen" if phase.norm == "recalibrate" else phase.norm
    )
    optimizer = make_optimizer(recipe.model, recipe.groups[number], recipe.experiment)
    recipe.open_feed(phase, recipe.epochs[number])
    pulled = {name: recipe.start[name] for name in pulled_by(recipe.network, phase)}
    rates, losses, average = [], [], 0.0
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        epoch, indices = _indices(recipe, step)
        try:
            view = recipe.view(epoch, 0)
            if recipe.rows is not None:
                recipe.rows.prepare(view)
            loss, _ = recipe.step_on(indices, [view] * len(indices), optimizer, phase, epoch, step, pulled)
        except ZooError as error:
            if "diverged" not in error.message:
                raise
            break
        progress.advance(len(indices))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(average / (1 - SMOOTHING ** (step + 1)))
        if losses[-1] > DIVERGED * min(losses):
            break
    recipe.model.load_state_dict(before)
    progress.stop()
    if not losses or min(losses) >= losses[0]:
        raise ZooError(
            "`--lr find`: the loss fell at no rate, so none can be told to be good",
            hint="pass a rate: the default is 0.005",
        )
    lr = float(f"{rates[int(np.argmin(losses))] * MARGIN:.2g}")
    return Found(lr=lr, rates=tuple(rates), losses=tuple(losses))


def _indices(recipe: Recipe, step: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The step's batch: epochs before the first, as it were, so that its views are drawn for nothing else."""
    epoch, batch = divmod(step, recipe.steps_per_epoch)
    order = epoch_order(recipe.train.labels, recipe.experiment, epoch)
    return epoch, batches(order, recipe.experiment.batch_size)[batch]
