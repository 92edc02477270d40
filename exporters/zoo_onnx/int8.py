"""int8: static quantisation by onnxruntime, with a method chosen on training images and sensitive layers in fp32.

Weights are signed and of seven bits, with a scale for each channel. Activations are unsigned, with a scale for each
tensor, which is the fastest combination on current processors. Scales are constants in the file (static quantisation):
the channels of a depthwise layer's output differ too much for scales computed at run time.
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
from zoo_onnx.saturation import describe
from zoo_onnx.tensor_names import PIXELS

# Nodes with weights; the search for layers to keep in fp32 is among these
WEIGHTED = ("Conv", "Gemm", "MatMul")
# Nodes between them, quantised if both neighbours are, so that activations stay in 8 bits
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
# In networks with these nodes (attention), only products are quantised: residual sums and softmax need more bits
PRODUCTS_ONLY = ("LayerNormalization", "Softmax", "SimplifiedLayerNormalization")

WEIGHT_BITS = 7
REDUCE_RANGE = True  # weights of seven bits, on which no processor's kernel saturates; see `zoo_onnx.saturation`
METHODS = ("min-max", "percentile", "entropy")
PERCENTILE = 99.99
BATCH = 8
HELD = 4  # images whose activations are in memory at once during calibration: hundreds of megabytes each
RANKED_ON = 16  # images on which the sensitivity of each layer is measured

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A network in int8, with the method of its calibration and the layers kept in fp32."""

    model: onnx.ModelProto
    method: str
    divergences: dict[str, float]  # by method: mean KL divergence of the probabilities from those in fp32
    kept: tuple[str, ...]  # layers in fp32
    layers: int  # number of layers with weights
    saturation: dict[str, object]  # see `zoo_onnx.saturation.describe`
    drop: float  # accuracy lost on `choices`, the images on which method and layers were chosen

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "divergences": {name: round(value, 6) for name, value in self.divergences.items()},
            "layers": self.layers,
            "kept_in_fp32": list(self.kept),
            "drop_on_train": self.drop,
            "weight_bits": WEIGHT_BITS,
            "saturation": self.saturation,
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
    """Quantise a network from `pixels` to `logits`; images are normalised pixels `(N, 3, S, S)`.

    Calibration reads the ranges of activations on `ranges`. The method is the one whose probabilities on `choices`
    diverge least from those in fp32. If it loses more accuracy there than `max_drop`, the smallest sufficient number
    of layers stays in fp32, the most sensitive first.

    Raises:
        ZooError: onnxruntime cannot quantise the network, or too much is lost even with half of the layers in fp32.
    """
    with tempfile.TemporaryDirectory() as name, _quiet():
        prepared = _prepare(network, Path(name))
        plain = _logits(prepared, choices)
        weighted = [node.name for node in prepared.graph.node if node.op_type in WEIGHTED]
        if not weighted:
            raise ZooError("the network has no layer that can be quantised to int8", hint="pass another `--precision`")
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
            note(f"int8 loses {drop:.4f} of accuracy on training photographs; searching for the most sensitive layers")
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
            note(f"int8 with {count} of {len(weighted)} layers in fp32 loses {drop:.4f} of accuracy")
    saturation = describe(model)
    assert not saturation["can_saturate"], saturation
    return Quantised(
        model=model,
        saturation=saturation,
        method=method,
        divergences={name: value for name, (value, _) in found.items()},
        kept=kept,
        layers=len(weighted),
        drop=drop,
    )


def _prepare(network: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Infer shapes, fold batch norms and name every node.

    Raises:
        ZooError: onnxruntime fails.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, prepared = folder / "network.onnx", folder / "prepared.onnx"
    onnx.save(network, plain)
    try:
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    except Exception as error:  # the tool raises exceptions of any type
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
    """Yield each calibration method with the ranges of every tensor.

    Raises:
        ZooError: onnxruntime cannot run the network with its activations as outputs.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    calibrations: dict[str, tuple[Any, dict[str, Any]]] = {
        "min-max": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": PERCENTILE}),
        "entropy": (CalibrationMethod.Entropy, {}),
    }
    file = folder / "calibrated.onnx"
    onnx.save(model, file)
    try:
        for name in METHODS:
            method, options = calibrations[name]
            calibrator = create_calibrator(
                file, _kinds(model), str(folder / "augmented.onnx"), calibrate_method=method, extra_options=options
            )
            for start in range(0, len(ranges), HELD):
                calibrator.collect_data(_Reader(ranges[start : start + HELD]))
            yield name, calibrator.compute_data()
    except Exception as error:  # onnxruntime and its tools raise exceptions of any type
        raise ZooError(f"the network cannot be calibrated for int8: {quoted(error)}") from error


class _Reader:
    """Images one by one, with the interface of onnxruntime's `CalibrationDataReader`."""

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
    """The model in int8, except for the nodes `kept`; if `only` is not empty, just these nodes are quantised.

    Raises:
        ZooError: onnxruntime fails.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        quantizer = QDQQuantizer(
            copy,
            True,  # a scale for each channel
            REDUCE_RANGE,
            QuantType.QInt8,
            QuantType.QUInt8,
            tensors,
            list(only),
            list(kept),
            _kinds(model),
            {},
        )
        quantizer.quantize_model()
    except Exception as error:  # the tool raises exceptions of any type
        raise ZooError(f"the network cannot be quantised: {quoted(error)}") from error
    made: onnx.ModelProto = quantizer.model.model
    return made


def _rank(model: onnx.ModelProto, tensors: Any, nodes: Sequence[str], images: Values, plain: Values) -> list[str]:
    """Nodes sorted by sensitivity: the divergence of probabilities when that node alone is in int8, largest first."""
    far = {node: _divergence(plain, _logits(_quantised(model, tensors, only=[node]), images)) for node in nodes}
    return sorted(nodes, key=lambda node: -far[node])


def _fewest(lost: Callable[[int], float], max_drop: float, most: int) -> int | None:
    """The smallest number of layers in fp32 that loses at most `max_drop`, by exponential and binary search."""
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
        ZooError: it cannot load or run the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = [session.run(None, {PIXELS: images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)]
    except Exception as error:  # onnxruntime's exceptions have no common base class
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
    """Suppress the quantiser's logs and progress output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
