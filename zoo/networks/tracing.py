"""Tracing: the graph of a network, and its frozen prefix.

The prefix holds the nodes that depend on no trainable parameter and on no active randomness.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from zoo.errors import type_and_first_line
from zoo.networks.freezing import keeps_statistics
from zoo.preprocess import ImageSize, height_width
from zoo.system.accelerator import random_states, set_random_states

# Numbers of images that a graph is run with, to find the sizes that grow with the number of images
SMALL_BATCH, LARGE_BATCH = 2, 3


@dataclass(frozen=True)
class Prefix:
    """A traced network and where its frozen prefix ends.

    Attributes:
        graph: the whole network; all nodes below are nodes of it.
        frozen: the nodes of the prefix, and constants.
        image_dependent: the nodes that depend on the images in any way.
        boundary: the nodes of the prefix whose tensors the rest of the network uses.
        small_values: values of `boundary` for `SMALL_BATCH` images.
        large_values: values of `boundary` for `LARGE_BATCH` images.
        sizes: the other values of the prefix that the rest uses, by node: numbers, or `PerImage` where a number grows
            with the number of images.
    """

    graph: fx.Graph
    frozen: frozenset[fx.Node]
    image_dependent: frozenset[fx.Node]
    boundary: tuple[fx.Node, ...]
    small_values: tuple[torch.Tensor, ...]
    large_values: tuple[torch.Tensor, ...]
    sizes: Mapping[fx.Node, Any]


@dataclass(frozen=True)
class PerImage:
    """A number that is `factor` times the number of images."""

    factor: int


class _Tracer(fx.Tracer):
    """Traces into a module only where part of it is trainable; every other module becomes one node.

    A module is also traced into where it wraps one trainable layer together with modules that have no parameters, such
    as the pooling in front of a classifier.
    """

    def __init__(self, model: nn.Module, trainable: Collection[str]) -> None:
        # timm and torchvision compare shapes in assertions, which are no part of what is computed
        super().__init__(autowrap_functions=(torch._assert, *_not_traced_by_timm("get_notrace_functions")))
        self._untraced = tuple(_not_traced_by_timm("get_notrace_modules"))
        names = {*(name for name, _ in model.named_parameters()), *trainable}
        self._mixed = {""}
        for path, module in model.named_modules():
            inside = [name for name in names if name.startswith(f"{path}.")]
            training = [name for name in inside if name in trainable]
            owners = {name.rpartition(".")[0] for name in training}
            has_children = any(True for _ in module.children())
            if training and has_children and (len(training) < len(inside) or len(owners - {path}) == 1):
                self._mixed.add(path)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._mixed or isinstance(m, self._untraced)


def _not_traced_by_timm(name: str) -> list[Any]:
    """Functions or modules that timm excludes from tracing, because they branch on sizes; none if timm is not used."""
    module = sys.modules.get("timm.models._features_fx")
    return list(getattr(module, name)()) if module is not None else []


def find_prefix(model: nn.Module, trainable: Collection[str], images: torch.Tensor) -> Prefix:
    """Trace a network, `(N, 3, H, W)` to logits, and find its frozen prefix.

    The modules keep the modes that they are in, so a dropout counts as random only where it is active. Only the prefix
    is run, which tells tensors from sizes.

    Args:
        trainable: names of parameters and buffers that may change.
        images: `LARGE_BATCH` images.

    Raises:
        ValueError: the network cannot be traced; the message says why.
    """
    assert len(images) == LARGE_BATCH
    try:
        graph = _trace(model, trainable)
        runs = [_FrozenInterpreter(model, graph, trainable) for _ in range(2)]
        with torch.no_grad():
            for run, count in zip(runs, (SMALL_BATCH, LARGE_BATCH)):
                run.run(images[:count])
    except Exception as error:
        # a library's forward may raise any kind of error when it is called on a symbolic tensor
        raise ValueError(type_and_first_line(error)) from error
    frozen = frozenset(runs[0].values) & frozenset(runs[1].values)
    image_dependent = _image_dependent(graph)
    useful = useful_nodes(graph)
    crossing = [
        node
        for node in graph.nodes
        if node in frozen
        and node in image_dependent
        and any(user in useful and user not in frozen for user in node.users)
    ]
    boundary = tuple(node for node in crossing if isinstance(runs[0].values[node], torch.Tensor))
    sizes = {
        node: _size(runs[0].values[node], runs[1].values[node], str(node)) for node in crossing if node not in boundary
    }
    small_values, large_values = (tuple(run.values[node] for node in boundary) for run in runs)
    return Prefix(graph, frozen, image_dependent, boundary, small_values, large_values, sizes)


def noise(count: int, size: ImageSize, place: torch.device) -> torch.Tensor:
    """Random images `(count, 3, height, width)` to try a network on, the same in every call."""
    images = torch.randn(count, 3, *height_width(size), generator=torch.Generator().manual_seed(0))
    return images.to(place).contiguous(memory_format=torch.channels_last)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and restore the modes at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _trace(model: nn.Module, trainable: Collection[str]) -> fx.Graph:
    parameters = list(inspect.signature(model.forward).parameters.values())
    fixed = {
        parameter.name: parameter.default
        for parameter in parameters[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return _Tracer(model, trainable).trace(model, concrete_args=fixed or None)


class _FrozenInterpreter(fx.Interpreter):
    """Runs the frozen nodes of a graph and keeps their values.

    A node is not frozen if it reads something trainable, updates running statistics, draws random numbers, or depends
    on such a node.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, trainable: Collection[str]) -> None:
        super().__init__(fx.GraphModule(model, graph), garbage_collect_values=False)
        self._model = model
        self._trainable = set(trainable)
        self._nodes = {node.name: node for node in graph.nodes}
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        sources = [self._nodes[source.name] for source in n.all_input_nodes]
        if n.op == "output" or _reads_any(n, self._trainable) or any(source not in self.values for source in sources):
            return None
        if n.op == "call_module" and self._updates_statistics(str(n.target)):
            return None
        before = random_states()
        value = super().run_node(n)
        if not all(torch.equal(one, other) for one, other in zip(before, random_states())):
            set_random_states(before)
            return None
        self.values[self._nodes[n.name]] = value
        return value

    def _updates_statistics(self, path: str) -> bool:
        modules = self._model.get_submodule(path).modules()
        return any(module.training and keeps_statistics(module) for module in modules)


