"""Validation: logits of one split, from cached outputs of the frozen prefix where there are any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.data.decoding import DecodedImages
from zoo.feature_cache.engine import BOUND, close_calls
from zoo.feature_cache.loader import PrefixOutputs
from zoo.networks.predictor import TorchPredictor, full_precision
from zoo.networks.tracing import eval_mode

# An image is scored by torch if its label could be another one were each logit off by this share of the largest: ten
# times what an engine may differ by, and some thousand times what engines do differ by
DOUBT = 10 * BOUND


def validation_logits(
    predictor: TorchPredictor,
    part: DecodedImages,
    batch_size: int,
    *,
    outputs: PrefixOutputs | None = None,
    model: nn.Module | None = None,
    reported: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of all images of a split, in fp32 and eval mode.

    Args:
        predictor: the network being trained, as a predictor.
        part: the decoded images.
        batch_size: images in a batch.
        outputs: outputs of the network's frozen prefix for these images, where the network is divided.
        model: a network of the same architecture to use instead of the predictor's, such as an average of weights.
        reported: whether the logits are those that the run reports: their labels are then those of torch, also where
            another engine computes the outputs.
        advance: called with the number of images classified.
    """
    whole = model if model is not None else predictor.model
    outputs = outputs if model is None else None
    found = []
    with eval_mode(whole), torch.inference_mode(), full_precision():
        if outputs is not None:
            outputs.prepare(0)
        for start in range(0, len(part.labels), batch_size):
            indices = np.arange(start, min(start + batch_size, len(part.labels)))
            if outputs is not None:
                rows = outputs.take(indices, [0] * len(indices))
                found.append(outputs.split.rest(*rows).float().cpu().numpy())
            else:
                one = TorchPredictor(whole, (), predictor.preprocess, predictor.torch_device)
                found.append(one.logits_of_pixels(part.pixels[indices]))
            advance(len(indices))
        logits = np.concatenate(found)
        return _with_torch_labels(logits, outputs, batch_size) if reported and outputs is not None else logits


def _with_torch_labels(
    logits: npt.NDArray[np.float32], outputs: PrefixOutputs, batch_size: int
) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of an engine, replaced by torch's where the label could be another one.

    Those are the close calls; a few other images are computed by torch as well, to see that the engine differs by no
    more than it may. If it does, all images are.
    """
    if outputs.by_torch:
        return logits
    count = len(logits)
    close = close_calls(torch.from_numpy(logits), DOUBT).numpy()
    others = np.flatnonzero(~close)
    extra = max(-len(np.flatnonzero(close)) % outputs.block, min(outputs.block // 2, count))  # fills a block
    looked = others[np.unique(np.linspace(0, len(others) - 1, min(extra, len(others))).astype(int))]
    again = _by_torch(np.sort(np.concatenate([np.flatnonzero(close), looked])), outputs, batch_size)
    largest = max(float(np.abs(logits).max()), 1e-30)
    if any(not np.abs(logits[index] - one).max() <= BOUND * largest for index, one in again.items()):
        outputs.progress.warn("the engine's logits differ from torch's, so all reported images are scored by torch")
        again = _by_torch(np.arange(count), outputs, batch_size)
        close[:] = True
    for index, one in again.items():
        if close[index]:
            logits[index] = one
    return logits


def _by_torch(indices: npt.NDArray[np.int64], outputs: PrefixOutputs, size: int) -> dict[int, npt.NDArray[np.float32]]:
    """Logits of some images as torch computes them, by their index."""
    found: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(indices), size):
        some = indices[start : start + size]
        rows = outputs.torch_rows(some, [0] * len(some))
        found |= dict(zip(some.tolist(), outputs.split.rest(*rows).float().cpu().numpy()))
    return found
