"""Depthwise convolutions: the quick gradients are torch's own, up to rounding."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from zoo.system.depthwise import Depthwise
from zoo.system.fast_gradients import FastGradients


def gradients(layer: nn.Conv2d, inputs: torch.Tensor, quick: bool, kind: torch.dtype | None) -> list[torch.Tensor]:
    layer.zero_grad()
    given = inputs.clone().requires_grad_()
    with torch.autocast("cpu", kind, enabled=kind is not None), FastGradients() if quick else nullcontext():
        answer = layer(given)
    answer.float().square().sum().backward()
    found = [answer.detach(), given.grad, layer.weight.grad, *([layer.bias.grad] if layer.bias is not None else [])]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("kernel", [3, 5, (3, 7), (5, 1)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
def test_gradients_are_torch_s_own(stride: Any, kernel: Any, padding: int, dilation: int, kind: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups=8, bias=padding < 2)
    inputs = torch.randn(4, 8, 15, 14).contiguous(memory_format=torch.channels_last)
    bound = 1e-4 if kind is None else 0.02
    for ours, theirs in zip(gradients(layer, inputs, True, kind), gradients(layer, inputs, False, kind), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert torch.allclose(ours.float(), theirs.float(), rtol=bound, atol=bound * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_kernel_may_be_wider_than_the_map(size: int, kind: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    inputs = torch.randn(4, 8, size, size)
    bound = 1e-4 if kind is None else 0.02
    for ours, theirs in zip(gradients(layer, inputs, True, kind), gradients(layer, inputs, False, kind), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=bound, atol=bound * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("layer", "kind", "taken"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), torch.bfloat16, True),
        (nn.Conv2d(8, 8, 3, groups=8), None, False),  # oneDNN computes it quickly
        (nn.Conv2d(8, 8, 5, groups=8), None, True),
        (nn.Conv2d(8, 8, 5), torch.bfloat16, False),
        (nn.Conv2d(8, 8, 5, groups=4), torch.bfloat16, False),
        (nn.Conv2d(8, 16, 5, groups=8), torch.bfloat16, False),
        (nn.Conv2d(8, 8, 5, groups=8, padding="same"), torch.bfloat16, False),
    ],
)
def test_only_depthwise_layers_are_taken(
    layer: nn.Conv2d, kind: Any, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    apply = Depthwise.apply

    def noted(*given: Any) -> Any:
        calls.append(1)
        return apply(*given)

    monkeypatch.setattr(Depthwise, "apply", noted)
    inputs = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind is not None), FastGradients():
        layer(inputs)
        assert bool(calls) is taken
        calls.clear()
        with torch.no_grad():  # nothing to differentiate
            layer(inputs)
    assert not calls


def test_a_frozen_layer_passes_gradients_on_without_its_own() -> None:
    layer = nn.Conv2d(8, 8, 5, 2, groups=8, bias=False).requires_grad_(False)
    given = torch.randn(2, 8, 9, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), FastGradients():
        layer(given).float().sum().backward()
    assert given.grad is not None and layer.weight.grad is None


@pytest.mark.parametrize("settings", [(1, 2, 1), ([1], [2], [1]), ((2, 1), 2, 1)])
def test_settings_of_one_number(settings: tuple[Any, Any, Any]) -> None:
    inputs, weight = torch.randn(2, 4, 9, 9, requires_grad=True), torch.randn(4, 1, 5, 5)
    found = []
    for mode in (nullcontext(), FastGradients()):
        with mode:
            values = torch.conv2d(inputs, weight, None, *settings, 4)
        found.append(torch.autograd.grad(values.square().sum(), inputs)[0])
    torch.testing.assert_close(*found)


def test_a_gradient_of_a_gradient_in_bf16() -> None:
    inputs, weight = torch.randn(2, 4, 9, 9, requires_grad=True), torch.randn(4, 1, 5, 5, requires_grad=True)
    found = []
    for mode in (nullcontext(), FastGradients()):
        with torch.autocast("cpu", torch.bfloat16), mode:
            values = torch.conv2d(inputs, weight, None, (1, 1), (2, 2), (1, 1), 4)
        (first,) = torch.autograd.grad(values.float().square().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), weight)[0])
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05 * float(found[0].abs().max()))
