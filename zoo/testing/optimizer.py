"""The laws of optimizers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import torch
from torch import nn

from zoo.config.choice import choose
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.storage.files import json_text
from zoo.testing.law import Violation, require
from zoo.training.optimizer import ParameterGroup, make_optimizer, take_step
from zoo.training.optimizer_state import pack, unpack

STEPS = 6
RATE = 1e-2


def check_optimizer(optimizer: str, *, plugins: Plugins | None = None) -> None:
    """Check an optimizer on a small network with a kernel, a matrix, vectors and a number.

    It changes the parameters that it is given and no others, and none that has no gradient. A group at a tenth of the
    rate changes less, and weight decay has an effect. Steps lower a loss, and gradients of 0 leave finite weights. Its
    state, saved after any step and loaded into another optimizer, continues with the same bits.

    Args:
        optimizer: Its text, as `--optimizer` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    choice = choose(optimizer, plugins.optimizers, plugins)
    try:
        _check_changes(_Training(optimizer, plugins), optimizer)
        _check_groups(_Training(optimizer, plugins), optimizer)
        for saved in (1, STEPS // 2):
            _check_state(_Training(optimizer, plugins), saved, optimizer)
        still = _Training(optimizer, plugins)
        still.step(1, scale=0.0)
        still.step(2)
    except ZooError as error:
        raise Violation(error.message) from error
    finite = all(bool(value.isfinite().all()) for value in still.model.parameters())
    require(finite, f"`{choice}`: a step with gradients of 0 makes weights that are not finite")


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 4, 3)
        self.kernel = nn.Conv2d(4, 8, 3, bias=False)  # a norm takes any bias off
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.kernel(self.frozen(images))).relu().mean((2, 3))
        answer: torch.Tensor = self.head(self.scale * found)
        return answer


class _Training:
    """A small network on images of noise, and an optimizer of all but a frozen layer."""

    def __init__(self, text: str, plugins: Plugins) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.model = _Network().to(memory_format=torch.channels_last)
            self.images = torch.randn(9, 3, 8, 8)
        self.model.frozen.requires_grad_(False)
        self.labels = torch.arange(9) % 3
        self.text, self.plugins = text, plugins
        self.optimizer = self._optimizer(self.model)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = (
            ParameterGroup(names=("kernel.weight",), lr=RATE / 10, weight_decay=0.01),
            ParameterGroup(names=("norm.weight", "norm.bias"), lr=RATE / 10, weight_decay=0.0),
            ParameterGroup(names=("head.weight",), lr=RATE, weight_decay=0.01),
            ParameterGroup(names=("head.bias", "scale", "unused"), lr=RATE, weight_decay=0.0),
        )
        return make_optimizer(model, groups, choose(self.text, self.plugins.optimizers, self.plugins))

    def loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.images), self.labels)

    def step(self, number: int, scale: float = 1.0) -> None:
        """Take a step, at a rate of its own, with gradients that are multiplied."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * number / STEPS
        self.optimizer.zero_grad(set_to_none=True)
        (scale * self.loss()).backward()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(number)
            take_step(self.optimizer, self.text)

    def reloaded(self) -> _Training:
        """A copy with the optimizer's state as a checkpoint has it."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = self._optimizer(other.model)
        tensors, described = pack(self.optimizer, self.text)
        kept = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        unpack(other.optimizer, kept, json.loads(json_text(described)), self.text)
        return other


def _check_changes(training: _Training, text: str) -> None:
    before, first = _weights(training.model), float(training.loss().detach())
    for number in range(1, 5 * STEPS):
        training.step(min(number, STEPS))
    after = _weights(training.model)
    given = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in training.model.named_parameters():
        changed = not torch.equal(before[name], after[name])
        if id(parameter) not in given:
            require(not changed, f"`{text}` changes a parameter that it is not given")
        elif parameter.grad is None:
            require(not changed, f"`{text}` changes a parameter without a gradient")
        else:
            require(changed, f"`{text}` does not change `{name}`, of shape {tuple(parameter.shape)}")
    last = float(training.loss().detach())
    require(last < first, f"`{text}`: after {5 * STEPS} steps the loss is {last:g}, and was {first:g} at first")


def _check_groups(training: _Training, text: str) -> None:
    """Three equal matrices with the same gradient: one as it is, one at a tenth of the rate, one with weight decay."""
    model = nn.Module()
    start, gradient = training.model.head.weight.detach(), torch.linspace(-1, 1, 24).reshape(3, 8)
    for name in ("plain", "slow", "decayed"):
        model.register_parameter(name, nn.Parameter(start.clone()))
    groups = (
        ParameterGroup(names=("plain",), lr=RATE, weight_decay=0.0),
        ParameterGroup(names=("slow",), lr=RATE / 10, weight_decay=0.0),
        ParameterGroup(names=("decayed",), lr=RATE, weight_decay=0.5),
    )
    optimizer = make_optimizer(model, groups, choose(text, training.plugins.optimizers, training.plugins))
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = gradient.clone()
        take_step(optimizer, text)
    moved = {name: value - start for name, value in _weights(model).items()}
    require(
        float(moved["slow"].norm()) < float(moved["plain"].norm()),
        f"`{text}`: a group at a tenth of the rate changes as much; it does not use the `lr` of its group",
    )
    require(not torch.equal(moved["decayed"], moved["plain"]), f"`{text}` does not use the `weight_decay` of its group")


def _check_state(training: _Training, saved: int, text: str) -> None:
    for number in range(1, saved + 1):
        training.step(number)
    other = training.reloaded()
    for number in range(saved + 1, STEPS + 1):
        for one in (training, other):
            one.step(number)
        same = _differing(training.model, other.model)
        require(not same, f"`{text}`: after its state is saved and loaded, {' '.join(same)} differ at the next steps")


def _differing(one: nn.Module, other: nn.Module) -> Sequence[str]:
    theirs = _weights(other)
    return [f"`{name}`" for name, value in _weights(one).items() if not torch.equal(value, theirs[name])]


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}
