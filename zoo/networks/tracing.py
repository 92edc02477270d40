"""The graph of a network, and its prefix: the part that depends on nothing that comes late and on nothing random."""

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

from zoo.networks.freezing import keeps_statistics

# Images that a graph is run with, twice, to tell what depends on their number
FEW, MORE = 2, 3


@dataclass(frozen=True)
class Prefix:
    """A traced network and where its prefix ends. Nodes are those of `graph`."""

    graph: fx.Graph
    early: frozenset[fx.Node]  # the prefix, and constants
    reached: frozenset[fx.Node]  # what depends on the images, in any way
    ends: tuple[fx.Node, ...]  # tensors of the prefix that the rest uses
    few: tuple[torch.Tensor, ...]  # what `ends` were for `FEW` images
    more: tuple[torch.Tensor, ...]  # and for `MORE`
    sizes: Mapping[fx.Node, Any]  # what else the rest uses of it: numbers, with `Times` in the place of counts


@dataclass(frozen=True)
class Times:
    """A number that is `factor` times the count of images."""

    factor: int


class _Tracer(fx.Tracer):
    """Enters only modules that hold something late beside other things; everything else is one node.

    Other things are parameters, or, around a single layer, what has none: a pooling in front of a classifier.
    """

    def __init__(self, model: nn.Module, late: Collection[str]) -> None:
        # timm and torchvision compare shapes in assertions, which are no part of what is computed
        super().__init__(autowrap_functions=(torch._assert, *_of_timm("get_notrace_functions")))
        self._whole = tuple(_of_timm("get_notrace_modules"))
        names = {*(name for name, _ in model.named_parameters()), *late}
        self._mixed = {""}
        for path, module in model.named_modules():
            inside = [name for name in names if name.startswith(f"{path}.")]
            mine = [name for name in inside if name in late]
            owners = {name.rpartition(".")[0] for name in mine}
            if mine and any(True for _ in module.children()) and (len(mine) < len(inside) or len(owners - {path}) == 1):
                self._mixed.add(path)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._mixed or isinstance(m, self._whole)


def _of_timm(name: str) -> list[Any]:
    """What timm itself says must not be traced into, where timm is in use: it looks at sizes to choose its way."""
    module = sys.modules.get("timm.models._features_fx")
    return list(getattr(module, name)()) if module is not None else []


