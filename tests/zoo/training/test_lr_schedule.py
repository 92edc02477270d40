"""Schedules: they start, peak and end where their definitions say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.experiment import Schedule
from zoo.training.lr_schedule import END, START, factor


@given(
    st.sampled_from(["one-cycle", "cosine", "step", "plateau", "constant"]),
    st.integers(1, 300),
    st.floats(0, 0.9),
)
def test_factors_lie_in_0_to_1_and_rise_once(schedule: Schedule, steps: int, warmup: float) -> None:
    factors = [factor(schedule, step, steps, warmup) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("steps", [10, 97])
def test_one_cycle_equals_torch_s(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=0.3, cycle_momentum=False, div_factor=1 / START,
        final_div_factor=START / END,
    )  # fmt: skip
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    ours = [factor("one-cycle", step, steps, 0.3) for step in range(steps)]
    assert ours[0] == pytest.approx(theirs[0]) and ours[-1] == pytest.approx(theirs[-1], abs=1e-6)
    # torch peaks at step 0.3 * steps - 1, we at round(0.3 * steps): one step apart
    assert max(abs(a - b) for a, b in zip(ours, theirs)) < 3.5 / (0.3 * steps)


def test_step_drops_to_a_hundredth() -> None:
    factors = [factor("step", step, 30, 0.0) for step in range(30)]
    assert factors == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)


def test_cosine_ends_at_zero_and_constant_stays() -> None:
    assert factor("cosine", 99, 100, 0.1) == pytest.approx(0, abs=1e-12)
    assert {factor("constant", step, 10, 0.0) for step in range(10)} == {1.0}
    assert factor("constant", 0, 10, 0.5) < factor("constant", 4, 10, 0.5) < 1.0
