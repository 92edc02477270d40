"""Depthwise convolutions in bf16: the quick backward pass gives torch's own gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoo.system.depthwise import FastDepthwise, _Depthwise


def gradients(layer: nn.Conv2d, inputs: torch.Tensor, quick: bool) -> list[torch.Tensor]:
    layer.zero_grad()
    given = inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if quick:
            with FastDepthwise():
                answer = layer(given)
        else:
            answer = layer(given)
    answer.float().square().sum().backward()
    found = [answer.detach(), given.grad, layer.weight.grad, *([layer.bias.grad] if layer.bias is not None else [])]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_torch_s_own(stride: int, kernel: int, dilation: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding=1, dilation=dilation, groups=8, bias=bias)
    inputs = torch.randn(4, 8, 14, 14).contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(gradients(layer, inputs, True), gradients(layer, inputs, False), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert torch.allclose(ours.float(), theirs.float(), rtol=0.02, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), True),
        (nn.Conv2d(8, 8, 3), False),
        (nn.Conv2d(8, 8, 3, groups=4), False),
        (nn.Conv2d(8, 16, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, groups=8, padding="same"), False),
    ],
)
def test_only_depthwise_layers_are_taken(layer: nn.Conv2d, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    apply = _Depthwise.apply

    def noted(*given: Any) -> Any:
        calls.append(1)
        return apply(*given)

    monkeypatch.setattr(_Depthwise, "apply", noted)
    inputs = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16), FastDepthwise():
        layer(inputs)
        assert bool(calls) is taken
        calls.clear()
        with torch.no_grad():  # nothing to differentiate
            layer(inputs)
    assert not calls


def test_a_frozen_layer_passes_gradients_on_without_its_own() -> None:
    layer = nn.Conv2d(8, 8, 5, 2, groups=8, bias=False).requires_grad_(False)
    given = torch.randn(2, 8, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), FastDepthwise():
        layer(given).float().sum().backward()
    assert given.grad is not None and layer.weight.grad is None
