"""Prediction with an ONNX classifier not written by zoo; the user gives its preprocessing."""

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
    """A `zoo.predictor.Predictor` for a graph from normalised pixels `(N, 3, S, S)` to logits or probabilities."""

    session: ort.InferenceSession
    classes: tuple[str, ...]
    preprocess: Preprocess
    fixed: int | None  # the only batch size that the file accepts; None: any

    @property
    def device(self) -> str:
        return str(self.session.get_providers()[0])

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        seen = normalise(np.stack([pixels(one, self.preprocess) for one in photographs]), self.preprocess)
        found, size = [], self.fixed or MAX_BATCH
        for start in range(0, len(seen), size):
            part = seen[start : start + size]
            lack = size - len(part) if self.fixed is not None else 0
            padded = np.concatenate([part, np.zeros((lack, *part.shape[1:]), np.float32)]) if lack else part
            found.append(run(self.session, padded)[: len(part)])
        values = np.concatenate(found)
        if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):  # the output is probabilities
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return values.astype(np.float32)


def open_foreign(path: Path, device: str, preprocess: Preprocess, classes: tuple[str, ...] | None) -> ForeignPredictor:
    """Open a file on `auto`, `cpu`, `cuda` or `cuda:N`; `classes` are numbered by default.

    Raises:
        UsageError: unknown device name.
        ZooError: it is not an ONNX file, its input is not images, or it has another number of classes.
    """
    session = open_session(str(path), device, path)
    if meta.KEY_SCHEMA in session.get_modelmeta().custom_metadata_map:
        raise ZooError(f"`{path}` was written by zoo and records its preprocessing", hint="leave out `--preprocess`")
    inputs = session.get_inputs()
    images = len(inputs) == 1 and inputs[0].type == "tensor(float)"
    shape: list[int | str | None] = inputs[0].shape if images else []
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        said = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ZooError(f"`{path}` has the input {said}; only normalised pixels (N, 3, S, S) in fp32 are supported")
    fixed = shape[0] if isinstance(shape[0], int) else None
    blank = np.zeros((fixed or 1, 3, preprocess.crop, preprocess.crop), np.float32)
    try:
        count = run(session, blank).shape[1]
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ZooError(
            f"`{path}` does not accept images of {preprocess.crop} pixels: {quoted(error)}",
            hint="set `crop` in `--preprocess` to the image size of the file",
        ) from error
    names = classes if classes is not None else tuple(str(number) for number in range(count))
    if len(names) != count:
        raise ZooError(f"`{path}` has {count} outputs for each image, but `--classes` names {len(names)} classes")
    return ForeignPredictor(session, names, preprocess, fixed)


def run(session: ort.InferenceSession, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The first output for a batch, as `(N, classes)`."""
    found: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: batch})[0]
    return found.reshape(len(batch), -1)
