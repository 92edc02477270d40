"""Prediction with an ONNX classifier not written by zoo; the user gives its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from zoo.data.image import normalise, pixels
from zoo.errors import UsageError, ZooError, counted, quoted
from zoo.preprocess import Preprocess, pixels_text
from zoo_onnx import metadata as meta
from zoo_onnx.session import MAX_BATCH, open_session

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

# Standard deviations of the noise on which the kind of the output is found. No network gives logits between 0 and 1
# for inputs a hundred times as large as any photograph's, while a sigmoid or a softmax cannot give anything else
NOISE = (1.0, 1.0, 100.0, 100.0)
SUM_TOLERANCE = 0.01  # of probabilities, which a file in fp16 rounds
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1, so that their logits are finite in fp32


class Output(Enum):
    """What the numbers are that a file gives for an image."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities that sum to 1"
    SIGMOIDS = "a probability for each class"
    ONE_SIGMOID = "the probability of the second of two classes"


@dataclass(frozen=True)
class ForeignPredictor:
    """A `zoo.predictor.Predictor` for a graph from normalised pixels `(N, 3, S, S)` to logits or probabilities."""

    session: ort.InferenceSession
    classes: tuple[str, ...]
    preprocess: Preprocess
    fixed: int | None  # the only batch size that the file accepts; None: any
    output: Output

    @property
    def device(self) -> str:
        return str(self.session.get_providers()[0])

    @property
    def independent(self) -> bool:
        """Whether each class has a probability of its own: the sigmoid of its logit."""
        return self.output is Output.SIGMOIDS

    def logits(self, photographs: Sequence[Pixels]) -> Values:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size.

        Raises:
            ZooError: the file does not run.
        """
        seen = normalise(np.stack([pixels(one, self.preprocess) for one in photographs]), self.preprocess)
        found, size = [], self.fixed or MAX_BATCH
        for start in range(0, len(seen), size):
            part = seen[start : start + size]
            lack = size - len(part) if self.fixed is not None else 0
            padded = np.concatenate([part, np.zeros((lack, *part.shape[1:]), np.float32)]) if lack else part
            try:
                found.append(run(self.session, padded)[: len(part)])
            except Exception as error:  # onnxruntime's exceptions have no common base class
                raise ZooError(f"the file does not run on a batch of {len(padded)}: {quoted(error)}") from error
        return _as_logits(np.concatenate(found), self.output).astype(np.float32)


def _as_logits(values: Values, output: Output) -> Values:
    if output is Output.LOGITS or not np.isfinite(values).all():
        return values
    if output is Output.PROBABILITIES:
        logarithms: Values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return logarithms
    shares = np.clip(values.astype(np.float64), SMALLEST, 1 - SMALLEST)
    odds: Values = np.log(shares / (1 - shares))
    return odds if output is Output.SIGMOIDS else np.concatenate([np.zeros_like(odds), odds], axis=1)


def open_foreign(path: Path, device: str, preprocess: Preprocess, classes: tuple[str, ...] | None) -> ForeignPredictor:
    """Open a file on `auto`, `cpu`, `cuda` or `cuda:N`; `classes` are numbered by default.

    Raises:
        UsageError: unknown device name, or zoo wrote the file.
        ZooError: it is not an ONNX file, its input is not images, its output is not classes, or it has another number
            of classes.
    """
    session = open_session(str(path), device, path)
    if meta.KEY_SCHEMA in session.get_modelmeta().custom_metadata_map:
        raise UsageError(f"`{path}` was written by zoo and records its preprocessing", hint="leave out `--preprocess`")
    inputs = session.get_inputs()
    images = len(inputs) == 1 and inputs[0].type == "tensor(float)"
    shape: list[int | str | None] = inputs[0].shape if images else []
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        said = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ZooError(f"`{path}` has the input {said}; only normalised pixels (N, 3, S, S) in fp32 are supported")
    fixed = shape[0] if isinstance(shape[0], int) else None
    generator = np.random.default_rng(0)
    probes = [
        (generator.standard_normal((fixed or 1, 3, *preprocess.input_size)) * spread).astype(np.float32)
        for spread in NOISE
    ]
    try:
        rows = [run(session, probe) for probe in probes]
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ZooError(
            f"`{path}` does not accept images of {pixels_text(preprocess.crop)} pixels: {quoted(error)}",
            hint="set `crop` in `--preprocess` to the image size of the file",
        ) from error
    if fixed is None and not _takes_batches(session, probes[:2], rows[:2]):
        fixed = 1
    output = _kind(path, np.concatenate(rows))
    count = 2 if output is Output.ONE_SIGMOID else rows[0].shape[1]
    names = classes if classes is not None else tuple(str(number) for number in range(count))
    if len(names) != count:
        what = (
            f"gives {output.value}"
            if output is Output.ONE_SIGMOID
            else f"has {counted(count, 'output')} for each image"
        )
        hint = "name the class that 0 stands for, then that of 1" if output is Output.ONE_SIGMOID else None
        raise ZooError(f"`{path}` {what}, but `--classes` names {counted(len(names), 'class', 'classes')}", hint=hint)
    return ForeignPredictor(session, names, preprocess, fixed, output)


def _takes_batches(session: ort.InferenceSession, images: list[Values], alone: list[Values]) -> bool:
    """Whether a file that declares any batch size takes one of two; some fix 1 in the middle of the graph."""
    try:
        both = run(session, np.concatenate(images))
    except Exception:  # onnxruntime's exceptions have no common base class
        return False
    expected = np.concatenate(alone)
    scale = max(1.0, float(np.abs(np.nan_to_num(expected)).max()))
    return both.shape == expected.shape and np.allclose(both, expected, atol=0.01 * scale, rtol=0.01, equal_nan=True)


def _kind(path: Path, values: Values) -> Output:
    """What the outputs for noise are.

    Raises:
        ZooError: one output for each image that is not a probability.
    """
    values = values[np.isfinite(values).all(axis=1)]  # large noise overflows in fp16
    bounded = bool(len(values)) and bool((values >= 0).all() and (values <= 1 + SUM_TOLERANCE).all())
    if values.shape[1] == 1:
        if not bounded or (values == 1).all():
            raise ZooError(
                f"`{path}` gives one number for each image, and it is not a probability",
                hint="export it with a sigmoid as its last layer, or with an output for each class",
            )
        return Output.ONE_SIGMOID
    if not bounded:
        return Output.LOGITS
    return Output.PROBABILITIES if (np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE).all() else Output.SIGMOIDS


def run(session: ort.InferenceSession, batch: Values) -> Values:
    """The first output for a batch, as `(N, classes)`."""
    options = ort.RunOptions()
    options.log_severity_level = 4  # an error is raised, and told by who calls
    found: Values = session.run(None, {session.get_inputs()[0].name: batch}, options)[0]
    return found.reshape(len(batch), -1)
