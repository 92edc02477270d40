"""The graph of a network, and its prefix: the part that depends on none of the parameters that come late."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn


@dataclass(frozen=True)
class Prefix:
    """A traced network and the nodes where its prefix ends."""

    graph: fx.Graph
    ends: tuple[fx.Node, ...]  # tensors of the prefix that the rest uses
    values: tuple[torch.Tensor, ...]  # what `ends` were for the images that were passed


class _Tracer(fx.Tracer):
    """Enters only modules that hold late parameters beside others; everything else is one node."""

    def __init__(self, model: nn.Module, late: Collection[str]) -> None:
        # timm and torchvision compare shapes in assertions, which are no part of what is computed
        super().__init__(autowrap_functions=(torch._assert, *_of_timm("get_notrace_functions")))
        self._whole = tuple(_of_timm("get_notrace_modules"))
        names = [name for name, _ in model.named_parameters()]
        self._mixed = {""}
        for path, module in model.named_modules():
            inside = [name in late for name in names if name.startswith(f"{path}.")]
            if any(inside) and not all(inside) and any(True for _ in module.children()):
                self._mixed.add(path)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._mixed or isinstance(m, self._whole)


def _of_timm(name: str) -> list[Any]:
    """What timm itself says must not be traced into, where timm is in use: it looks at sizes to choose its way."""
    module = sys.modules.get("timm.models._features_fx")
    return list(getattr(module, name)()) if module is not None else []


def find_prefix(model: nn.Module, late: Collection[str], images: torch.Tensor) -> Prefix:
    """Trace a network `(N, 3, H, W)` to logits and find where what is independent of `late` parameters ends.

    Random layers are traced as in eval mode. `images` are passed through, to tell tensors from sizes.

    Raises:
        ValueError: the network cannot be traced; the message says why.
    """
    modes = {path: module.training for path, module in model.named_modules()}
    model.eval()
    try:
        graph = _trace(model, late)
        values = _Recorder(fx.GraphModule(model, graph))
        with torch.no_grad():
            values.run(images)
    except Exception as error:
        # what a library's forward raises on a symbolic tensor is of any kind
        raise ValueError(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error
    finally:
        for path, module in model.named_modules():
            module.training = modes[path]
    parameters = {name for name, _ in model.named_parameters()}
    early: set[fx.Node] = set()
    reached: set[fx.Node] = set()  # depends on the images
    for node in graph.nodes:
        own = _parameters_of(node, parameters)
        if not (own & set(late)) and all(source in early for source in node.all_input_nodes) and node.op != "output":
            early.add(node)
        if node.op == "placeholder" or any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    ends = tuple(
        node
        for node in graph.nodes
        if node in early
        and node in reached
        and isinstance(values.seen.get(node.name), torch.Tensor)
        and any(user not in early and _matters(user) for user in node.users)
    )
    return Prefix(graph, ends, tuple(values.seen[node.name] for node in ends))


def _trace(model: nn.Module, late: Collection[str]) -> fx.Graph:
    parameters = list(inspect.signature(model.forward).parameters.values())
    fixed = {
        parameter.name: parameter.default
        for parameter in parameters[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return _Tracer(model, late).trace(model, concrete_args=fixed or None)


def _parameters_of(node: fx.Node, parameters: Collection[str]) -> set[str]:
    target = str(node.target)
    if node.op == "get_attr":
        return {target} & set(parameters)
    if node.op == "call_module":
        return {name for name in parameters if name.startswith(f"{target}.")}
    return set()


def _matters(node: fx.Node) -> bool:
    """Whether the output depends on a node; an assertion's result is used by nothing."""
    return node.op == "output" or any(_matters(user) for user in node.users)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.seen[n.name] = value
        return value
