"""Opens an exported file for `zoo serve`: one session that several threads call at once. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from zoo.errors import ZooError, quoted
from zoo.predictor import Answers, Predictor
from zoo.unknown import Threshold
from zoo_onnx.session import MAX_BATCH, OnnxPredictor, Pixels, after_large, open_file, open_session
from zoo_onnx.tensor_names import LOGITS, PHOTOGRAPHS, PIXELS, UNKNOWN


def open_to_serve(path: Path, device: str, threads: int, across_sizes: bool) -> Predictor:
    """Open a file so that each call computes with `threads` threads.

    With `across_sizes`, the graph is cut at the network's input: each image is prepared by itself, and the network runs
    on images of all sizes together. A file that Pillow prepares images for needs no cut. Neither does a file of more
    than 2 GB get one, since its parts do not fit into memory beside it.

    Raises:
        UsageError: unknown device name.
        ZooError: the file is missing, damaged, not written by zoo or too new; or CUDA was requested and is not
            available.
    """
    whole = open_file(path, device, threads)
    if not across_sizes or not whole.inside:
        return whole
    import onnx  # only here: a server needs onnxruntime alone

    from zoo_onnx.size import is_large

    model = onnx.load(str(path))
    if is_large(model):
        return whole
    cut = onnx.utils.Extractor(model)
    ends = [LOGITS, *(() if whole.threshold is None else (UNKNOWN,))]
    first, second = (
        open_session(cut.extract_model([start], end).SerializeToString(), device, path, threads)
        for start, end in ((PHOTOGRAPHS, [PIXELS]), (PIXELS, ends))
    )
    return CutPredictor(whole, first, second)


@dataclass(frozen=True)
class CutPredictor:
    """A `zoo.predictor.Predictor` of two sessions: one prepares an image, the other is the network.

    Attributes:
        whole: The file as it is, for its classes and preprocessing.
        prepare: From a photograph to the network's input.
        network: From the network's input to logits, and scores of strangeness where the file has them.
    """

    whole: OnnxPredictor
    prepare: ort.InferenceSession
    network: ort.InferenceSession

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    @property
    def preprocess(self) -> Any:
        return self.whole.preprocess

    @property
    def device(self) -> str:
        return self.whole.device

    @property
    def threshold(self) -> Threshold | None:
        return self.whole.threshold

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        return self.answers(photographs).logits

    def answers(self, photographs: Sequence[Pixels]) -> Answers:
        """Logits and, where the file has them, scores of strangeness of decoded photographs; see `logits`."""
        outputs = [LOGITS, *(() if self.threshold is None else (UNKNOWN,))]
        found = []
        try:
            for start in range(0, len(photographs), MAX_BATCH):
                prepared = [
                    self.prepare.run([PIXELS], feed := {PHOTOGRAPHS: one[None]}, after_large(feed))[0]
                    for one in photographs[start : start + MAX_BATCH]
                ]
                found.append(self.network.run(outputs, {PIXELS: np.concatenate(prepared)}))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ZooError(f"the file does not run on {len(photographs)} images: {quoted(error)}") from error
        logits, *scores = (np.concatenate(parts) for parts in zip(*found))
        return Answers(logits, scores[0] if scores else None)
