"""Fast gradients: a mode for training on a CPU in which faster layers of the same function take the place of some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zoo.system.clamping import Clamp, keep_clamped
from zoo.system.depthwise import WIDEST, Depthwise


class FastGradients(TorchFunctionMode):
    """A context manager for the forward pass of a training step on a CPU, in fp32 or in bf16 autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keep_clamped(func, args, kwargs or {})
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_slow_depthwise(*args):
            return _depthwise(*args[:6])
        if func is functional.hardtanh or func is functional.relu6:
            bounds = _bounds(func, *args, **(kwargs or {}))
            fit = bounds is not None and _are_exact(bounds, args[0].dtype)
            if bounds is not None and fit and _is_differentiated(args[0]) and not args[0].is_leaf:
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


def _depthwise(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: int | Sequence[int]
) -> Any:
    """`Depthwise`, of what autocast makes of its arguments and with two numbers for each setting."""
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype
    # outside of the function, so that autograd sees the conversions when it differentiates twice
    values, kernel = inputs.to(kind), weight.to(kind)
    pairs = [(each, each) if isinstance(each, int) else tuple(each) * (3 - len(each)) for each in settings]
    return Depthwise.apply(values, kernel, bias, *pairs)


def _are_exact(bounds: tuple[float, float], kind: torch.dtype) -> bool:
    """Whether bounds are numbers of a dtype: else a value at its bound, once rounded, may seem to lie within."""
    return kind in (torch.float32, torch.float64) or torch.tensor(bounds, dtype=kind).tolist() == list(bounds)


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
