"""Depthwise convolutions that train in bf16 on a CPU: some gradients are computed in fp32, which is faster.

oneDNN (in torch 2.14) has no bf16 kernels for the gradients of strided convolutions, nor for the weights' gradient of
wide ones, and uses a slow reference loop. Measured on one core with AVX-512 BF16, for a batch of 32, 672 channels of 14
x 14 and a 5 x 5 kernel, in milliseconds in bf16 and in fp32: the gradient of the weights takes 226 and 68, that of the
inputs at stride 2 takes 380 and 3, the forward pass takes 2 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# The largest convolution kernel for which oneDNN computes the gradient of the weights quickly in bf16
WIDEST = 3


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16 whose gradients are computed in bf16 or in fp32, whichever is faster."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,  # N x C x H x W
        weight: torch.Tensor,  # C x 1 x K x K
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> torch.Tensor:
        values, kernel = inputs.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(values, kernel)
        ctx.settings = list(stride), list(padding), list(dilation)
        ctx.kinds = inputs.dtype, weight.dtype
        return torch.conv2d(values, kernel, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, kernel = ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        strided, wide = max(stride) > 1, max(kernel.shape[2:]) > WIDEST
        asked: list[tuple[bool, torch.dtype]] = [
            (ctx.needs_input_grad[0], torch.float32 if strided else torch.bfloat16),
            (ctx.needs_input_grad[1], torch.float32 if strided or wide else torch.bfloat16),
        ]
        found: list[torch.Tensor | None] = []
        for number, (needed, kind) in enumerate(asked):
            if not needed:
                found.append(None)
                continue
            gradient = torch.ops.aten.convolution_backward(
                gradients[0].to(kind), values.to(kind), kernel.to(kind), None, stride, padding, dilation, False,
                [0, 0], len(kernel), [number == 0, number == 1, False],
            )  # fmt: skip
            found.append(gradient[number].to(ctx.kinds[number]))
        return (*found, None, None, None)


class FastDepthwise(TorchFunctionMode):
    """A context manager in which depthwise convolutions use the faster backward pass; for training in bf16 autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7:
            inputs, weight, bias, stride, padding, dilation, groups = args
            depthwise = groups == len(weight) > 1 and weight.shape[1] == 1 and not isinstance(padding, str)
            if depthwise and torch.is_grad_enabled() and (inputs.requires_grad or weight.requires_grad):
                output = _Depthwise.apply(inputs, weight, stride, padding, dilation)
                return output if bias is None else output + bias.to(output.dtype).reshape(1, -1, 1, 1)
        return func(*args, **(kwargs or {}))
