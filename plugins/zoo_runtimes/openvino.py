"""OpenVINO runtimes: the network of an exported file on the CPU. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from zoo.data.image import normalise, pixels
from zoo.errors import UsageError, ZooError, quoted
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo.runtime import PHOTOGRAPH, DeviceName, Input, Workload, asked_threads
from zoo_onnx import metadata as meta
from zoo_openvino.model import OpenvinoPredictor, compile_network, openvino, read_file
from zoo_runtimes.onnxruntime import cut_network, preprocess_of, read_model


def load_onnx(work: Workload) -> OpenvinoSession:
    """Open the network of an ONNX file.

    Raises:
        ZooError: the file was not written by zoo, or OpenVINO cannot load it.
    """
    return OpenvinoSession(*_network_of(read_model(work.target)), work)


def open_onnx(path: Path, device: str) -> OpenvinoPredictor:
    """Open the network of an ONNX file as a predictor, on `auto` or `cpu`. Pillow does the preprocessing.

    Raises:
        UsageError: another device.
        ZooError: the file was not written by zoo or is damaged, or OpenVINO is absent or cannot load it.
    """
    if DeviceName.parse(device).kind not in ("auto", "cpu"):
        raise UsageError(f"OpenVINO runs on the CPU here, not on `{device}`", hint="pass `--device cpu`")
    model = read_model(path)
    network, preprocess = _network_of(model)
    metadata = meta.read(model)
    if meta.KEY_UNKNOWN in metadata:
        raise ZooError(
            f"`{path}` scores unknown images, and OpenVINO runs the network alone",
            hint="pass `--runtime onnxruntime-cpu`",
        )
    classes = tuple(map(str, meta.decode(metadata, meta.KEY_CLASSES, path)))
    return OpenvinoPredictor(compile_network(network, asked_threads()), classes, preprocess)


def _network_of(model: onnx.ModelProto) -> tuple[Any, Preprocess]:
    """The network of an ONNX file, as OpenVINO reads it, and the preprocessing before it.

    Raises:
        ZooError: the file was not written by zoo, or OpenVINO is absent or cannot load it.
    """
    preprocess = preprocess_of(model)
    if preprocess is None:
        raise ZooError("the file was not written by zoo; OpenVINO runs only the network of files that were")
    network: onnx.ModelProto = cut_network(model, preprocess)
    try:
        return openvino().Core().read_model(network.SerializeToString(), b""), preprocess
    except RuntimeError as error:
        raise ZooError(f"OpenVINO cannot load the network: {quoted(error)}") from error


def load_ir(work: Workload) -> OpenvinoSession:
    """Open a file that `zoo export --to openvino` wrote.

    Raises:
        ZooError: it is another file, or damaged.
    """
    model, record = read_file(work.target)
    return OpenvinoSession(model, Preprocess.from_json(record["preprocess"]), work)


class OpenvinoSession:
    """A network on the CPU in fp32, with the number of threads that all subjects of the measurement have."""

    def __init__(self, model: Any, preprocess: Preprocess, work: Workload) -> None:
        self._work, self._preprocess = work, preprocess
        self._network = compile_network(model, work.threads)

    @property
    def provider(self) -> str:
        """The version and the execution devices reported by the compiled network."""
        version = openvino().__version__.partition("-")[0]
        return f"OpenVINO {version} {', '.join(self._network.get_property('EXECUTION_DEVICES'))}"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("preprocessing is done by Pillow, not in the graph",) if self._work.with_preprocess else ()

    @property
    def input(self) -> Input:
        if self._work.with_preprocess:
            return Input(dtype="uint8", shape=(*PHOTOGRAPH, 3))
        return Input(dtype="float32", shape=(3, *self._preprocess.input_size))

    def prepare(self, batch: npt.NDArray[Any]) -> Callable[[], object]:
        request = self._network.create_infer_request()  # one for each caller, because a request holds its own tensors
        if not self._work.with_preprocess:
            return lambda: request.infer({0: batch})

        def photographs() -> npt.NDArray[Any]:
            seen = np.stack([pixels(photograph, self._preprocess) for photograph in batch])
            return softmax(request.infer({0: normalise(seen, self._preprocess)})[0])

        return photographs
