"""The built-in optimizers and schedules keep the laws that plugins are held to, and the laws find what breaks them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from zoo.catalogue import Catalogue, Entry
from zoo.config.choice import choose
from zoo.optimizer import Optimizer
from zoo.plugin import Plugins
from zoo.schedule import Schedule
from zoo.testing import check_optimizer, check_schedule
from zoo_timm.optimizer_rows import OPTIMIZERS

PLUGINS = Plugins()


@pytest.mark.parametrize(
    "text", [*(entry.name for entry in PLUGINS.optimizers), "sgd:0", "adamw:0,eps=0.001", "lion,caution=true"]
)
def test_an_optimizer(text: str) -> None:
    check_optimizer(text, plugins=PLUGINS)


@pytest.mark.parametrize("name", [entry.name for entry in PLUGINS.optimizers])
@pytest.mark.parametrize("side", ["low", "high"])
def test_an_optimizer_takes_the_bounds_of_its_options_with_every_flag(name: str, side: str) -> None:
    given = [name]
    for option in PLUGINS.optimizers.find(name).value.options:
        value = True if option.default is False else getattr(option, side)
        if value is not None:
            given.append(f"{option.name}={str(value).lower()}")
    function = choose(",".join(given), PLUGINS.optimizers, PLUGINS).function(1)
    weight = torch.nn.Parameter(torch.ones(2, 3))
    made = function([{"params": [weight], "lr": 1e-3, "weight_decay": 0.0}])
    weight.grad = torch.ones_like(weight)
    made.step()


@pytest.mark.parametrize("text", [*(entry.name for entry in PLUGINS.schedules), "step:5,factor=0", "linear:0.5"])
def test_a_schedule(text: str) -> None:
    check_schedule(text, plugins=PLUGINS)


@pytest.mark.parametrize("row", OPTIMIZERS, ids=lambda row: row.name)
def test_the_defaults_of_timm_s_optimizers_are_timm_s(row: Optimizer) -> None:
    from timm.optim import get_optimizer_class

    found: Any = get_optimizer_class(row.name)
    theirs = inspect.signature(getattr(found, "func", found).__init__).parameters
    bound = getattr(found, "keywords", {})
    for option in row.options:
        if option.name == "momentum" and theirs["momentum"].default in (0, 0.0):
            assert option.default == 0.9  # of timm's own factory
        elif option.name.startswith("beta"):
            assert option.default == theirs["betas"].default[int(option.name[4:]) - 1]
        else:
            assert option.default == bound.get(option.name, theirs[option.name].default), option.name


class Plain(torch.optim.Optimizer):
    """Gradient descent without state, in Python."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.change(group, parameter, self.state[parameter])

    def change(self, group: dict[str, Any], parameter: torch.Tensor, state: dict[str, Any]) -> None:
        parameter.sub_(group["lr"] * (parameter.grad + group["weight_decay"] * parameter))


def plain(change: Callable[..., None]) -> type[Plain]:
    """`Plain`, with something done before each parameter changes."""

    class Changed(Plain):
        def change(self, group: dict[str, Any], parameter: torch.Tensor, state: dict[str, Any]) -> None:
            change(self, group, parameter, state)
            super().change(group, parameter, state)

    return Changed


class Stateful(Plain):
    """State of all kinds: in other types and shapes, nested, in groups, twice the same tensor, and beside `state`."""

    count = 0

    def change(self, group: dict[str, Any], parameter: torch.Tensor, state: dict[str, Any]) -> None:
        if not state:
            one = torch.zeros_like(parameter, dtype=torch.float64)
            state |= {"mean": one, "again": one, "nested": [{"turns": (torch.tensor(3), True, None, math.inf, "x")}]}
        self.count += 1
        group["seen"] = group.get("seen", torch.tensor(0.0)) + 1
        state["mean"].mul_(0.9).add_(parameter.grad.double() / 3)  # type: ignore[union-attr]
        turns = state["nested"][0]["turns"][0].add_(1)
        share = 1 + 0.1 * math.sin(self.count) + 0.01 * float(group["seen"]) + 0.1 * float(turns % 2)
        step = share * group["lr"] * (state["again"] + group["weight_decay"] * parameter)
        parameter.sub_(step.to(parameter.dtype))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict.pop("count")
        super().load_state_dict(state_dict)


