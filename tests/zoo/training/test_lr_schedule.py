"""Schedules: they start, peak and end where their definitions say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.catalogue import Entry
from zoo.config.choice import Choice, choose
from zoo.errors import ZooError
from zoo.option import Option
from zoo.plugin import Plugins
from zoo.schedule import Schedule
from zoo.training.lr_schedule import RateSchedule

PLUGINS = Plugins()
SCHEDULES = [entry.name for entry in PLUGINS.schedules]


def factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    return RateSchedule(choose(schedule, PLUGINS.schedules, PLUGINS), warmup).factor(step, steps)


@given(
    st.sampled_from([*SCHEDULES, "cosine:0.1", "step:5,factor=0.5"]),
    st.integers(1, 300),
    st.floats(0, 0.9),
)
def test_factors_lie_in_0_to_1_and_rise_once(schedule: str, steps: int, warmup: float) -> None:
    factors = [factor(schedule, step, steps, warmup) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


lr_scheduler = torch.optim.lr_scheduler
Make = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def torch_s(steps: int, make: Make) -> list[float]:
    """The rates of one of torch's schedules, whose highest is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR passes an argument on that torch itself deprecates
            schedule.step()
    return rates


def after_warmup(rising: int, make: Make) -> Make:
    """Torch's linear warm-up from 1 / (rising + 1), then another schedule."""

    def both(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        if not rising:
            return make(optimizer)
        warm = lr_scheduler.LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)
        return lr_scheduler.SequentialLR(optimizer, [warm, make(optimizer)], milestones=[rising])

    return both


SIZES = [(10, 3), (97, 29), (300, 0), (30, 12), (4, 1)]


@pytest.mark.parametrize(("steps", "rising"), SIZES)
def test_one_cycle_is_torch_s_with_the_peak_after_the_steps_that_rise(steps: int, rising: int) -> None:
    """Torch's `pct_start` counts the peak's own step among those that rise; all else is torch's default."""

    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        if not rising:  # OneCycleLR divides by zero
            return lr_scheduler.CosineAnnealingLR(optimizer, steps - 1, eta_min=4e-6)
        share = (rising + 1) / steps
        return lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=share, cycle_momentum=False)

    ours = [factor("one-cycle", step, steps, rising / steps) for step in range(steps)]
    assert ours == pytest.approx(torch_s(steps, make), rel=1e-6, abs=1e-9)
    assert ours[0] == pytest.approx(0.04 if rising else 1.0)
    assert ours[-1] == pytest.approx(0.000004)


@pytest.mark.parametrize(("steps", "rising"), SIZES)
def test_the_others_are_torch_s_after_torch_s_warm_up(steps: int, rising: int) -> None:
    rest = steps - rising
    references: dict[str, Make] = {
        "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, rest - 1),
        "step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [math.ceil(rest / 3), math.ceil(rest * 2 / 3)]),
        "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, rest - 1),
        "linear:0.25": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.25, rest - 1),
        "cosine:0.25": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, rest - 1, eta_min=0.25),
        "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "plateau": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }
    for schedule, make in references.items():
        ours = [factor(schedule, step, steps, rising / steps) for step in range(steps)]
        assert ours == pytest.approx(torch_s(steps, after_warmup(rising, make)), rel=1e-6, abs=1e-12), schedule


@pytest.mark.parametrize(("steps", "warmup", "rising"), [(19, 0.1, 2), (11, 0.1, 1), (4, 0.1, 0), (6, 0.3, 2)])
def test_the_rate_rises_over_the_nearest_whole_number_of_steps(steps: int, warmup: float, rising: int) -> None:
    for schedule in SCHEDULES:
        assert [factor(schedule, step, steps, warmup) for step in range(steps)].index(1.0) == rising


def test_step_drops_to_a_hundredth() -> None:
    factors = [factor("step", step, 30, 0.0) for step in range(30)]
    assert factors == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)


def test_a_phase_of_one_step_has_the_whole_rate() -> None:
    for schedule in SCHEDULES:
        assert factor(schedule, 0, 1, 0.3) == 1.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (-0.5, r"gives -0\.5 at step 1 of 4, not a finite 0 or more"),
        (math.nan, "gives nan at step 1 of 4"),
        (10**400, "gives inf at step 1 of 4"),
        ([1.0], "gives a `list` at step 1 of 4, not a number"),
        (torch.tensor(1.0), "gives a `Tensor` at step 1 of 4, not a number"),
        (True, "gives a `bool`"),
        (KeyError("honey"), "failed at step 1 of 4: KeyError: 'honey'"),
    ],
)
def test_what_is_no_rate_is_one_line(given: object, told: str) -> None:
    def target(step: int, steps: int, share: float) -> object:
        if isinstance(given, Exception):
            raise given
        return given

    row = Schedule(name="x", summary="x", target=target, options=(Option(name="share", default=1.0, summary="x"),))
    choice = Choice(entry=Entry("acme", row), noun="schedule", values={"share": 2.0})
    with pytest.raises(ZooError, match=f"schedule `acme/x:2.0` {told}"):
        RateSchedule(choice, 0.0).factor(0, 4)


def test_a_rise_of_its_own_and_a_lowering_get_the_options() -> None:
    row = Schedule(
        name="x",
        summary="x",
        target=lambda step, steps, share: share,
        rise=lambda step, steps, share: share * step / steps,
        lowering=lambda losses, share: share ** len(losses),
        options=(Option(name="share", default=1.0, summary="x"),),
    )
    given = RateSchedule(Choice(entry=Entry("acme", row), noun="schedule", values={"share": 0.5}), 0.4)
    assert [given.factor(step, 5) for step in range(5)] == [0.0, 0.25, 0.5, 0.5, 0.5]
    assert [given.lowered([1.0] * count) for count in (1, 2, 3)] == [0.5, 0.25, 0.125]
