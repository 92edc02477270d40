"""Finds the first layer at which an exported network differs from torch, for the error message."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from zoo_onnx.tensor_names import PIXELS

SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of a node: the modules that it was traced in, outermost first


def outputs_of_modules(model: onnx.ModelProto) -> dict[str, str]:
    """The output tensor of each module, by its path, as recorded by `torch.export`; empty if it recorded none."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
        for path in _paths(scopes):
            found[path] = node.output[0]  # nodes are in order, so the last one of a module gives its output
    return found


def first_apart(
    model: nn.Module, exported: onnx.ModelProto, outputs: dict[str, str], pixels: torch.Tensor, tolerance: float
) -> str | None:
    """The path of the first module whose output differs by more than `tolerance` times its largest value; or None.

    `outputs` is the result of `outputs_of_modules` before the model was stripped.
    """
    seen: dict[str, Any] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                seen.pop(path, None)  # the last call of a module counts, as in `outputs_of_modules`
                seen[path] = output.float().numpy().copy()

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path in outputs]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    probe = onnx.ModelProto()
    probe.CopyFrom(exported)
    made = {name for node in probe.graph.node for name in node.output}
    asked = {path: outputs[path] for path in seen if outputs[path] in made}
    there = {value.name for value in probe.graph.output}
    for name in dict.fromkeys(asked.values()):
        if name not in there:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # so that no tensor is lost to fusion
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(asked.values()))
    values = dict(zip(names, session.run(names, {PIXELS: pixels.numpy()})))
    for path, mine in seen.items():  # in the order in which modules returned: inner ones before outer ones
        other = values.get(asked.get(path, ""))
        if other is None or other.shape != mine.shape:
            continue
        if not np.abs(other - mine).max() <= tolerance * max(float(np.abs(mine).max()), 1e-6):
            return path
    return None


def _paths(scopes: str | None) -> list[str]:
    if scopes is None:
        return []
    try:
        found = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return []
    return [path for path in found if isinstance(path, str) and path]
