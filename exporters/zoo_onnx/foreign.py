"""Foreign files: an ONNX classifier that zoo did not write, told how its photographs are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from zoo.data.image import normalise, pixels
from zoo.errors import ZooError, quoted
from zoo.preprocess import Preprocess
from zoo_onnx import metadata as meta
from zoo_onnx.session import MAX_BATCH, open_session

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ForeignPredictor:
    """A `zoo.predictor.Predictor` of a graph from normalised pixels `(N, 3, S, S)` to logits or probabilities."""

    session: ort.InferenceSession
    classes: tuple[str, ...]
    preprocess: Preprocess
    fixed: int | None  # the only batch that the file takes, if it takes one alone

    @property
    def device(self) -> str:
        return str(self.session.get_providers()[0])

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        seen = normalise(np.stack([pixels(one, self.preprocess) for one in photographs]), self.preprocess)
        found, size = [], self.fixed or MAX_BATCH
        for start in range(0, len(seen), size):
            part = seen[start : start + size]
            lack = size - len(part) if self.fixed is not None else 0
            padded = np.concatenate([part, np.zeros((lack, *part.shape[1:]), np.float32)]) if lack else part
            found.append(run(self.session, padded)[: len(part)])
        values = np.concatenate(found)
        if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):  # probabilities already
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return values.astype(np.float32)


def open_foreign(path: Path, device: str, preprocess: Preprocess, classes: tuple[str, ...] | None) -> ForeignPredictor:
    """Open a file on `auto`, `cpu`, `cuda` or `cuda:N`; without `classes` they are called by their numbers.

    Raises:
        UsageError: no such device name.
        ZooError: it is no ONNX file, takes something else than images, or has another number of classes.
    """
    session = open_session(str(path), device, path)
    if meta.KEY_SCHEMA in session.get_modelmeta().custom_metadata_map:
        raise ZooError(
            f"`{path}` was written by zoo and knows how its photographs are prepared", hint="leave `--preprocess` out"
        )
    inputs = session.get_inputs()
    images = len(inputs) == 1 and inputs[0].type == "tensor(float)"
    shape: list[int | str | None] = inputs[0].shape if images else []
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        said = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ZooError(f"`{path}` takes {said}; normalised pixels (N, 3, S, S) in fp32 is what can be given")
    fixed = shape[0] if isinstance(shape[0], int) else None
    blank = np.zeros((fixed or 1, 3, preprocess.crop, preprocess.crop), np.float32)
    try:
        count = run(session, blank).shape[1]
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise ZooError(
            f"`{path}` does not take images of {preprocess.crop} pixels: {quoted(error)}",
            hint="pass the `crop` that it was made for in `--preprocess`",
        ) from error
    names = classes if classes is not None else tuple(str(number) for number in range(count))
    if len(names) != count:
        raise ZooError(f"`{path}` gives {count} values an image, and {len(names)} classes were named")
    return ForeignPredictor(session, names, preprocess, fixed)


def run(session: ort.InferenceSession, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The first output of a batch, `(N, classes)`."""
    found: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: batch})[0]
    return found.reshape(len(batch), -1)
