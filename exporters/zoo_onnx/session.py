"""Opening: an exported file as a predictor on onnxruntime. Never imports torch."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from zoo.data.image import normalise, pixels
from zoo.errors import ZooError, quoted
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo.runtime import DeviceName
from zoo.system.cuda import cuda_devices
from zoo_onnx import metadata as meta
from zoo_onnx.preprocessing import PHOTOGRAPHS, PIXELS

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
LOGITS, PROBABILITIES = "logits", "probabilities"
APART = 1e-3  # of a probability from the softmax of the logits, which is computed in double precision

# Photographs of one size are predicted together, up to this many, and up to this many pixels of input in all
MAX_BATCH = 32
MAX_BATCH_PIXELS = 50_000_000

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class OnnxPredictor:
    """A `zoo.predictor.Predictor`: the file's own graph does everything from decoded photographs on.

    Where it was exported without preprocessing, Pillow prepares them, as in the run.
    """

    session: ort.InferenceSession
    classes: tuple[str, ...]
    preprocess: Preprocess
    inside: bool = True  # the graph prepares photographs itself

    @property
    def device(self) -> str:
        """The first provider of the session, with its device number on CUDA."""
        provider = str(self.session.get_providers()[0])
        options = self.session.get_provider_options().get(provider, {})
        return f"{provider}:{options['device_id']}" if provider == CUDA and "device_id" in options else provider

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Decoded photographs of any sizes, each `(H, W, 3)` uint8 RGB, to `(N, classes)`."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        if not self.inside:
            for start in range(0, len(photographs), MAX_BATCH):
                seen = np.stack([pixels(one, self.preprocess) for one in photographs[start : start + MAX_BATCH]])
                found[start : start + len(seen)] = self._ask({PIXELS: normalise(seen, self.preprocess)})
            return found
        for places in _batches(photographs):
            batch = np.stack([photographs[place] for place in places])
            found[places] = self._ask({PHOTOGRAPHS: batch})
        return found

    def _ask(self, feed: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits of a batch; `probabilities` is what most callers of the file read, so both are looked at.

        Raises:
            ZooError: the probabilities are not the softmax of the logits, or not of as many classes as it names.
        """
        logits: npt.NDArray[np.float32]
        logits, probabilities = self.session.run([LOGITS, PROBABILITIES], feed)
        if logits.shape[1] != len(self.classes):
            raise ZooError(
                f"the file is damaged: it names {len(self.classes)} classes and answers {logits.shape[1]}",
                hint="export the run again",
            )
        if np.isfinite(logits).all() and not np.allclose(probabilities, softmax(logits), atol=APART):
            raise ZooError(
                "the file's `probabilities` are not the softmax of its `logits`", hint="export the run again"
            )
        return logits


def _batches(photographs: Sequence[Pixels]) -> Iterator[list[int]]:
    """Positions of photographs of equal size, in batches that fit into memory."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, photograph in enumerate(photographs):
        by_size.setdefault(photograph.shape, []).append(place)
    for (height, width, *_), places in by_size.items():
        step = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def open_file(path: Path, device: str) -> OnnxPredictor:
    """Open a file on `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device name.
        ZooError: the file is missing, damaged, not ours or too new; or CUDA was asked for and cannot be had.
    """
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}", hint="is it yours to read?") from error
    # by its name, so that onnxruntime finds weights that lie beside it
    session = open_session(str(path), device, path)
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    meta.check_readable(metadata, path)
    classes = meta.decode(metadata, meta.KEY_CLASSES, path)
    preprocess = meta.decode(metadata, meta.KEY_PREPROCESS, path)
    inside = metadata.get(meta.KEY_PREPROCESSING, "graph") == "graph"
    try:
        return OnnxPredictor(session, tuple(map(str, classes)), Preprocess.from_json(preprocess), inside)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ZooError(f"`{path}` is damaged: its metadata cannot be read", hint="export the run again") from error


def open_session(model: str | bytes, device: str, name: object) -> ort.InferenceSession:
    """A session of a file by its name, or of a graph in memory; device and errors are those of `open_file`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: shape nodes on the CPU and the like are normal
    # Between photographs others decode: a pool that spins while it waits takes their cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ordinal = _cuda_ordinal(device)
    providers: list[Any] = [CPU]
    if ordinal is not None:
        _require_minimum()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            ort.preload_dlls()  # CUDA's libraries from pip's packages; it prints what it does not find
        # TF32 keeps 10 bits of a mantissa; one way to evaluate is fp32
        providers.insert(0, (CUDA, {"device_id": ordinal, "use_tf32": "0"}))
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise _refused(error, name) from error
    if ordinal is not None and session.get_providers()[0] != CUDA and device != "auto":
        raise ZooError(
            f"`--device {device}`: onnxruntime could not load its CUDA provider and fell back to the CPU",
            hint="CUDA's and cuDNN's libraries come by `pip install \"onnxruntime-gpu[cuda,cudnn]\"`; "
            "or pass `--device cpu`",
        )
    return session


def _cuda_ordinal(device: str) -> int | None:
    """The CUDA device to try; None for the CPU.

    Raises:
        UsageError: the text is no device.
        ZooError: CUDA was asked for by name and this onnxruntime, or this machine, has none.
    """
    name = DeviceName.parse(device)
    if name.kind == "cpu":
        return None
    built, there = CUDA in ort.get_available_providers(), len(cuda_devices())
    ordinal = name.index
    if name.kind == "auto":
        return 0 if built and there else None
    if not built:
        raise ZooError(
            f"`--device {device}`: this onnxruntime is built without CUDA",
            hint="`pip uninstall onnxruntime`, then `pip install onnxruntime-gpu`; or pass `--device cpu`",
        )
    if ordinal >= there:
        raise ZooError(
            f"`--device {device}`: this machine has {there or 'no'} CUDA device{'' if there == 1 else 's'}",
            hint="pass `--device cpu`, or `--device auto` to take what is there; `nvidia-smi` shows what is there",
        )
    return ordinal


def _require_minimum() -> None:
    """Refuse CUDA of a release whose resize is wrong; see `zoo_onnx.metadata.MINIMUM_ONNXRUNTIME`.

    Raises:
        ZooError: this onnxruntime is older.
    """

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version)[:3])

    if numbers(ort.__version__) < numbers(meta.MINIMUM_ONNXRUNTIME):
        raise ZooError(
            f"onnxruntime {ort.__version__} resizes photographs wrongly on CUDA",
            hint=f"`pip install --upgrade 'onnxruntime-gpu>={meta.MINIMUM_ONNXRUNTIME}'`, or pass `--device cpu`",
        )


def _refused(error: Exception, name: object) -> ZooError:
    """What onnxruntime said, in words."""
    said = quoted(error)
    if any(sign in said for sign in ("INVALID_PROTOBUF", "No graph was found", "ModelProto does not have a graph")):
        return ZooError(f"`{name}` is no ONNX file, or was cut short", hint="copy it again, or export the run again")
    if "opset" in said.lower() or "IR version" in said:
        return ZooError(
            f"`{name}` needs a newer onnxruntime than {ort.__version__}: {said}",
            hint="`pip install --upgrade onnxruntime-gpu`, or `onnxruntime` where there is no CUDA",
        )
    return ZooError(f"onnxruntime refuses `{name}`: {said}", hint="copy it again, or export the run again")
