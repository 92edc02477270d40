"""Opens an exported file as a predictor on onnxruntime. Never imports torch."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from zoo.data.image import normalise, pixels
from zoo.errors import UsageError, ZooError, counted, quoted
from zoo.predictions import softmax
from zoo.predictor import Answers
from zoo.preprocess import Preprocess
from zoo.runtime import DeviceName
from zoo.system.cuda import cuda_devices
from zoo.system.processors import asked_threads, usable_cpus
from zoo.unknown import Threshold
from zoo_onnx import metadata as meta
from zoo_onnx.tensor_names import LOGITS, PHOTOGRAPHS, PIXELS, PROBABILITIES, UNKNOWN

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
APART = 1e-3  # tolerance between a probability and the softmax of the logits, computed in double precision

# Limits of a batch, which holds photographs of one size: number of photographs, and of input pixels in total
MAX_BATCH = 32
MAX_BATCH_PIXELS = 50_000_000

# Pixels of a batch of photographs from which on memory is given back after it
LARGE_INPUT = 2_000_000

Pixels = npt.NDArray[np.uint8]


class Graph(Protocol):
    """What a predictor asks of a session: `onnxruntime.InferenceSession`, or another engine for ONNX files."""

    def run(self, outputs: list[str], feed: dict[str, npt.NDArray[Any]], options: Any = None, /) -> Any: ...

    def get_providers(self) -> Any: ...

    def get_provider_options(self) -> Any: ...


@dataclass(frozen=True)
class OnnxPredictor:
    """A `zoo.predictor.Predictor`: the graph of the file computes everything from decoded photographs to logits.

    If the file was exported without preprocessing, Pillow does the preprocessing, as in the run.
    """

    session: Graph
    classes: tuple[str, ...]
    preprocess: Preprocess
    inside: bool = True  # whether the graph includes the preprocessing
    threshold: Threshold | None = None  # how the output `unknown` was set, where the file has one

    @property
    def device(self) -> str:
        """The first provider of the session, with its device number on CUDA."""
        provider = str(self.session.get_providers()[0])
        options = self.session.get_provider_options().get(provider, {})
        return f"{provider}:{options['device_id']}" if provider == CUDA and "device_id" in options else provider

    def logits(self, photographs: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Logits `(N, classes)` of decoded photographs, each `(H, W, 3)` uint8 RGB of any size."""
        return self.answers(photographs).logits

    def answers(self, photographs: Sequence[Pixels]) -> Answers:
        """Logits and, where the file has them, scores of strangeness of decoded photographs; see `logits`."""
        found = np.empty((len(photographs), len(self.classes)), dtype=np.float32)
        scores = None if self.threshold is None else np.empty(len(photographs), dtype=np.float32)

        def put(places: slice | list[int], answers: Answers) -> None:
            found[places] = answers.logits
            if scores is not None:
                scores[places] = answers.unknown

        if not self.inside:
            for start in range(0, len(photographs), MAX_BATCH):
                seen = np.stack([pixels(one, self.preprocess) for one in photographs[start : start + MAX_BATCH]])
                put(slice(start, start + len(seen)), self._ask({PIXELS: normalise(seen, self.preprocess)}))
            return Answers(found, scores)
        for places in _batches(photographs):
            some = [photographs[place] for place in places]
            batch = some[0][None] if len(some) == 1 else np.stack(some)  # a large photograph is not copied
            put(places, self._ask({PHOTOGRAPHS: batch}))
        return Answers(found, scores)

    def _ask(self, feed: dict[str, npt.NDArray[Any]]) -> Answers:
        """Answers for a batch. Most users of the file read `probabilities`, so that output is checked too.

        Raises:
            ZooError: the graph does not run, such as for lack of memory; the probabilities are not the softmax of the
                logits; or the number of classes is wrong.
        """
        logits: npt.NDArray[np.float32]
        outputs = [LOGITS, PROBABILITIES, *(() if self.threshold is None else (UNKNOWN,))]
        try:
            logits, probabilities, *scores = self.session.run(outputs, feed, after_large(feed))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            shape = next(iter(feed.values())).shape
            raise ZooError(f"the file does not run on a batch of shape {shape}: {quoted(error)}") from error
        if logits.shape[1] != len(self.classes):
            raise ZooError(
                f"the file is damaged: it names {counted(len(self.classes), 'class', 'classes')} but gives "
                f"{counted(logits.shape[1], 'logit')}",
                hint="export the run again",
            )
        if np.isfinite(logits).all() and not np.allclose(probabilities, softmax(logits), atol=APART):
            raise ZooError(
                "the file's `probabilities` are not the softmax of its `logits`", hint="export the run again"
            )
        return Answers(logits, scores[0] if scores else None)