def with_row(noun: str, row: Any) -> Plugins:
    plugins = Plugins()
    setattr(plugins, f"{noun}s", Catalogue(noun, f"{noun}s", [Entry(f"{noun}s", row)]))
    return plugins


@pytest.mark.parametrize("target", [Plain, Stateful])
def test_a_right_optimizer_of_a_plugin(target: type[Plain]) -> None:
    check_optimizer("mine", plugins=with_row("optimizer", Optimizer(name="mine", summary="x", target=target)))


def counted(self: Any, group: dict[str, Any], parameter: torch.Tensor, state: dict[str, Any]) -> None:
    self.hidden = getattr(self, "hidden", 0) + 1
    parameter.mul_(1 + 1e-3 * math.sin(self.hidden))


def hurt(*_: Any) -> None:
    raise KeyError("honey")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (plain(counted), "after its state is saved and loaded, `scale` `kernel.weight` .* differ"),
        (plain(lambda _, group, parameter, state: state.update(x={1})), "`state/0/x` is a `set`, which no checkpoint"),
        (plain(lambda _, group, parameter, state: state.update(x=parameter.data)), "shares memory with a parameter"),
        (plain(lambda _, group, parameter, state: parameter.add_(2 * group["lr"] * parameter.grad)), "the loss is"),
        (plain(lambda _, group, parameter, state: group.update(weight_decay=0.0)), "does not use the `weight_decay`"),
        (plain(lambda _, group, parameter, state: group.update(lr=0.01)), "a group at a tenth of the rate"),
        (plain(lambda _, group, parameter, state: parameter.div_(parameter.grad.norm() / parameter.grad.norm())),
         "makes weights that are not finite"),
        (plain(hurt), "failed: KeyError: 'honey'"),
        (torch.optim.LBFGS, "cannot be made: ValueError: LBFGS doesn't support per-parameter options"),
        (lambda groups: torch.optim.LBFGS([one for group in groups for one in group["params"]]), "needs `closure`"),
        (lambda groups: Plain(groups[:1]), "has 1 parameter in its groups, and was given 7"),
        (lambda groups: Plain([one for group in groups for one in group["params"]]), "of different rates into one"),
        (lambda groups: None, "is a `NoneType`, not a `torch.optim.Optimizer`"),
    ],
)  # fmt: skip
def test_a_broken_optimizer_is_found(target: Any, told: str) -> None:
    plugins = with_row("optimizer", Optimizer(name="broken", summary="x", target=target))
    with pytest.raises(AssertionError, match=told):
        check_optimizer("broken", plugins=plugins)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target": lambda step, steps: 1 - step / 2}, "gives -0.5 at step 4 of 10"),
        ({"target": lambda step, steps: 0}, "is 0 at all of 1 steps"),
        ({"target": lambda step, steps: torch.rand(()).item()}, "depends on more than the step"),
        ({"target": lambda step: 1.0}, "does not take 2 arguments"),
        ({"target": lambda step, steps: 1.0, "rise": lambda step, steps: math.nan}, "gives nan at step 1 of"),
        ({"target": lambda step, steps: 1.0, "lowering": lambda losses: losses[-1]}, "gives nan after epoch 1"),
        ({"target": lambda step, steps: 1.0, "lowering": lambda losses: losses[3]}, "failed after epoch 1: IndexError"),
    ],
)
def test_a_broken_schedule_is_found(settings: dict[str, Any], told: str) -> None:
    plugins = with_row("schedule", Schedule(name="broken", summary="x", **settings))
    with pytest.raises(AssertionError, match=told):
        check_schedule("broken", plugins=plugins)
