"""Fits the score of unknown images at the end of training, on features of the training images and those of `val`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from zoo.backbone import Network
from zoo.data.decoding import DecodedImages
from zoo.networks.head import head_path, takes_vectors
from zoo.networks.predictor import TorchPredictor, full_precision
from zoo.networks.tracing import eval_mode
from zoo.predictor import Answers
from zoo.training.acceptance import check_unknown
from zoo.training.features import cached_features, features
from zoo.training.optimizer import changed_by
from zoo.training.preparation import Job
from zoo.training.workspace import Workspace
from zoo.unknown import METHODS, Threshold, UnknownScore, fewest_images, fit_unknown

VAL = "val"  # the split that the threshold is set on


def held_out_part(job: Job) -> DecodedImages:
    """The images of `val`, which are those that the run reports on."""
    return job.decoded.get("reported") or job.decoded["choose"]


def check_decoded(job: Job) -> None:
    """Check, before training, that a threshold can be set on the images of `val` that could be decoded.

    Raises:
        ZooError: there are too few.
    """
    if job.experiment.unknown_rate is not None:
        check_unknown(job.images, job.roles, len(held_out_part(job).samples), job.experiment)


def fit_score(network: Network, workspace: Workspace) -> tuple[UnknownScore, Answers]:
    """The score of a trained network, and the network's answers for the images of `val`.

    Raises:
        ZooError: all images of `val` are equally strange.
    """
    job, rate = workspace.job, workspace.experiment.unknown_rate
    assert rate is not None
    progress, held = job.context.progress, held_out_part(job)
    path, fitted = "", None
    model = network.model.eval()
    if takes_vectors(network, job.setup.preprocess.crop):
        path = head_path(network)
        fitted = _training_features(network, workspace)
    else:
        progress.note(
            f"`--unknown-rate`: the head of `{network.anatomy.backbone}` takes no vector of features, so the score is "
            "of the confidence alone, which is blind to images that are like none of the training images"
        )
    progress.start(f"score {VAL}", len(held.samples))
    predictor = TorchPredictor(model, (), job.setup.preprocess, job.setup.device.place)
    parts = []
    for batch in _batches(held, job.experiment.batch_size):
        parts.append(predictor.logits_and_features(batch, model.get_submodule(path) if path else None))
        progress.advance(len(batch))
    progress.stop()
    logits = np.concatenate([one for one, _ in parts])
    found = [one for _, one in parts if one is not None]
    vectors = np.concatenate(found) if found else None
    score = fit_unknown(
        rate=rate,
        split=VAL,
        head=path,
        features=fitted,
        labels=job.decoded["fit"].labels,
        held_logits=logits,
        held_features=vectors,
    )
    progress.note(f"unknown images: {score.threshold}")
    if fitted is not None and len(score.threshold.parts) == 1:
        progress.note(_why_one_part(score.threshold))
    return score, Answers(logits, score.scores(logits, vectors))


def _why_one_part(threshold: Threshold) -> str:
    """Why a score is of one part alone, though the head takes a vector of features."""
    said = f"`--unknown-rate`: the score is {METHODS[threshold.parts]}, alone"
    both = fewest_images(threshold.rate, 2)
    if threshold.images < both:
        return (
            f"{said}, which mostly misses images between the classes: with the confidence, this rate needs "
            f"{both:,} images in `{VAL}`"
        )
    return f"{said}: the other part hardly differs from image to image of `{VAL}`"


def _batches(part: DecodedImages, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(part.samples), size):
        yield np.asarray(part.pixels[start : start + size])


def _training_features(network: Network, workspace: Workspace) -> npt.NDArray[np.float32]:
    """The head's input `(M, D)` for the training images without augmentation, from the feature cache if it is there."""
    progress, title = workspace.job.context.progress, "features for unknown images"
    if not workspace.job.network.anatomy.added:  # of a merged network the cache knows nothing
        trained = changed_by(network, workspace.phases[-1])
        cached = cached_features(network, trained, workspace.views, workspace.cache, title)
        if cached is not None:
            return cached[0]
    progress.start(title, len(workspace.labels))
    with eval_mode(network.model), torch.inference_mode(), full_precision():
        return features(network, workspace.plain_batches())
