"""Compares a file with its run after each stage from bytes to logits: decoding, resizing and the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image, ImageOps

from zoo.data.image import BadImage, decode, normalise, pixels
from zoo.dataset import ImageSource, Sample
from zoo.exporter import StageDifference
from zoo.exporting.golden import TOLERANCE
from zoo.predictions import Predictions
from zoo_onnx import metadata as meta
from zoo_onnx.session import open_file, open_session
from zoo_onnx.size import is_large
from zoo_onnx.tensor_names import LOGITS, PHOTOGRAPHS, PIXELS

# Grey levels. Engines round between the horizontal and the vertical pass of a resize; this makes a difference of one
# level on photographs and two on noise
RESIZE_BOUND = 2.0
# Grey levels, mean over an image. On the golden inputs, rounding makes up to 0.12, at unlucky sizes such as 24 to 36
# pixels; a mean that is off by 0.01 makes 0.85, another interpolation 9, a channel in another's place 45
RESIZE_MEAN = 0.25
# As a fraction of the largest logit. For fp16 and int8 there is no bound; their accuracy is checked instead
NETWORK_BOUND = {"fp32": TOLERANCE}
# Image modes that the documented lines decode like zoo; not images with more than eight bits or with transparency
PLAIN = ("RGB", "L", "YCbCr", "CMYK")
# Batch sizes, used in rotation, so that a fixed batch size or a fault in large batches shows
BATCHES = (1, 2, 7, 32)


def stages(
    path: Path,
    device: str,
    ours: Predictions,
    samples: Sequence[Sample],
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[StageDifference, ...]:
    """The differences between a file and its run in decoding, resizing and the network, each measured separately.

    `decode` compares `zoo.data.image.decode` with the lines in the documentation for users without zoo. `resize`
    compares the graph with Pillow. `network` compares the file's network, on the pixels of the run, with the run's
    logits. A stage without anything to compare is left out.
    """
    model = onnx.load(str(path))
    if is_large(model):
        return ()  # there is not enough memory for the file and its parts
    predictor = open_file(path, device)
    record = meta.decode(meta.read(model), meta.KEY_PRECISION, path)
    prepare = open_session(part_of(model, PHOTOGRAPHS, PIXELS), device, path) if predictor.inside else None
    network = open_session(part_of(model, PIXELS, LOGITS), device, path)
    spread = np.asarray(predictor.preprocess.std, np.float32).reshape(3, 1, 1) * 255
    decoded, resized, answered = _Difference(), _Difference(), _Difference()
    scale = max(float(np.abs(ours.logits).max()), 1e-6)
    rows = {name: row for row, name in enumerate(ours.ids)}
    pending: list[tuple[int, npt.NDArray[np.uint8]]] = []
    turn = 0

    def ask() -> None:
        batch = normalise(np.stack([seen for _, seen in pending]), predictor.preprocess)
        logits = network.run([LOGITS], {PIXELS: batch})[0]
        answered.add((logits - ours.logits[[row for row, _ in pending]]) / scale)
        pending.clear()

    for sample in samples:
        try:
            photograph = decode(sample.source, levels=predictor.preprocess.levels)
        except BadImage:
            continue
        plain = _as_documented(sample.source)
        if plain is not None:
            same = plain.shape == photograph.shape
            decoded.add(plain.astype(np.int16) - photograph if same else np.array([np.inf]))
        seen = pixels(photograph, predictor.preprocess)
        if prepare is not None:
            found = prepare.run([PIXELS], {PHOTOGRAPHS: photograph[None]})[0][0]
            resized.add((found - normalise(seen[None], predictor.preprocess)[0]) * spread)
        pending.append((rows[sample.id], seen))
        if len(pending) == BATCHES[turn % len(BATCHES)]:
            ask()
            turn += 1
        advance(1)
    if pending:
        ask()
    found = (
        (decoded, decoded.as_stage("decode", 0.0, "grey levels")),
        (resized, resized.as_stage("resize", RESIZE_BOUND, "grey levels")),
        (answered, answered.as_stage("network", NETWORK_BOUND.get(record["name"]), "of the largest logit")),
    )
    return tuple(stage for difference, stage in found if difference.count)


class _Difference:
    """Accumulates the largest and the mean absolute difference."""

    def __init__(self) -> None:
        self.largest, self.total, self.count = 0.0, 0.0, 0

    def add(self, differences: npt.NDArray[Any]) -> None:
        size = np.abs(differences)
        self.largest = max(self.largest, float(np.nan_to_num(size, nan=np.inf).max()))
        self.total += float(size.sum())
        self.count += size.size

    def as_stage(self, name: str, bound: float | None, unit: str) -> StageDifference:
        # normalising a whole grey level and back gives an error below a thousandth
        largest = self.largest if self.largest > 1e-3 or unit != "grey levels" else 0.0
        return StageDifference(name=name, largest=largest, mean=self.total / max(self.count, 1), bound=bound, unit=unit)


def part_of(model: onnx.ModelProto, start: str, end: str) -> bytes:
    """The part of a graph from one tensor to another, as the content of a file."""
    content: bytes = onnx.utils.Extractor(model).extract_model([start], [end]).SerializeToString()
    return content


def _as_documented(source: ImageSource) -> npt.NDArray[np.uint8] | None:
    """An image decoded as `docs/how-to/deploy-with-onnxruntime.md` tells users; None where that does not decode it."""
    opened = source.open()
    if isinstance(opened, np.ndarray):
        return None
    try:
        with opened, Image.open(opened) as image:
            if image.mode not in PLAIN or "transparency" in image.info:
                return None
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # zoo repairs some files, and decodes larger ones than Pillow does by default
        return None