def _reads_any(node: fx.Node, names: Collection[str]) -> bool:
    """Whether a node itself reads one of the named parameters or buffers."""
    target = str(node.target)
    if node.op == "get_attr":
        return target in names
    return node.op == "call_module" and any(name.startswith(f"{target}.") for name in names)


def _image_dependent(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes that depend on the images, which are the first placeholder."""
    found: set[fx.Node] = set()
    for number, node in enumerate(graph.nodes):
        if number == 0 or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def useful_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes that the output depends on, and those that change a tensor in place; assertions are neither."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or _writes(node) or any(user in found for user in node.users):
            found.add(node)
    return frozenset(found)


def _writes(node: fx.Node) -> bool:
    """Whether a node changes a tensor in place."""
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and node.target in (operator.setitem, operator.iadd, operator.imul, operator.isub)


def _size(small: Any, large: Any, name: str) -> Any:
    """A size, from its values for `SMALL_BATCH` and `LARGE_BATCH` images; `PerImage` replaces numbers that grow.

    Raises:
        ValueError: it depends on the images in another way.
    """
    if isinstance(small, (tuple, list)) and type(small) is type(large) and len(small) == len(large):
        return tuple(_size(one, other, name) for one, other in zip(small, large))
    if isinstance(small, (int, float, str, bool, type(None), torch.dtype, torch.device)):
        if small == large:
            return small
        if isinstance(small, int) and small % SMALL_BATCH == 0 and large == small // SMALL_BATCH * LARGE_BATCH:
            return PerImage(small // SMALL_BATCH)
    raise ValueError(f"`{name}` depends on the images and is neither a tensor nor a size")


def prefix_graph(prefix: Prefix) -> fx.Graph:
    """The prefix as a graph of its own, from images to the tuple of boundary tensors."""
    made = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in _with_dependencies(prefix.graph, prefix.boundary):
        copied[node] = made.node_copy(node, copied.__getitem__)
    made.output(tuple(copied[node] for node in prefix.boundary))
    return made


def rest_graph(prefix: Prefix) -> fx.Graph:
    """The rest as a graph of its own, from the number of images and the boundary tensors to the output."""
    made = fx.Graph()
    count = made.placeholder("count")
    copied: dict[fx.Node, Any] = {
        node: made.placeholder(f"value_{number}") for number, node in enumerate(prefix.boundary)
    }

    def with_count(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(with_count(part) for part in value)
        return made.call_function(operator.mul, (count, value.factor)) if isinstance(value, PerImage) else value

    for node, value in prefix.sizes.items():
        copied[node] = with_count(value)
    useful = useful_nodes(prefix.graph)
    rest = [node for node in prefix.graph.nodes if node in useful and node not in prefix.frozen]
    constants = {source for node in rest for source in node.all_input_nodes} - prefix.image_dependent
    needed = {*rest, *_with_dependencies(prefix.graph, constants)}
    for node in prefix.graph.nodes:
        if node in needed:
            if node.op == "output":
                made.output(fx.map_arg(node.args[0], copied.__getitem__))
            else:
                copied[node] = made.node_copy(node, copied.__getitem__)
    return made


def _with_dependencies(graph: fx.Graph, wanted: Iterable[fx.Node]) -> list[fx.Node]:
    """The wanted nodes and all nodes that they depend on, in the order of the graph."""
    needed: set[fx.Node] = set()
    pending = list(wanted)
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]
