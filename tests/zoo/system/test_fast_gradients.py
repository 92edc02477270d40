"""Clamps in place while training: the same bits as torch's own, without its copy of the inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo.system.fast_gradients import FastGradients

CLAMPS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    nn.ReLU6(inplace=True),
    nn.Hardtanh(-0.5, 2.0, inplace=True),
    lambda values: functional.hardtanh(values, inplace=True),
    lambda values: functional.relu6(values, True),
    nn.ReLU6(),
]


def outputs_and_gradient(clamp: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> list[torch.Tensor]:
    given = given.clone().requires_grad_()
    values = 2 * given
    answer = clamp(values)
    answer.square().sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return [answer.detach(), values.detach(), given.grad]


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_same_bits(clamp: Callable[[torch.Tensor], torch.Tensor], kind: torch.dtype) -> None:
    given = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).mul(4).to(kind)
    given[0, 0, 0] = torch.tensor([0.0, 3.0, torch.nan, torch.inf, -torch.inf])
    expected = outputs_and_gradient(clamp, given)
    with FastGradients():
        found = outputs_and_gradient(clamp, given)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.nan_to_num(9.0), theirs.nan_to_num(9.0)) and ours.dtype == theirs.dtype


def kept_bytes(values: torch.Tensor, clamp: nn.Module) -> int:
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = torch.ones(values.shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        clamp(values + weights).mul(weights)
    return sum(kept.values())


def test_the_inputs_are_not_copied() -> None:
    values, clamp = torch.randn(3, 4), nn.ReLU6(inplace=True)
    with FastGradients():
        ours = kept_bytes(values, clamp)
    assert kept_bytes(values, clamp) - ours == values.nbytes


def test_a_leaf_is_refused_as_by_torch() -> None:
    with FastGradients(), pytest.raises(RuntimeError, match="leaf"):
        functional.relu6(torch.ones(2, requires_grad=True), inplace=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.mul_(2),
        lambda values: values.__iadd__(1),
        lambda values: functional.relu(values, inplace=True),
        lambda values: functional.hardtanh(values, 1.0, 5.0, inplace=True),
        lambda values: functional.dropout(values, 0.0, True, True),
    ],
)
def test_what_a_clamp_gives_may_be_changed_in_place(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    given = torch.arange(-4.0, 10.0)

    def both(values: torch.Tensor) -> torch.Tensor:
        return change(functional.relu6(values, inplace=True))

    expected = outputs_and_gradient(both, given)
    with FastGradients():
        found = outputs_and_gradient(both, given)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_bounds_that_are_rounded() -> None:
    given = torch.linspace(-1, 1, 999).bfloat16()
    clamp = nn.Hardtanh(0.1, 0.7, inplace=True)
    expected = outputs_and_gradient(clamp, given)
    with FastGradients():
        found = outputs_and_gradient(clamp, given)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
