"""int8: static quantisation by onnxruntime, its method chosen on training photographs, sensitive layers left in fp32.

Weights are signed, a scale a channel; values between layers are unsigned, a scale a tensor, which is what processors
multiply fastest. Scales are constants of the file (static): what a depthwise layer gives differs too much from channel
to channel for scales made up as it runs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from scipy.special import log_softmax

from zoo.errors import ZooError, quoted
from zoo_onnx.preprocessing import PIXELS

# Nodes with weights; what a search leaves in fp32 is one of these
WEIGHTED = ("Conv", "Gemm", "MatMul")
# Between them, quantised too where both neighbours are, so that values stay in 8 bits
BETWEEN = (
    "Add",
    "Mul",
    "Clip",
    "Relu",
    "LeakyRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
    "Sigmoid",
)
# Of networks with attention only the products are: sums along a residual stream and what softmax gives need more bits
PRODUCTS_ONLY = ("LayerNormalization", "Softmax", "SimplifiedLayerNormalization")

METHODS = ("min-max", "percentile", "entropy")
PERCENTILE = 99.99
BATCH = 8
HELD = 4  # images whose inner values are held at once while ranges are read: hundreds of megabytes each
RANKED_ON = 16  # images that the sensitivity of every layer is measured on

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A network in int8, how its ranges were found, and what stayed in fp32."""

    model: onnx.ModelProto
    method: str
    divergences: dict[str, float]  # by method: mean KL divergence of its probabilities from those in fp32
    kept: tuple[str, ...]  # layers in fp32
    layers: int  # with weights, in all
    drop: float  # accuracy lost on the images that all this was chosen on

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "divergences": {name: round(value, 6) for name, value in self.divergences.items()},
            "layers": self.layers,
            "kept_in_fp32": list(self.kept),
            "drop_on_train": self.drop,
        }


