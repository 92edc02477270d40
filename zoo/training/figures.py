"""Figures of a network when its training has ended: temperature, what it learnt, and its score on reported images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.backbone import Network
from zoo.data.decoding import DecodedImages
from zoo.data.groups import group_names
from zoo.errors import Diverged
from zoo.evaluation.evaluation import Evaluation, compute_metrics
from zoo.experiment import Experiment
from zoo.networks.predictor import TorchPredictor
from zoo.predictions import Predictions
from zoo.predictor import Answers
from zoo.runs.run import Run
from zoo.training.baseline import Fitted, clearly_fitted, compare_with_guessing, entropy, some_fitted
from zoo.training.final_run import Earlier
from zoo.training.optimizer import changed_by
from zoo.training.preparation import Job
from zoo.training.recipe import Recipe
from zoo.training.temperature_scaling import FEWEST, fit_temperature, fold_temperature
from zoo.training.validation import validation_logits


def check_finite(network: Network, experiment: Experiment) -> None:
    """Check that all weights are finite, since the last step may diverge after its loss was checked.

    Raises:
        Diverged: a weight is not finite.
    """
    for name, value in network.model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _diverged(f"`{name}`", experiment)


def _diverged(what: str, experiment: Experiment) -> Diverged:
    return Diverged(
        f"{what} is not finite after the last step: training diverged",
        hint=f"pass a lower `--lr` than {experiment.lr:g}, or clip with `--clip 1.0`",
    )


def calibrate(network: Network, job: Job, recipe: Recipe, run: Run) -> dict[str, Any]:
    """Fit a temperature on images that the weights were not fitted on, and fold it into the head; returns a record."""
    lines, choose = run.history, job.decoded.get("choose")
    if choose is not None and len(choose.samples) >= FEWEST:
        value, on = fit_temperature(_logits(network, job, recipe, choose, "calibrate"), choose.labels), "choose"
    elif (
        # the folds were held out only when the head was fitted, so no earlier phase may have trained on them
        lines  # the history may have been deleted in the meantime
        and all(phase.solver for phase in recipe.phases)
        and "temperature" in lines[-1].get("solved", {})
        and lines[-1]["solved"].get("held_out", len(job.decoded["fit"].samples)) >= FEWEST
    ):
        value, on = float(lines[-1]["solved"]["temperature"]), "folds of train"
    elif job.earlier is not None and job.earlier.temperature != 1:
        value, on = job.earlier.temperature, "the earlier run"
    else:
        return {"value": 1.0, "fitted_on": None}
    return {"value": value, "fitted_on": on} if fold_temperature(network, value) else {"value": 1.0, "fitted_on": None}


def check_learnt(network: Network, job: Job, recipe: Recipe, run: Run) -> dict[str, Any]:
    """Score some training images, and say so if the network is no better than guessing; returns a record.

    None are scored where the loss of the last epoch leaves no doubt.
    """
    lines, labels, last = run.history, job.decoded["fit"].labels, recipe.phases[-1]
    clear = None
    if lines and lines[-1].get("phase") == last.name and last.solver is None and not job.network.anatomy.added:
        steps = recipe.epochs[-1] * recipe.workspace.steps_per_epoch
        clear = clearly_fitted(
            lines[-1], last, job.experiment, labels, last_rate=recipe.workspace.schedule.factor(steps - 1, steps)
        )
    if lines and "solved" in lines[-1] and len(recipe.phases) == 1:  # its loss on all of them is known already
        loss, guessing = lines[-1]["train_loss"], entropy(labels)
        fitted = Fitted(images=len(labels), loss=loss, guessing=guessing, learnt=loss < guessing)
    elif clear is not None:
        fitted = clear
    else:
        part = some_fitted(job.decoded["fit"], job.setup.preprocess.crop)
        logits = _logits(network, job, recipe, part, "score training images", cached=False)
        balanced = job.experiment.class_balance != "none"
        fitted = compare_with_guessing(logits, part.labels, labels, balanced=balanced)
    if not np.isfinite(fitted.loss):
        raise _diverged("the loss of training images", job.experiment)
    if not fitted.learnt:
        steps = recipe.state.position.step
        job.context.progress.warn(
            f"on {fitted.images} of its training images the network has a loss of {fitted.loss:.3f}, not significantly "
            f"below the {fitted.guessing:.3f} of guessing the shares of the classes, so its probabilities mean nothing"
            + (f"; it took {steps} step{'s' * (steps != 1)}: pass more `--epochs`, or another `--lr`" if steps else "")
        )
    return fitted.to_json()


def report(network: Network, job: Job, recipe: Recipe, run: Run, answers: Answers | None) -> dict[str, Any]:
    """Score the reported split; returns metrics and interval for the run's record.

    `answers` are the network's for its images, if the threshold for unknown images was set on them.
    """
    predictions = _predict(network, job, recipe, answers)
    if not np.isfinite(predictions.logits).all():
        raise _diverged("a logit", job.experiment)
    evaluation = Evaluation(
        model=str(run.path),
        data=job.images.name,
        device=str(job.setup.device.place),
        predictions=predictions,
        metrics=compute_metrics(predictions, job.context.plugins),
        split_seed=job.experiment.split_seed,
    )
    run.note_look(
        evaluation.predictions,
        model=evaluation.model,
        data=evaluation.data,
        split_seed=evaluation.split_seed,
        accuracy=evaluation.metrics.get("accuracy"),
    )
    return {"metrics": evaluation.metrics, "accuracy_interval_95": list(evaluation.interval())}


def figures_of(earlier: Earlier) -> dict[str, Any]:
    """Figures for the record of a final run, whose own could only be of images that it was trained on."""
    return {"metrics": earlier.metrics, "accuracy_interval_95": list(earlier.accuracy_interval_95)}


def _predict(network: Network, job: Job, recipe: Recipe, answers: Answers | None) -> Predictions:
    """Predictions of the finished network on the reported split, from `answers` if there are any."""
    part = job.decoded.get("reported") or job.decoded["choose"]
    assert job.roles.reported is not None
    return Predictions(
        split=job.roles.reported,
        classes=job.images.classes,
        ids=tuple(sample.id for sample in part.samples),
        labels=part.labels,
        logits=_logits(network, job, recipe, part, f"score {job.roles.reported}", reported=True)
        if answers is None
        else answers.logits,
        groups=group_names(part.samples),
        unknown=None if answers is None else answers.unknown,
    )


def _logits(
    network: Network,
    job: Job,
    recipe: Recipe,
    part: DecodedImages,
    title: str,
    *,
    cached: bool = True,
    reported: bool = False,
) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of a part's images by the finished network."""
    progress = job.context.progress
    predictor = TorchPredictor(network.model.eval(), (), job.setup.preprocess, job.setup.device.place)
    outputs = None
    if cached and not job.network.anatomy.added:
        cache, last = recipe.workspace.cache, recipe.phases[-1]
        outputs = cache.evaluation_outputs(network, changed_by(network, last), part)
    progress.start(title, len(part.samples))
    size = job.experiment.batch_size
    logits = validation_logits(predictor, part, size, outputs=outputs, reported=reported, advance=progress.advance)
    progress.stop()
    return logits