def after_large(feed: dict[str, npt.NDArray[Any]]) -> ort.RunOptions | None:
    """Options of a run: after a large image onnxruntime gives back memory, which it would keep for the next one.

    A photograph of 40 megapixels would leave 300 MB behind. None: the usual options.
    """
    photographs = feed.get(PHOTOGRAPHS)
    if photographs is None or photographs.size < 3 * LARGE_INPUT:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _batches(photographs: Sequence[Pixels]) -> Iterator[list[int]]:
    """Yield batches as indices of photographs of equal size that fit into memory together."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, photograph in enumerate(photographs):
        by_size.setdefault(photograph.shape, []).append(place)
    for (height, width, *_), places in by_size.items():
        step = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def open_file(path: Path, device: str, threads: int | None = None) -> OnnxPredictor:
    """Open a file on `auto`, `cpu`, `cuda` or `cuda:N`.

    `threads` is the number of threads that a call computes with. None: onnxruntime's choice.

    Raises:
        UsageError: unknown device name.
        ZooError: the file is missing, damaged, not written by zoo or too new; or CUDA was requested and is not
            available.
    """
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ZooError(f"`{path}` cannot be read: {error.strerror}", hint="check its path and permissions") from error
    # Opened by its path, so that onnxruntime finds weights in a file beside it
    session = open_session(str(path), device, path, threads)
    outputs = [output.name for output in session.get_outputs()]
    return predictor_of(session, session.get_modelmeta().custom_metadata_map, outputs, path)


def predictor_of(session: Graph, metadata: Mapping[str, str], outputs: Collection[str], path: Path) -> OnnxPredictor:
    """A predictor of a file that an engine has opened, from the file's metadata and the names of its outputs.

    Raises:
        ZooError: the file is damaged, not written by zoo or too new.
    """
    meta.check_readable(metadata, path)
    classes = meta.decode(metadata, meta.KEY_CLASSES, path)
    preprocess = meta.decode(metadata, meta.KEY_PREPROCESS, path)
    inside = metadata.get(meta.KEY_PREPROCESSING, "graph") == "graph"
    unknown = meta.decode(metadata, meta.KEY_UNKNOWN, path) if meta.KEY_UNKNOWN in metadata else None
    if (unknown is not None) != (UNKNOWN in outputs):
        raise ZooError(
            f"`{path}` is damaged: it has the output `{UNKNOWN}` or `{meta.KEY_UNKNOWN}`, and not both",
            hint="export the run again",
        )
    try:
        threshold = None if unknown is None else Threshold.from_json(unknown)
        return OnnxPredictor(session, tuple(map(str, classes)), Preprocess.from_json(preprocess), inside, threshold)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ZooError(f"`{path}` is damaged: its metadata cannot be read", hint="export the run again") from error


def open_session(model: str | bytes, device: str, name: object, threads: int | None = None) -> ort.InferenceSession:
    """A session for a file, given its path, or for a graph in memory; devices and errors as in `open_file`."""
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # it would be kept for every size of photograph that is ever sent
    elif asked_threads() is not None or usable_cpus() < (os.cpu_count() or 1):
        options.intra_op_num_threads = asked_threads() or usable_cpus()  # onnxruntime knows of neither
    options.log_severity_level = 3  # errors only: warnings such as shape nodes on the CPU are normal
    # Other threads decode images between calls; a thread pool that spins while it waits would take their cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ordinal = _cuda_ordinal(device)
    providers: list[Any] = [CPU]
    if ordinal is not None:
        _require_minimum()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            ort.preload_dlls()  # loads CUDA's libraries from pip packages; prints the missing ones
        # No TF32, whose mantissa has 10 bits: evaluation is always in fp32
        providers.insert(0, (CUDA, {"device_id": ordinal, "use_tf32": "0"}))
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise _refused(error, name) from error
    if ordinal is not None and session.get_providers()[0] != CUDA and device != "auto":
        raise ZooError(
            f"`--device {device}`: onnxruntime could not load its CUDA provider and fell back to the CPU",
            hint='`pip install "onnxruntime-gpu[cuda,cudnn]"` installs the libraries of CUDA and cuDNN; '
            "or pass `--device cpu`",
        )
    return session


def _cuda_ordinal(device: str) -> int | None:
    """The CUDA device to try; None for the CPU.

    Raises:
        UsageError: unknown device name, or one that onnxruntime is not run on here.
        ZooError: CUDA was requested by name, but this onnxruntime or this machine does not have it.
    """
    name = DeviceName.parse(device)
    if name.kind not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"ONNX files run on cpu cuda, not on `{device}`", hint="pass `--device auto` or `--device cpu`"
        )
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
            hint="pass `--device cpu`, or `--device auto` to use what is available; `nvidia-smi` lists the devices",
        )
    return ordinal


def _require_minimum() -> None:
    """Reject CUDA in releases with a wrong resize; see `zoo_onnx.metadata.MINIMUM_ONNXRUNTIME`.

    Raises:
        ZooError: this onnxruntime is too old.
    """

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version)[:3])

    if numbers(ort.__version__) < numbers(meta.MINIMUM_ONNXRUNTIME):
        raise ZooError(
            f"onnxruntime {ort.__version__} resizes images wrongly on CUDA",
            hint=f"`pip install --upgrade 'onnxruntime-gpu>={meta.MINIMUM_ONNXRUNTIME}'`, or pass `--device cpu`",
        )


def _refused(error: Exception, name: object) -> ZooError:
    """The error for a file that onnxruntime cannot load."""
    said = quoted(error)
    if any(sign in said for sign in ("INVALID_PROTOBUF", "No graph was found", "ModelProto does not have a graph")):
        return ZooError(f"`{name}` is not an ONNX file, or is truncated", hint="copy it again, or export the run again")
    if "opset" in said.lower() or "IR version" in said:
        return ZooError(
            f"`{name}` needs a newer onnxruntime than {ort.__version__}: {said}",
            hint="`pip install --upgrade onnxruntime-gpu`, or `onnxruntime` on a machine without CUDA",
        )
    return ZooError(f"onnxruntime cannot load `{name}`: {said}", hint="copy it again, or export the run again")