def find_prefix(model: nn.Module, late: Collection[str], images: torch.Tensor) -> Prefix:
    """Trace a network `(N, 3, H, W)` to logits and find where what is independent of `late` ends.

    `late` are names of parameters and buffers. The network is taken in the modes that it is in; a dropout counts as
    random only where it is active. The prefix, and nothing else, is run on `MORE` `images`, to tell tensors from sizes.

    Raises:
        ValueError: the network cannot be traced; the message says why.
    """
    assert len(images) == MORE
    try:
        graph = _trace(model, late)
        runs = [_EarlyRun(model, graph, late) for _ in range(2)]
        with torch.no_grad():
            for run, count in zip(runs, (FEW, MORE)):
                run.run(images[:count])
    except Exception as error:
        # what a library's forward raises on a symbolic tensor is of any kind
        raise ValueError(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error
    early = frozenset(runs[0].seen) & frozenset(runs[1].seen)
    reached = _reached(graph)
    useful = useful_nodes(graph)
    crossing = [
        node
        for node in graph.nodes
        if node in early and node in reached and any(user in useful and user not in early for user in node.users)
    ]
    ends = tuple(node for node in crossing if isinstance(runs[0].seen[node], torch.Tensor))
    sizes = {
        node: _by_count(runs[0].seen[node], runs[1].seen[node], str(node)) for node in crossing if node not in ends
    }
    few, more = (tuple(run.seen[node] for node in ends) for run in runs)
    return Prefix(graph, early, reached, ends, few, more, sizes)


def noise(count: int, side: int, place: torch.device) -> torch.Tensor:
    """Images to try a network on, `(count, 3, side, side)`, always the same."""
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return images.to(place).contiguous(memory_format=torch.channels_last)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode for a while, then as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _trace(model: nn.Module, late: Collection[str]) -> fx.Graph:
    parameters = list(inspect.signature(model.forward).parameters.values())
    fixed = {
        parameter.name: parameter.default
        for parameter in parameters[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return _Tracer(model, late).trace(model, concrete_args=fixed or None)


class _EarlyRun(fx.Interpreter):
    """Runs what depends on nothing late, and keeps its values; what turns out to be random is late."""

    def __init__(self, model: nn.Module, graph: fx.Graph, late: Collection[str]) -> None:
        super().__init__(fx.GraphModule(model, graph), garbage_collect_values=False)
        self._model = model
        self._late = set(late)
        self._nodes = {node.name: node for node in graph.nodes}
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        sources = [self._nodes[source.name] for source in n.all_input_nodes]
        if n.op == "output" or _reads(n, self._late) or any(source not in self.seen for source in sources):
            return None
        if n.op == "call_module" and self._follows(str(n.target)):
            return None
        before = _generators()
        value = super().run_node(n)
        if not all(torch.equal(one, other) for one, other in zip(before, _generators())):
            _set_generators(before)
            return None
        self.seen[self._nodes[n.name]] = value
        return value

    def _follows(self, path: str) -> bool:
        modules = self._model.get_submodule(path).modules()
        return any(module.training and keeps_statistics(module) for module in modules)


def _generators() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])


def _set_generators(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def _reads(node: fx.Node, names: Collection[str]) -> bool:
    """Whether a node reads one of the parameters or buffers by itself."""
    target = str(node.target)
    if node.op == "get_attr":
        return target in names
    return node.op == "call_module" and any(name.startswith(f"{target}.") for name in names)


def _reached(graph: fx.Graph) -> frozenset[fx.Node]:
    """What depends on the images: on the first placeholder."""
    found: set[fx.Node] = set()
    for number, node in enumerate(graph.nodes):
        if number == 0 or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def useful_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """What the output depends on, and what changes a tensor in place; an assertion is neither."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or _writes(node) or any(user in found for user in node.users):
            found.add(node)
    return frozenset(found)


def _writes(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and node.target in (operator.setitem, operator.iadd, operator.imul, operator.isub)


def _by_count(few: Any, more: Any, name: str) -> Any:
    """A value that sizes make, with `Times` in the place of numbers that grow with the count of images.

    Raises:
        ValueError: it depends on the images in another way.
    """
    if isinstance(few, (tuple, list)) and type(few) is type(more) and len(few) == len(more):
        return tuple(_by_count(one, other, name) for one, other in zip(few, more))
    if isinstance(few, (int, float, str, bool, type(None), torch.dtype, torch.device)):
        if few == more:
            return few
        if isinstance(few, int) and few % FEW == 0 and more == few // FEW * MORE:
            return Times(few // FEW)
    raise ValueError(f"`{name}` depends on the images and is neither a tensor nor a size")


def prefix_graph(prefix: Prefix) -> fx.Graph:
    """A graph of its own from images to the tuple of `ends`."""
    made = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in _with_sources(prefix.graph, prefix.ends):
        copied[node] = made.node_copy(node, copied.__getitem__)
    made.output(tuple(copied[node] for node in prefix.ends))
    return made


def rest_graph(prefix: Prefix) -> fx.Graph:
    """A graph of its own from the count of images and the `ends` to the output."""
    made = fx.Graph()
    count = made.placeholder("count")
    copied: dict[fx.Node, Any] = {node: made.placeholder(f"value_{number}") for number, node in enumerate(prefix.ends)}

    def with_count(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(with_count(part) for part in value)
        return made.call_function(operator.mul, (count, value.factor)) if isinstance(value, Times) else value

    for node, value in prefix.sizes.items():
        copied[node] = with_count(value)
    useful = useful_nodes(prefix.graph)
    late = [node for node in prefix.graph.nodes if node in useful and node not in prefix.early]
    constants = {source for node in late for source in node.all_input_nodes} - prefix.reached
    needed = {*late, *_with_sources(prefix.graph, constants)}
    for node in prefix.graph.nodes:
        if node in needed:
            if node.op == "output":
                made.output(fx.map_arg(node.args[0], copied.__getitem__))
            else:
                copied[node] = made.node_copy(node, copied.__getitem__)
    return made


def _with_sources(graph: fx.Graph, wanted: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes and all that they depend on, in order."""
    needed: set[fx.Node] = set()
    left = list(wanted)
    while left:
        node = left.pop()
        if node not in needed:
            needed.add(node)
            left += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]
