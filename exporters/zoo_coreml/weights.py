"""The weights that a converted network must hold: those of the traced network, with batch norms folded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.errors import ZooError, quoted

TOLERANCE = 1e-5  # of the largest value of a weight: folding a batch norm rounds in another order
TRACED = 1e-4  # of the largest logit; the traced network runs the same kernels

CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default)


def traced(model: nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Trace a network for one image, and compare what was traced with it.

    Raises:
        ZooError: it cannot be traced, or the traced network gives other logits.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused path that the tracer does not support
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model.eval(), (torch.zeros(1, 3, *size),))
            found, expected = program.module()(image), model(image)
    except Exception as error:  # torch.export raises exceptions of any type
        said = quoted(error)
        raise ZooError(f"the network cannot be traced by torch.export: {type(error).__name__}: {said}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= TRACED:
        raise ZooError(f"the traced network differs by {difference:.2g} of the largest logit")
    return program


def expected_weights(program: torch.export.ExportedProgram) -> dict[str, npt.NDArray[np.float64]]:
    """The parameters of a traced network by name. A convolution before a batch norm has the norm folded into it."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values = {
        node: program.state_dict[name].detach().double().numpy()
        for node, name in names.items()
        if name in program.state_dict
    }
    found: dict[str, npt.NDArray[np.float64]] = {}
    folded: set[str] = set()
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.batch_norm.default:
            continue
        before = node.args[0]
        if before.target not in CONVOLUTIONS or len(before.users) > 1:
            continue
        weight, bias = before.args[1], before.args[2] if len(before.args) > 2 else None
        gamma, beta, mean, variance = (None if one is None else values[one.name] for one in node.args[1:5])
        assert mean is not None and variance is not None
        scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + node.args[7])
        shift = (0.0 if bias is None else values[bias.name]) - mean
        name = names[weight.name]
        found[name] = values[weight.name] * scale.reshape(-1, *[1] * (values[weight.name].ndim - 1))
        found[f"{name} (bias)"] = shift * scale + (0.0 if beta is None else beta)
        folded |= {one.name for one in (weight, bias, *node.args[1:5]) if one is not None}
    parameters = signature.inputs_to_parameters.items()
    return found | {name: values[node] for node, name in parameters if node not in folded and node in values}


def missing_weight(
    expected: Mapping[str, npt.NDArray[np.float64]], constants: Sequence[npt.NDArray[Any]]
) -> str | None:
    """The name of the first weight that is not among the constants of a program; None where all are.

    A constant is a weight's if it has the same values in the same order, or is its transpose.
    """
    by_size: dict[int, list[npt.NDArray[np.float64]]] = {}
    for constant in constants:
        if constant.dtype.kind == "f":
            known = by_size.setdefault(constant.size, [])
            known.append(constant.astype(np.float64).ravel())
            if constant.ndim == 2:
                known.append(constant.T.astype(np.float64).ravel())
    for name, weight in expected.items():
        values = weight.ravel()
        bound = TOLERANCE * max(float(np.abs(values).max(initial=0.0)), 1e-6)
        if not any(float(np.abs(one - values).max(initial=0.0)) <= bound for one in by_size.get(values.size, ())):
            return name
    return None
