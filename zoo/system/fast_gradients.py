"""Fast gradients: a mode for training on a CPU in which faster layers of the same function take the place of some."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zoo.system.clamping import Clamp
from zoo.system.depthwise import WIDEST, Depthwise


class FastGradients(TorchFunctionMode):
    """A context manager for the forward pass of a training step on a CPU, in fp32 or in bf16 autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_slow_depthwise(*args):
            inputs, weight, bias, stride, padding, dilation, _ = args
            return Depthwise.apply(inputs, weight, bias, stride, padding, dilation)
        if func is functional.hardtanh or func is functional.relu6:
            bounds = _bounds(func, *args, **(kwargs or {}))
            if bounds is not None and _is_differentiated(args[0]) and not args[0].is_leaf:
                return Clamp.apply(args[0], *bounds)
        return func(*args, **(kwargs or {}))


def _is_differentiated(*tensors: Any) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _is_slow_depthwise(
    inputs: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """Whether oneDNN computes gradients of a convolution slowly: all depthwise in bf16, wide in fp32."""
    if not (groups == len(weight) > 1 and weight.shape[1] == 1) or isinstance(padding, str) or inputs.ndim != 4:
        return False
    slow = torch.is_autocast_enabled("cpu") or inputs.dtype is torch.bfloat16 or weight.shape[3] > WIDEST
    return slow and _is_differentiated(inputs, weight, bias)


def _bounds(func: Any, *args: Any, **kwargs: Any) -> tuple[float, float] | None:
    """The bounds of a clamp that is to be computed in place; None: it is not."""
    if not args:
        return None
    if func is functional.relu6:
        inplace, least, most = _relu6(*args[1:], **kwargs)
    else:
        inplace, least, most = _hardtanh(*args[1:], **kwargs)
    return (float(least), float(most)) if inplace else None


def _relu6(inplace: bool = False) -> tuple[bool, float, float]:
    return inplace, 0.0, 6.0


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> tuple[bool, float, float]:
    return inplace, min_val, max_val
