"""The judge: logits of images that are scored, by the one way to evaluate, their frozen part out of the store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.data.decoding import Scanned
from zoo.feature_cache.loader import PrefixRows
from zoo.networks.predictor import TorchPredictor, full_precision
from zoo.networks.tracing import eval_mode


class Judge:
    """Scores a network as it stands, in fp32 and eval mode. `rows` are of the part that is scored."""

    def __init__(self, predictor: TorchPredictor, batch_size: int, rows: PrefixRows | None = None) -> None:
        self.predictor = predictor
        self.batch_size = batch_size
        self.rows = rows

    def logits(
        self, part: Scanned, model: nn.Module | None = None, advance: Callable[[int], None] = lambda count: None
    ) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of every image of a part; of another `model` of the same shape if one is given."""
        whole = model if model is not None else self.predictor.model
        rows = self.rows if model is None else None
        found = []
        with eval_mode(whole), torch.inference_mode(), full_precision():
            if rows is not None:
                rows.prepare(0)
            for start in range(0, len(part.labels), self.batch_size):
                indices = np.arange(start, min(start + self.batch_size, len(part.labels)))
                if rows is not None:
                    found.append(rows.cut.rest(*rows.take(indices, [0] * len(indices))).float().cpu().numpy())
                else:
                    one = TorchPredictor(whole, (), self.predictor.preprocess, self.predictor.torch_device)
                    found.append(one.logits_of_pixels(part.pixels[indices]))
                advance(len(indices))
        return np.concatenate(found)
