"""The score of unknown images as nodes of a graph: from `probabilities` and the head's input to `unknown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo.unknown import CONFIDENCE, Space, UnknownScore
from zoo_onnx.tensor_names import FEATURES, PROBABILITIES, UNKNOWN

PREFIX = "unknown_"  # of the names of nodes and constants


@dataclass
class ScoreNodes:
    """Nodes and constants of the score."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        """Add a node; returns the name of its output."""
        output = name if name == UNKNOWN else f"{PREFIX}{name}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{PREFIX}{name}", **attributes))
        return output

    def constant(self, name: str, value: npt.ArrayLike, kind: type[np.generic] = np.float32) -> str:
        """Add a constant; returns its name."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, kind)), f"{PREFIX}{name}")
        self.constants.append(tensor)
        return f"{PREFIX}{name}"


def build_score(score: UnknownScore) -> ScoreNodes:
    """The nodes that compute `unknown` `(N,)` from `probabilities` `(N, classes)` and `features` `(N, D)`."""
    part = ScoreNodes()
    last = part.constant("last_axis", [1], np.int64)
    scaled = []
    for name, (slope, offset) in score.scales.items():
        if name == CONFIDENCE:  # slope (1 - p) + offset
            value = part.node("ReduceMax", [PROBABILITIES, last], "probability", keepdims=0)
            slope, offset = -slope, slope + offset
        else:
            assert score.space is not None
            value = _distance(part, score.space, last)
        times = part.node("Mul", [value, part.constant(f"{name}_slope", slope)], f"{name}_times_slope")
        scaled.append(part.node("Add", [times, part.constant(f"{name}_offset", offset)], name))
    part.node("Max", scaled, UNKNOWN)
    return part


def _distance(part: ScoreNodes, space: Space, last: str) -> str:
    """`zoo.unknown.Space.distances` of `features`."""
    moved = part.node("Sub", [FEATURES, part.constant("origin", space.origin)], "moved")
    whole = part.node("ReduceSumSquare", [moved, last], "length", keepdims=0)
    dense = part.node("Mul", [whole, part.constant("density", space.density)], "dense")
    along = part.node("MatMul", [moved, part.constant("directions", space.directions)], "along")
    length = part.node("ReduceSumSquare", [along, last], "length_along", keepdims=0)
    products = part.node("MatMul", [moved, part.constant("normals", 2 * space.normals)], "products")
    apart = part.node("Sub", [part.constant("class_constants", space.constants), products], "of_classes")
    nearest = part.node("ReduceMin", [apart, last], "of_nearest", keepdims=0)
    return part.node("Add", [part.node("Sub", [dense, length], "outside"), nearest], "squared_distance")


def score_value() -> onnx.ValueInfoProto:
    """The declaration of the output `unknown`."""
    return helper.make_tensor_value_info(UNKNOWN, TensorProto.FLOAT, ["N"])
