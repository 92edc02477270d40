"""ReLU6 and other clamps in place while training, without the copy of their input that torch keeps for the gradient.

The gradient is zero where the output lies at a bound. The copy is one of three passes over all values.
"""

from __future__ import annotations

from typing import Any

import torch


class Clamp(torch.autograd.Function):
    """`torch.nn.functional.hardtanh` in place, with the same bits of outputs and gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, least: float, most: float) -> torch.Tensor:
        ctx.bounds = least, most
        ctx.mark_dirty(inputs)
        outputs = inputs.clamp_(least, most)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept = getattr(ctx, "kept", None)
        outputs = ctx.saved_tensors[0] if kept is None else kept
        return torch.ops.aten.hardtanh_backward(gradients[0], outputs, *ctx.bounds), None, None


def keep_clamped(func: Any, args: Any, kwargs: Any) -> None:
    """Copy the output of a clamp that `func` is about to change in place, since its gradient depends on it."""
    node: Any = getattr(args[0], "grad_fn", None) if args and isinstance(args[0], torch.Tensor) else None
    if node is None or getattr(node, "_forward_cls", None) is not Clamp or getattr(node, "kept", None) is not None:
        return
    name = getattr(func, "__name__", "")
    named = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__"
    if named or any(value is True for value in (*args[1:], *kwargs.values())):  # such as `inplace`
        node.kept = args[0].detach().clone()
