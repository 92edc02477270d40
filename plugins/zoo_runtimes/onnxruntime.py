"""onnxruntime runtimes: an exported file on one execution provider. Never imports torch."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from zoo.errors import ZooError, first_line
from zoo.preprocess import Preprocess
from zoo.runtime import PHOTOGRAPH, Input, Workload

# Tensor names given by our exporter: the network's input is `pixels`, its output is `logits`
PIXELS, LOGITS = "pixels", "logits"
PREPROCESS_KEY = "zoo.preprocess"

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# Node types in which a network spends its time. If one is assigned to the CPU, the network has left its provider.
# Preprocessing and shape arithmetic have none of them.
CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv")
PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Einsum", "Attention", "MultiHeadAttention")
NORMS = ("LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization")
COMPUTE = frozenset((*CONVOLUTIONS, *PRODUCTS, *NORMS))

SIDE = 224  # pixels, if a file not written by zoo has a dynamic height and width

DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int32", "int64", "bool")  # supported dtypes of the input

Call = Callable[[], object]


def load_cpu(work: Workload) -> OrtSession:
    """Open a file on the CPU.

    Raises:
        ZooError: it is not an ONNX file, or cannot be loaded.
    """
    return OrtSession(work, CPU)


def load_cuda(work: Workload) -> OrtSession:
    """Open a file on CUDA.

    Raises:
        ZooError: as `load_cpu`; or the provider is not available, or parts of the network would run on the CPU.
    """
    return OrtSession(work, CUDA)


def load_tensorrt(work: Workload) -> OrtSession:
    """Open a file on TensorRT, which builds an engine at the first call of each batch size.

    Raises:
        ZooError: as `load_cuda`.
    """
    return OrtSession(work, TENSORRT)


def read_model(file: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ZooError: it is not an ONNX file.
    """
    try:
        model = onnx.load(str(file))
    except Exception as error:  # protobuf's DecodeError, OSError, missing external data
        raise ZooError(f"`{file}` cannot be read as ONNX: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise ZooError(f"`{file}` is not an ONNX file: it has no graph")
    return model


def preprocess_of(model: onnx.ModelProto) -> Preprocess | None:
    """The preprocessing recorded in a file written by `zoo export`; None for other files.

    Raises:
        ZooError: the metadata exist but cannot be read.
    """
    for entry in model.metadata_props:
        if entry.key == PREPROCESS_KEY:
            try:
                return Preprocess.from_json(json.loads(entry.value))
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise ZooError(f"the file's metadata `{PREPROCESS_KEY}` cannot be read") from error
    return None


def cut_network(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Extract the network, from normalised pixels `(N, 3, h, w)` to logits, as a model of its own.

    Raises:
        ZooError: the file has no tensors of these names.
    """
    made = {name for node in model.graph.node for name in node.output}
    if PIXELS in {value.name for value in model.graph.input}:  # exported without preprocessing
        made.add(PIXELS)
    if PIXELS not in made or LOGITS not in made:
        raise ZooError(
            f"the file has no tensors `{PIXELS}` and `{LOGITS}`, the input and output of the network",
            hint="export it again with `zoo export`, or measure the whole file with `--with-preprocess`",
        )
    sized = onnx.helper.make_tensor_value_info(PIXELS, onnx.TensorProto.FLOAT, ["N", 3, *preprocess.input_size])
    kept = [value for value in model.graph.value_info if value.name != PIXELS]
    del model.graph.value_info[:]
    model.graph.value_info.extend([*kept, sized])
    return onnx.utils.Extractor(model).extract_model([PIXELS], [LOGITS])


@dataclass(frozen=True, kw_only=True)
class MeasuredPart:
    """What of a file is measured.

    Attributes:
        model: The whole file, or the network extracted from it.
        whole: Whether it is the whole file.
        name: Name of its input.
        input: The array that it takes.
        outputs: The outputs that are computed. Empty: all.
        notes: What a reader of the figures must know.
    """

    model: onnx.ModelProto
    whole: bool
    name: str
    input: Input
    outputs: tuple[str, ...]
    notes: tuple[str, ...]


def measured_part(model: onnx.ModelProto, work: Workload) -> MeasuredPart:
    """What of a file is measured: the network, or with preprocessing all of it; all of a file that zoo did not write.

    Raises:
        ZooError: the file has no preprocessing, or no network that can be extracted, or not one input of numbers.
    """
    preprocess = preprocess_of(model)
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if preprocess is None and work.with_preprocess:
        raise ZooError(
            "the file was not written by zoo, so it has no preprocessing", hint="leave out `--with-preprocess`"
        )
    if preprocess is None:
        notes = ("not written by zoo: the whole file is measured, from its input to all its outputs",)
    elif work.with_preprocess:
        if PIXELS in {value.name for value in model.graph.input}:
            raise ZooError("the file was exported without preprocessing", hint="leave out `--with-preprocess`")
        outputs = ("probabilities",)
    else:
        model = cut_network(model, preprocess)
    size = (PHOTOGRAPH[0], PHOTOGRAPH[1]) if work.with_preprocess and preprocess else (SIDE, SIDE)
    name, taken = _first_input(model, size)
    whole = preprocess is None or work.with_preprocess
    return MeasuredPart(model=model, whole=whole, name=name, input=taken, outputs=outputs, notes=notes)


class OrtSession:
    """A file, or the network extracted from it, on one provider."""

    def __init__(self, work: Workload, provider: str) -> None:
        self._work = work
        self._asked = provider
        self._notes: list[str] = []
        part = measured_part(read_model(work.target), work)
        self._notes.extend(part.notes)
        self._name, self._input = part.name, part.input
        self._outputs = list(part.outputs) if part.outputs else None
        # External data are looked up beside the file, so such a model must be opened by its path
        self._session = _open(str(work.target) if part.whole else part.model.SerializeToString(), work, provider)
        if self._outputs is None:
            self._outputs = [output.name for output in self._session.get_outputs()]
        self._assigned = _assignment(self._session)
        self._check_provider()

    def _check_provider(self) -> None:
        """Check that the session runs on the requested provider.

        Raises:
            ZooError: all or part of the network would run on another one.
        """
        if self.provider != self._asked:
            raise ZooError(
                f"onnxruntime fell back to {self.provider}: {self._asked} could not be loaded",
                hint="the log in `--json` names the missing library; CUDA and cuDNN are installed by "
                '`pip install "onnxruntime-gpu[cuda,cudnn]"`',
            )
        if self._asked == CPU or self._assigned is None:
            if self._assigned is None and self._asked != CPU:
                self._notes.append("this version of onnxruntime does not report which nodes run on another provider")
            return
        left = self._assigned.get(CPU, Counter())
        compute = Counter({name: count for name, count in left.items() if name in COMPUTE})
        if compute and not self._work.allow_fallback:
            raise ZooError(
                f"{compute.total()} compute nodes of the network run on the CPU, not on {self._asked}: "
                f"{_listed(compute)}",
                hint="pass `--allow-fallback` to measure it anyway",
            )
        for other, nodes in self._assigned.items():
            if other != self._asked:
                self._notes.append(f"{nodes.total()} nodes on {other}: {_listed(nodes)}")

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    @property
    def input(self) -> Input:
        return self._input

    def prepare(self, batch: npt.NDArray[Any]) -> Call:
        # As for torch: without preprocessing from device memory to device memory, with it from main memory
        if self._asked == CPU or self._work.with_preprocess:
            feed = {self._name: batch}
            return lambda: self._session.run(self._outputs, feed)
        binding = self._session.io_binding()
        resident = ort.OrtValue.ortvalue_from_numpy(batch, "cuda", self._work.ordinal)
        binding.bind_ortvalue_input(self._name, resident)
        for output in self._outputs or ():
            binding.bind_output(output, "cuda", self._work.ordinal)

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


def _open(model: str | bytes, work: Workload, provider: str) -> ort.InferenceSession:
    """A session with the number of threads that all subjects of the measurement have; sequential, as by default.

    Raises:
        ZooError: onnxruntime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # ignored before 1.24
    chosen: list[tuple[str, dict[str, Any]]] = [(CPU, {})]
    if provider != CPU:
        if hasattr(ort, "preload_dlls"):  # loads CUDA's libraries from pip packages; prints the missing ones
            with contextlib.suppress(Exception):
                ort.preload_dlls()
        chosen.insert(0, (CUDA, {"device_id": work.ordinal}))
    if provider == TENSORRT:
        chosen.insert(0, (TENSORRT, {"device_id": work.ordinal}))
    try:
        return ort.InferenceSession(model, options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ZooError(f"onnxruntime cannot load the file: {first_line(error)}") from error


def _assignment(session: ort.InferenceSession) -> dict[str, Counter[str]] | None:
    """Number of nodes of each type on each provider, after optimisation; None before onnxruntime 1.24."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    assigned: dict[str, Counter[str]] = {}
    try:
        for part in session.get_provider_graph_assignment_info():
            assigned.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    except Exception:  # the function exists, but this build keeps no record
        return None
    return assigned


def _listed(nodes: Counter[str]) -> str:
    return ", ".join(f"{name} x {count}" if count > 1 else name for name, count in sorted(nodes.items()))


def _first_input(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[str, Input]:
    """Name, dtype and shape of the only input; dynamic dimensions become the batch, 3 channels and `size`.

    Raises:
        ZooError: there is no input or more than one, or its type is not numeric.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ZooError(f"the file has {len(inputs)} inputs; only files with one, for images, can be measured")
    tensor = inputs[0].type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except (KeyError, TypeError, ValueError):
        dtype = "object"
    if dtype not in DTYPES:
        raise ZooError(f"the file's input `{inputs[0].name}` is not of a numeric type")
    given = [dimension.dim_value or None for dimension in tensor.shape.dim]
    if not given:
        raise ZooError(f"the file's input `{inputs[0].name}` has no shape")
    open_sides = (*size, 3) if dtype == "uint8" else (3, *size)
    rest = given[1:]
    filled = tuple(
        known if known is not None else (open_sides[place] if len(rest) == 3 else 1) for place, known in enumerate(rest)
    )
    return inputs[0].name, Input(dtype=dtype, shape=filled, fixed_batch=given[0])
