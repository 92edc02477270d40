"""Validation: logits of one part of the data, from cached features of the frozen prefix where there are any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.data.decoding import DecodedImages
from zoo.feature_cache.loader import PrefixOutputs
from zoo.networks.predictor import TorchPredictor, full_precision
from zoo.networks.tracing import eval_mode


def validation_logits(
    predictor: TorchPredictor,
    part: DecodedImages,
    batch_size: int,
    *,
    outputs: PrefixOutputs | None = None,
    model: nn.Module | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float32]:
    """Logits `(N, classes)` of every image of a part, in fp32 and eval mode.

    Args:
        predictor: the network being trained, as a predictor.
        outputs: outputs of the network's frozen prefix for this part, where the network is split.
        model: another network of the same shape to score in place of the predictor's, such as an average of weights.
        advance: told the number of images scored.
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
    return np.concatenate(found)
