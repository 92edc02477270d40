"""OpenVINO runtimes: the network of an exported file on the CPU. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from zoo.data.image import normalise, pixels
from zoo.errors import ZooError, quoted
from zoo.predictions import softmax
from zoo.preprocess import Preprocess
from zoo.runtime import PHOTOGRAPH, Input, Workload
from zoo_openvino.model import compile_network, openvino, read_file
from zoo_runtimes.onnxruntime import cut_network, preprocess_of, read_model


def load_onnx(work: Workload) -> OpenvinoSession:
    """Open the network of an ONNX file.

    Raises:
        ZooError: the file was not written by zoo, or OpenVINO cannot load it.
    """
    model = read_model(work.target)
    preprocess = preprocess_of(model)
    if preprocess is None:
        raise ZooError("the file was not written by zoo; OpenVINO measures only the network of files that were")
    network: onnx.ModelProto = cut_network(model, preprocess)
    try:
        found = openvino().Core().read_model(network.SerializeToString(), b"")
    except RuntimeError as error:
        raise ZooError(f"OpenVINO cannot load the network: {quoted(error)}") from error
    return OpenvinoSession(found, preprocess, work)


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
