"""The torch predictor: the reference that every exported file is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zoo.data.image import pixels
from zoo.networks.inputs import inputs_of
from zoo.predictor import Answers
from zoo.preprocess import Preprocess
from zoo.unknown import Threshold, UnknownScore


@dataclass(frozen=True)
class TorchPredictor:
    """A torch network that classifies images as every evaluation does: resized by Pillow, cropped, in fp32."""

    model: Any
    classes: tuple[str, ...]
    preprocess: Preprocess
    torch_device: Any
    unknown: UnknownScore | None = None  # how strange an image is, where the run has such a score

    @property
    def device(self) -> str:
        return str(self.torch_device)

    @property
    def threshold(self) -> Threshold | None:
        return None if self.unknown is None else self.unknown.threshold

    def answers(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> Answers:
        """Logits, and scores of strangeness where the run has them."""
        batch = np.stack([pixels(photograph, self.preprocess) for photograph in photographs])
        if self.unknown is None:
            return Answers(self.logits_of_pixels(batch), None)
        head = self.model.get_submodule(self.unknown.head) if self.unknown.space is not None else None
        logits, features = self.logits_and_features(batch, head)
        return Answers(logits, self.unknown.scores(logits, features))

    def logits_and_features(
        self, batch: npt.NDArray[np.uint8], head: Any
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Logits of cropped pixels `(N, h, w, 3)`, and the input `(N, D)` of `head`; None where `head` is None."""
        if head is None:
            return self.logits_of_pixels(batch), None
        seen: list[npt.NDArray[np.float32]] = []
        handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float().cpu().numpy()))
        try:
            logits = self.logits_of_pixels(batch)
        finally:
            handle.remove()
        return logits, seen[-1]

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return self.logits_of_pixels(np.stack([pixels(photograph, self.preprocess) for photograph in photographs]))

    def logits_of_pixels(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Cropped pixels `(N, h, w, 3)` uint8 to logits `(N, classes)`."""
        with torch.inference_mode(), full_precision():
            inputs = inputs_of(batch, self.preprocess, self.torch_device)
            found: npt.NDArray[np.float32] = self.model(inputs).float().cpu().numpy()
        return found


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in fp32 on every device: on recent GPUs, cuDNN and cuBLAS would round to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
