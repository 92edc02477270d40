"""Predictor: photographs in, logits out. A run and its exported file are both one, and must agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from zoo.errors import UsageError
from zoo.exporter import find_exporter
from zoo.photograph import normalise, pixels
from zoo.preprocess import Preprocess
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.run import Run


class Predictor(Protocol):
    """What `evaluate`, `predict` and `verify` ask of a run and of a file alike."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def device(self) -> str:
        """What really executes, for instance `cpu`, `cuda:0`, `CPUExecutionProvider`."""
        ...

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        ...


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities `(N, classes)` of logits, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class TorchPredictor:
    """A torch network that predicts photographs by the one way to evaluate: Pillow, fp32, its own crop."""

    model: Any
    classes: tuple[str, ...]
    preprocess: Preprocess
    torch_device: Any

    @property
    def device(self) -> str:
        return str(self.torch_device)

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return self.logits_of_pixels(np.stack([pixels(photograph, self.preprocess) for photograph in photographs]))

    def logits_of_pixels(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Cropped pixels `(N, crop, crop, 3)` uint8 to logits `(N, classes)`."""
        import torch

        with torch.inference_mode(), full_precision():
            inputs = torch.from_numpy(normalise(batch, self.preprocess)).to(self.torch_device)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            found: npt.NDArray[np.float32] = self.model(inputs).float().cpu().numpy()
        return found


@contextmanager
def full_precision() -> Iterator[None]:
    """cuDNN and cuBLAS would round to TF32 on recent GPUs; evaluation is fp32 everywhere."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def open_model(model: Path | str | Run, device: str, plugins: Plugins) -> tuple[Predictor, Run | None]:
    """A predictor for a run (its folder, or opened) or for an exported file; with the run it belongs to, if any.

    Raises:
        UsageError: the path is neither.
    """
    from zoo.run import Run

    if isinstance(model, Run):
        return model.predictor(device, plugins), model
    path = Path(model)
    if path.is_dir() or model == "":
        run = Run.open(model)
        return run.predictor(device, plugins), run
    if not path.exists():
        raise UsageError(f"there is no run or file `{path}`", hint="a run is a folder that `zoo train` made")
    predictor: Predictor = load_target(find_exporter(path, plugins).open)(path, device)
    beside = path.parent / "run.json"
    return predictor, Run.open(path.parent) if beside.is_file() else None
