"""Stages: where on the way from a photograph's bytes to its logits a file parts from its run."""

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
from zoo_onnx.preprocessing import PHOTOGRAPHS, PIXELS
from zoo_onnx.session import LOGITS, open_file, open_session
from zoo_onnx.size import is_large

# Grey levels. Engines round between the horizontal and the vertical pass of a resize: one apart on photographs, two on
# noise
RESIZE_BOUND = 2.0
# Share of the largest logit; in fewer bits the network may differ, and accuracy says by how much
NETWORK_BOUND = {"fp32": TOLERANCE}
# A photograph that PNG or TIFF holds with more than eight bits, or with transparency, is for zoo to decode
PLAIN = ("RGB", "L", "YCbCr", "CMYK")
# The network is asked in batches of these sizes, over and over: a batch that was pinned shows, and so does a large one
BATCHES = (1, 2, 7, 32)


def stages(
    path: Path,
    device: str,
    ours: Predictions,
    samples: Sequence[Sample],
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[StageDifference, ...]:
    """How far a file and its run lie apart after decoding, after preparing, and after the network, each by itself.

    `decode` compares `zoo.data.image.decode` with the lines that the documentation gives to a user without zoo;
    `resize` the graph with Pillow; `network` the file's network, given what the run's was given, with the run's logits.
    A stage that nothing could be compared in is left out.
    """
    model = onnx.load(str(path))
    if is_large(model):
        return ()  # its parts do not fit into memory beside it
    predictor = open_file(path, device)
    record = meta.decode(meta.read(model), meta.KEY_PRECISION, path)
    prepare = open_session(_part(model, PHOTOGRAPHS, PIXELS), device, path) if predictor.inside else None
    network = open_session(_part(model, PIXELS, LOGITS), device, path)
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
            photograph = decode(sample.source)
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
    """The largest and the mean absolute value of all that is added."""

    def __init__(self) -> None:
        self.largest, self.total, self.count = 0.0, 0.0, 0

    def add(self, differences: npt.NDArray[Any]) -> None:
        size = np.abs(differences)
        self.largest = max(self.largest, float(np.nan_to_num(size, nan=np.inf).max()))
        self.total += float(size.sum())
        self.count += size.size

    def as_stage(self, name: str, bound: float | None, unit: str) -> StageDifference:
        # a level's thousandth is what normalising and back leaves of a whole number
        largest = self.largest if self.largest > 1e-3 or unit != "grey levels" else 0.0
        return StageDifference(name=name, largest=largest, mean=self.total / max(self.count, 1), bound=bound, unit=unit)


def _part(model: onnx.ModelProto, start: str, end: str) -> bytes:
    content: bytes = onnx.utils.Extractor(model).extract_model([start], [end]).SerializeToString()
    return content


def _as_documented(source: ImageSource) -> npt.NDArray[np.uint8] | None:
    """An image decoded as `docs/` tells users without zoo to do it; None where it says that zoo does otherwise."""
    opened = source.open()
    if isinstance(opened, np.ndarray):
        return None
    with opened, Image.open(opened) as image:
        if image.mode not in PLAIN or "transparency" in image.info:
            return None
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
