"""Depthwise convolutions that train on a CPU: gradients computed by those kernels of oneDNN that are fast.

oneDNN (3.x, in torch 2.14) computes three gradients slowly: that of the weights where the kernel is wider than 3, which
dense kernels then compute, 16 channels for each one that counts; in bf16, that of the inputs at stride 2, which a
reference loop computes; and that of the inputs at stride 1, which takes twice as long as the forward pass. Here

- the gradient of the weights is computed for up to three of the kernel's columns at a time;
- the gradient of the inputs is a forward pass of the outputs' gradient with the kernel turned round. At stride 2, zeros
  are put between its values first: in bf16 only, since oneDNN is fast enough in fp32.

Milliseconds on one core with AVX-512 (no AMX), 32 images, oneDNN's own and these:

| channels, map, kernel, stride | inputs, fp32 | weights, fp32 | inputs, bf16 | weights, bf16 |
| --- | --- | --- | --- | --- |
| 240, 28, 5, 1 | 9.5, 7.6 | 50, 27 | 6.8, 3.6 | 148, 16 |
| 672, 14, 5, 1 | 7.2, 4.3 | 34, 18 | 5.4, 2.6 | 119, 9.2 |
| 672, 17, 5, 2 | 3.7 | 16 | 102, 3.7 | 86, 5.8 |
| 1152, 7, 5, 1 | 3.3, 1.8 | 22, 6.6 | 1.8, 1.1 | 82, 3.7 |
| 96, 56, 7, 1 | 20, 16 | 144, 53 | 16, 10 | 234, 49 |

With AVX2 only, fp32: the gradient of the weights at stride 1 takes half as long, the others as long as oneDNN's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

# The largest width of a convolution kernel for which oneDNN computes the gradient of the weights quickly
WIDEST = 3


class Depthwise(torch.autograd.Function):
    """A depthwise convolution with quick gradients, in bf16 within autocast and else in the dtype of its inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,  # N x C x H x W
        weight: torch.Tensor,  # C x 1 x K x K
        bias: torch.Tensor | None,  # C
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> torch.Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype
        values, kernel = inputs.to(kind), weight.to(kind)
        ctx.save_for_backward(values, kernel)
        ctx.settings = list(stride), list(padding), list(dilation)
        ctx.kinds = inputs.dtype, weight.dtype, None if bias is None else bias.dtype
        shift = None if bias is None else bias.to(kind)
        return torch.conv2d(values, kernel, shift, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, kernel = ctx.saved_tensors
        gradient = gradients[0].to(values.dtype)
        found: list[torch.Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            found[0] = _of_inputs(gradient, values, kernel, *ctx.settings).to(ctx.kinds[0])
        if ctx.needs_input_grad[1]:
            found[1] = _of_weights(gradient, values, kernel, *ctx.settings).to(ctx.kinds[1])
        if ctx.needs_input_grad[2]:
            found[2] = gradient.sum((0, 2, 3)).to(ctx.kinds[2])
        return (*found, None, None, None)


def _of_inputs(
    gradient: torch.Tensor,
    values: torch.Tensor,
    kernel: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """The gradient of the inputs `(N, C, H, W)`."""
    size = kernel.shape[2:]
    turned = [most - 1 - added for most, added in zip(size, padding)]
    strided = max(stride) > 1
    slow = strided and values.dtype is torch.bfloat16
    if max(dilation) > 1 or min(turned) < 0 or (strided and not slow):
        return _by_onednn(gradient, values, kernel, stride, padding, dilation, slow, weights=False)
    if strided:
        spread = [length + 2 * added - most + 1 for length, added, most in zip(values.shape[2:], padding, size)]
        zeros = gradient.new_zeros((len(gradient), *spread, len(kernel))).permute(0, 3, 1, 2)  # channels last
        zeros[:, :, :: stride[0], :: stride[1]] = gradient
        gradient = zeros
    return torch.conv2d(gradient, kernel.flip(2, 3), None, 1, turned, 1, len(kernel))


def _of_weights(
    gradient: torch.Tensor,
    values: torch.Tensor,
    kernel: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """The gradient of the weights `(C, 1, K, K)`."""
    width, across, added = kernel.shape[3], stride[1], padding[1]
    wide, strided = width > WIDEST, max(stride) > 1
    if not wide or max(dilation) > 1 or (strided and values.dtype is not torch.bfloat16):
        slow = values.dtype is torch.bfloat16 and wide
        return _by_onednn(gradient, values, kernel, stride, padding, dilation, slow, weights=True)
    parts = []
    for first in range(0, width, WIDEST):
        columns = kernel[..., first : first + WIDEST]
        # the columns of the inputs, from `left` to `right`, that these columns of the kernel meet
        left = first - added
        right = left + (gradient.shape[3] - 1) * across + columns.shape[3]
        begin, end = max(left, 0), min(right, values.shape[3])
        if begin >= end:  # of a kernel wider than the map, some columns meet the padding alone
            parts.append(torch.zeros_like(columns))
            continue
        part = functional.pad(values[..., begin:end], (begin - left, right - end))
        parts.append(_by_onednn(gradient, part, columns, stride, (padding[0], 0), dilation, False, weights=True))
    return torch.cat(parts, 3)


def _by_onednn(
    gradient: torch.Tensor,
    values: torch.Tensor,
    kernel: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    slow: bool,
    *,
    weights: bool,
) -> torch.Tensor:
    """The gradient of the inputs or of the `weights` as oneDNN computes it, in fp32 where it is `slow` in bf16."""
    kind = torch.float32 if slow else values.dtype
    found: torch.Tensor = torch.ops.aten.convolution_backward(
        gradient.to(kind), values.to(kind), kernel.to(kind), None, stride, padding, dilation, False,
        [0, 0], len(kernel), [not weights, weights, False],
    )[int(weights)]  # fmt: skip
    return found