def quantise(
    network: onnx.ModelProto,
    *,
    ranges: Values,
    choices: Values,
    labels: npt.NDArray[np.int64],
    max_drop: float,
    note: Callable[[str], None] = lambda text: None,
) -> Quantised:
    """Quantise `pixels` to `logits`; images are normalised pixels `(N, 3, S, S)`.

    The method is the one whose probabilities on `choices` diverge least from those in fp32. Where it loses more
    accuracy there than `max_drop`, layers are left in fp32, most sensitive first, as few as do.

    Raises:
        ZooError: onnxruntime cannot quantise the network, or it loses too much with half of its layers in fp32.
    """
    with tempfile.TemporaryDirectory() as name, _quiet():
        prepared = _prepare(network, Path(name))
        plain = _logits(prepared, choices)
        weighted = [node.name for node in prepared.graph.node if node.op_type in WEIGHTED]
        if not weighted:
            raise ZooError("the network has no layer that int8 knows", hint="pass another `--precision`")
        found: dict[str, tuple[float, Any]] = {}
        for method, tensors in _calibrate(prepared, ranges, Path(name)):
            found[method] = _divergence(plain, _logits(_quantised(prepared, tensors), choices)), tensors
            note(f"int8 by {method}: probabilities diverge by {found[method][0]:.2g}")
        method = min(found, key=lambda one: found[one][0])
        tensors = found[method][1]
        kept: tuple[str, ...] = ()
        model = _quantised(prepared, tensors)
        drop = _drop(plain, _logits(model, choices), labels)
        if drop > max_drop:
            note(f"int8 loses {drop:.4f} on training photographs: looking for the layers that it comes from")
            ranked = _rank(prepared, tensors, weighted, choices[:RANKED_ON], plain[:RANKED_ON])

            def lost(count: int) -> float:
                return _drop(plain, _logits(_quantised(prepared, tensors, ranked[:count]), choices), labels)

            count = _fewest(lost, max_drop, len(weighted) // 2)
            if count is None:
                half = len(weighted) // 2
                raise ZooError(
                    f"int8 loses {drop:.4f} of accuracy on training photographs, and {lost(half):.4f} with {half} of "
                    f"{len(weighted)} layers in fp32; {max_drop:g} is allowed",
                    hint="pass `--precision fp16`, or a larger `--max-drop`",
                )
            kept = tuple(ranked[:count])
            model, drop = _quantised(prepared, tensors, kept), lost(count)
            note(f"int8 with {count} of {len(weighted)} layers in fp32 loses {drop:.4f}")
    return Quantised(
        model=model,
        method=method,
        divergences={name: value for name, (value, _) in found.items()},
        kept=kept,
        layers=len(weighted),
        drop=drop,
    )


def _prepare(network: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The network with shapes inferred, batch norms folded and every node named.

    Raises:
        ZooError: onnxruntime cannot.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, prepared = folder / "network.onnx", folder / "prepared.onnx"
    onnx.save(network, plain)
    try:
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    except Exception as error:  # whatever a graph makes it raise
        raise ZooError(f"the network cannot be prepared for int8: {quoted(error)}") from error
    model: onnx.ModelProto = onnx.load(prepared)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def _kinds(model: onnx.ModelProto) -> list[str]:
    present = {node.op_type for node in model.graph.node}
    attends = bool(present & set(PRODUCTS_ONLY))
    return [*WEIGHTED, *(() if attends else BETWEEN)]


def _calibrate(model: onnx.ModelProto, ranges: Values, folder: Path) -> Iterator[tuple[str, Any]]:
    """Ranges of every tensor by each method.

    Raises:
        ZooError: onnxruntime cannot run the network with its inner values as outputs.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "min-max": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": PERCENTILE}),
        "entropy": (CalibrationMethod.Entropy, {}),
    }
    file = folder / "calibrated.onnx"
    onnx.save(model, file)
    try:
        for name in METHODS:
            method, options = ways[name]
            calibrator = create_calibrator(
                file, _kinds(model), str(folder / "augmented.onnx"), calibrate_method=method, extra_options=options
            )
            for start in range(0, len(ranges), HELD):
                calibrator.collect_data(_Reader(ranges[start : start + HELD]))
            yield name, calibrator.compute_data()
    except Exception as error:  # onnxruntime's, and whatever a graph makes its tools raise
        raise ZooError(f"int8 cannot read the ranges of values: {quoted(error)}") from error


class _Reader:
    """Images one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, images: Values) -> None:
        self._rest = iter(images)

    def get_next(self) -> dict[str, Values] | None:
        image = next(self._rest, None)
        return None if image is None else {PIXELS: image[None]}

    def __len__(self) -> int:
        return 0


def _quantised(
    model: onnx.ModelProto, tensors: Any, kept: Sequence[str] = (), only: Sequence[str] = ()
) -> onnx.ModelProto:
    """The model in int8, but for nodes `kept`; of `only` these nodes if there are any.

    Raises:
        ZooError: onnxruntime cannot.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        quantizer = QDQQuantizer(
            copy,
            True,  # a scale a channel
            False,  # all eight bits
            QuantType.QInt8,
            QuantType.QUInt8,
            tensors,
            list(only),
            list(kept),
            _kinds(model),
            {},
        )
        quantizer.quantize_model()
    except Exception as error:  # whatever a graph makes it raise
        raise ZooError(f"the network cannot be quantised: {quoted(error)}") from error
    made: onnx.ModelProto = quantizer.model.model
    return made


def _rank(model: onnx.ModelProto, tensors: Any, nodes: Sequence[str], images: Values, plain: Values) -> list[str]:
    """Nodes by how far the probabilities diverge when that node alone is in int8, most first."""
    far = {node: _divergence(plain, _logits(_quantised(model, tensors, only=[node]), images)) for node in nodes}
    return sorted(nodes, key=lambda node: -far[node])


def _fewest(lost: Callable[[int], float], max_drop: float, most: int) -> int | None:
    """The least number of layers in fp32 with which no more than `max_drop` is lost, by doubling and halving."""
    low, high = 0, 1
    while lost(min(high, most)) > max_drop:
        if high >= most:
            return None
        low, high = high, high * 2
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lost(middle) <= max_drop else (middle, high)
    return high


def _logits(model: onnx.ModelProto, images: Values) -> Values:
    """Logits by onnxruntime on the CPU.

    Raises:
        ZooError: it refuses the graph, or cannot run it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = [session.run(None, {PIXELS: images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)]
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise ZooError(f"onnxruntime cannot run the network in int8: {quoted(error)}") from error
    return np.concatenate(found)


def _divergence(plain: Values, other: Values) -> float:
    """Mean Kullback-Leibler divergence of `other`'s probabilities from `plain`'s."""
    a, b = (log_softmax(logits.astype(np.float64), axis=1) for logits in (plain, other))
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def _drop(plain: Values, other: Values, labels: npt.NDArray[np.int64]) -> float:
    return float((plain.argmax(1) == labels).mean() - (other.argmax(1) == labels).mean())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice and progress off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
