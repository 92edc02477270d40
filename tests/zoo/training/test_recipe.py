"""The recipe's settings, each by what it does to a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo.feature_cache.loader
from zoo import Anatomy, Backbone, Experiment, Group, Images, Phase, Plugins, Preprocess, Sample, Stage, ZooError
from zoo.backbone import Network
from zoo.catalogue import Entry
from zoo.config.choice import choose as choose_row
from zoo.config.context import Context
from zoo.config.grammar import ParsedStrategy
from zoo.data.decoding import DecodedImages
from zoo.data.image import normalise
from zoo.data.roles import Roles
from zoo.data.selection import Selection
from zoo.progress import Progress, Silent
from zoo.system.device import choose_device
from zoo.training.lr_schedule import RateSchedule
from zoo.training.optimizer import make_optimizer, plan_groups, pulled_by, trained_by
from zoo.training.preparation import Job
from zoo.training.recipe import Recipe
from zoo.training.sampler import epoch_order
from zoo.training.setup import PlannedPhases, Setup

E = Experiment(data="x", backbone="x", strategy="x", device="cpu", batch_size=4, lr=0.1, augment="none", dropout=None)
PREPROCESS = Preprocess(resize=8, crop=8, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def network() -> Network:
    torch.manual_seed(0)
    model = Net()
    names = [name for name, _ in model.named_parameters()]
    of: Callable[[str], tuple[str, ...]] = lambda prefix: tuple(name for name in names if name.startswith(prefix))
    stages = tuple(Stage(name=name, parameters=of(name)) for name in ("stem", "body"))
    return Network(model, Anatomy(backbone="net", stages=stages, head=Stage(name="head", parameters=of("fc"))), None)


def phase(lr: float = 1.0, **settings: Any) -> Phase:
    groups = (Group(stages=("body",), lr=0.1), Group(stages=("head",)))
    return Phase(name="p", groups=groups, lr=lr, **settings)


def scanned(labels: list[int]) -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    names = tuple(Sample(str(i), "ab"[label], pixels[i]) for i, label in enumerate(labels))
    return DecodedImages(names, np.array(labels), pixels, "")


PLUGINS = Plugins()


def recipe(
    phases: tuple[Phase, ...],
    epochs: tuple[int, ...],
    labels: list[int] | None = None,
    choose: DecodedImages | None = None,
    **settings: Any,
) -> Recipe:
    return Recipe(job(phases, epochs, labels, choose, **settings))


def job(
    phases: tuple[Phase, ...],
    epochs: tuple[int, ...],
    labels: list[int] | None = None,
    choose: DecodedImages | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Job:
    experiment = replace(E, **settings)
    precision = experiment.precision if experiment.precision != "auto" else "fp32"
    train = scanned(labels or [0, 1] * 6)
    setup = Setup(
        backbone=Entry("x", Backbone(name="net", summary="x", build="x:y")),
        plan=ParsedStrategy(()),
        weights=None,
        weights_file=None,
        preprocess=PREPROCESS,
        augment=choose_row(experiment.augment, PLUGINS.augmentations, PLUGINS),
        loss=choose_row(experiment.loss, PLUGINS.losses, PLUGINS),
        optimizer=choose_row(experiment.optimizer, PLUGINS.optimizers, PLUGINS),
        schedule=choose_row(experiment.schedule, PLUGINS.schedules, PLUGINS),
        device=choose_device("cpu", precision),
    )
    return Job(
        experiment=experiment,
        setup=setup,
        selection=Selection(images=Images(name="x", classes=("a", "b"), splits={"train": train.samples})),
        roles=Roles(fit=train.samples, choose=(), reported="val", notes=()),
        network=network(),
        phases=PlannedPhases(phases=phases, epochs=epochs, notes=()),
        decoded={"fit": train} | ({} if choose is None else {"choose": choose}),
        bad=(),
        start_digest="",
        context=Context(plugins=Plugins([]), progress=progress or Silent(), store=None),
    )


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The rate of each group at each step, as the optimiser sees it."""
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    return seen


def test_groups_multiply_rates_and_spare_biases_and_norms() -> None:
    net = network()
    groups = plan_groups(net, phase(lr=0.5), replace(E, weight_decay=0.3), 0.1)
    found: dict[str, Any] = {name: (group.lr, group.weight_decay) for group in groups for name in group.names}
    assert found == {
        "body.0.weight": (pytest.approx(0.005), 0.3), "body.0.bias": (pytest.approx(0.005), 0.0),
        "body.1.weight": (pytest.approx(0.005), 0.0), "body.1.bias": (pytest.approx(0.005), 0.0),
        "fc.weight": (pytest.approx(0.05), 0.3), "fc.bias": (pytest.approx(0.05), 0.0),
    }  # fmt: skip
    optimizer = make_optimizer(net.model, groups, choose_row("adamw", PLUGINS.optimizers, PLUGINS))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3, 0.0]
    sgd = make_optimizer(net.model, groups, choose_row("sgd", PLUGINS.optimizers, PLUGINS))
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in sgd.param_groups)


def test_the_pull_replaces_the_decay_of_what_is_pulled_and_of_nothing_else() -> None:
    groups = plan_groups(network(), phase(pull=0.5), replace(E, weight_decay=0.3), 0.1)
    decays = {name: group.weight_decay for group in groups for name in group.names}
    assert {name: value for name, value in decays.items() if value} == {"fc.weight": 0.3}
    assert pulled_by(network(), phase(pull=0.5)) == tuple(name for name in decays if name.startswith("body"))


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    "asked", [phase(), phase(pull=0.5), Phase(name="norms", groups=(Group(stages=("body",), only="norms"),))]
)
def test_every_trained_parameter_has_one_owner_and_no_group_is_empty(asked: Phase, decay: float) -> None:
    net = network()
    groups = plan_groups(net, asked, replace(E, weight_decay=decay), 0.1)
    held = [name for group in groups for name in group.names]
    assert len(held) == len(set(held)) and set(held) == set(trained_by(net, asked))
    assert all(group.names for group in groups)
    make_optimizer(net.model, groups, choose_row("adamw", PLUGINS.optimizers, PLUGINS))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "constant"])
def test_each_phase_has_a_schedule_of_its_own(rates: list[list[float]], schedule: Any) -> None:
    list(recipe((phase(), phase(lr=0.5)), (2, 1), schedule=schedule, warmup=0.4).fit())
    factor = RateSchedule(choose_row(schedule, PLUGINS.schedules, PLUGINS), 0.4).factor
    expected = [0.1 * factor(step, 6) for step in range(6)]
    expected += [0.05 * factor(step, 3) for step in range(3)]
    assert [row[-1] for row in rates] == pytest.approx(expected)
    assert [row[0] for row in rates] == pytest.approx([0.1 * rate for rate in expected])


def test_plateau_divides_the_rate_by_ten_after_two_epochs_without_progress(
    rates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = recipe((phase(), phase()), (6, 4), choose=scanned([0, 1]), schedule="plateau", warmup=0.0)
    monkeypatch.setattr(it, "_validate", lambda: {"choice_loss": 1.0, "choice_accuracy": 0.5})
    list(it.fit())
    first, second = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001], [0.1, 0.1, 0.1, 0.01]  # each phase begins at its own rate
    assert [row[-1] for row in rates[::3]] == pytest.approx([*first, *second])


def test_a_rate_that_plateau_lowered_is_whole_again_in_the_next_phase(
    rates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = recipe((phase(), phase(lr=0.5)), (4, 4), choose=scanned([0, 1]), schedule="plateau", warmup=0.0)
    monkeypatch.setattr(it, "_validate", lambda: {"choice_loss": 1.0, "choice_accuracy": 0.5})
    list(it.fit())
    assert [row[-1] for row in rates[::3]] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.05, 0.05, 0.05, 0.005])


@settings(max_examples=50, deadline=None)
@given(losses=st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8, float("nan")]), min_size=1, max_size=15))
def test_plateau_lowers_the_rate_when_torch_s_class_does(losses: list[float]) -> None:
    it = recipe((phase(),), (len(losses),), choose=scanned([0, 1]), schedule="plateau")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1, threshold=0.0, eps=0.0)
    for epoch, loss in enumerate(losses):
        it._note_validation(loss, epoch)
        theirs.step(loss)
        assert it.state.position.lowered == pytest.approx(optimizer.param_groups[0]["lr"])


def test_early_stopping_waits_as_long_as_asked_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    it = recipe((phase(),), (9,), choose=scanned([0, 1]), early_stopping=2)
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.0])
    states = []

    def evaluate() -> dict[str, float]:
        states.append({k: v.clone() for k, v in it.model.state_dict().items()})
        return {"choice_loss": next(losses), "choice_accuracy": 0.5}

    monkeypatch.setattr(it, "_validate", evaluate)
    assert len(list(it.fit())) == 4
    assert all(torch.equal(value, states[1][name]) for name, value in it.model.state_dict().items())


def test_a_phase_that_stops_early_hands_its_best_weights_to_the_next_which_counts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the second phase never comes near the first one's best, and its own patience is counted from its own first epoch
    losses = iter([0.1, 0.3, 5.0, 4.0, 4.5, 9.0])
    it = recipe((phase(), phase()), (4, 4), choose=scanned([0, 1]), early_stopping=1)
    validated, entered = [], []
    enter = it._enter

    def states() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in it.model.state_dict().items()}

    def evaluate() -> dict[str, float]:
        validated.append(states())
        return {"choice_loss": next(losses), "choice_accuracy": 0.5}

    def entering(phase: Phase) -> None:
        entered.append(states())
        enter(phase)

    monkeypatch.setattr(it, "_validate", evaluate)
    monkeypatch.setattr(it, "_enter", entering)
    assert [record["epoch"] for record in it.fit()] == [1, 2, 5, 6, 7]
    for name, value in it.model.state_dict().items():
        assert torch.equal(entered[1][name], validated[0][name]) and torch.equal(value, validated[3][name])


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([3.0, 1.0, 2.0, 2.0, 0.0, 0.0], ["stopped early: epoch 2 is the best of `p`, and its weights are kept"]),
        ([float("nan")] * 6, ["stopped early: no epoch of `p` had a finite validation loss"]),
        ([6.0, 5.0, 4.0, 3.0, 3.0, 3.0], []),  # the patience ends with the phase, which is not early
    ],
)
def test_early_stopping_tells_which_epoch_is_kept(
    losses: list[float], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    found = iter(losses)
    it = Recipe(job((phase(),), (6,), choose=scanned([0, 1]), progress=Noted(), early_stopping=2))
    monkeypatch.setattr(it, "_validate", lambda: {"choice_loss": next(found), "choice_accuracy": 0.5})
    list(it.fit())
    assert notes == said


@pytest.mark.parametrize("budget", range(1, 7))
@pytest.mark.parametrize("epochs", [(2,), (1, 1)])
def test_a_time_budget_ends_a_run_after_the_step_that_spends_it(
    epochs: tuple[int, ...], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the last step of an epoch or a phase; after the last step of all there is nothing to end."""
    looks = iter(range(1, 100))
    monkeypatch.setattr("zoo.system.clock.Clock.total", lambda self: float(next(looks)))  # a second for each step
    one = recipe(tuple(phase() for _ in epochs), epochs, time_budget=float(budget))
    records = list(one.fit())
    assert one.state.position.step == budget and len(records) == (1 if budget <= 3 else 2)
    where = None if budget == 6 else f"epoch {1 + (budget - 1) // 3}, batch {1 + (budget - 1) % 3} of 3"
    assert one.ended_by == (where and f"the time budget of {budget} s in {where}")


def test_what_the_network_is_given_in_training_is_what_it_is_given_in_evaluation() -> None:
    it = recipe((phase(),), (1,))
    views = canvases_of(it)[:3]
    assert torch.allclose(
        it.workspace.views.normalised(views),
        torch.from_numpy(normalise(np.asarray(it.workspace.train.pixels[:3]), PREPROCESS)),
        atol=1e-5,
    )


def test_gradients_are_clipped_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *arguments: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    list(recipe((phase(),), (1,), optimizer="sgd", clip=1e-3).fit())
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)
    norms.clear()
    list(recipe((phase(),), (1,), optimizer="sgd", clip=0.0).fit())
    assert min(norms) > 2e-3


def canvases_of(it: Recipe) -> torch.Tensor:
    """`(N, 3, H, W)`, of all training images."""
    return torch.from_numpy(np.asarray(it.workspace.views.part.pixels)).permute(0, 3, 1, 2)


def test_views_are_drawn_by_image_epoch_and_showing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def spy(canvases: torch.Tensor, wanted: Any, make: Any, seed: int) -> torch.Tensor:
        assert seed == 5
        for canvas, (key, _) in zip(canvases, wanted):
            assert torch.equal(canvas, canvases_of(it)[it.workspace.views.keys.tolist().index(key)])
        asked.extend(wanted)
        return canvases

    monkeypatch.setattr(zoo.feature_cache.loader, "draw_views", spy)
    it = recipe((phase(), phase()), (1, 1), seed=5, views=10)
    list(it.fit())
    assert sorted(asked) == sorted((key, epoch) for epoch in (0, 1) for key in it.workspace.views.keys)
    assert [key for key, _ in asked[:12]] != [key for key, _ in asked[12:]]
    asked.clear()
    it = recipe((phase(),), (1,), labels=[0] * 11 + [1], seed=5, class_balance="sample")
    list(it.fit())
    assert {view for _, view in asked} == {0}  # a cut phase of one epoch shows one view
    asked.clear()
    whole = replace(phase(), groups=(Group(stages=("stem", "body", "head")),))
    it = recipe((whole,), (1,), labels=[0] * 11 + [1], seed=5, class_balance="sample")
    list(it.fit())
    assert len(set(asked)) == len(asked) == 12 and len({key for key, _ in asked}) < 12


SOLVED = Phase(name="s", groups=(Group(stages=("head",)),), solver="zoo_strategies.logistic:solve")


@pytest.mark.parametrize(("first", "epochs"), [(phase(), 1), (SOLVED, 0)], ids=["steps", "solved"])
def test_the_best_of_the_run_is_kept_over_phases(first: Phase, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    it = recipe((first, phase()), (epochs, 2), choose=scanned([0, 1]), keep="best")
    losses, states = iter([0.1, 0.5, 9.0]), []

    def evaluate(solved: Phase | None = None) -> dict[str, float]:
        states.append({k: v.clone() for k, v in it.model.state_dict().items()})
        return {"choice_loss": next(losses), "choice_accuracy": 0.5}

    monkeypatch.setattr(it, "_validate", evaluate)
    list(it.fit())
    assert all(torch.equal(value, states[0][name]) for name, value in it.model.state_dict().items())


@pytest.mark.parametrize("asked", [{"keep": "best"}, {"early_stopping": 1}], ids=str)
def test_the_best_weights_are_the_averaged_ones(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was scored is kept: the average of the best epoch, not the weights that the optimiser steps from."""
    it = recipe((phase(ema=0.8),), (3,), choose=scanned([0, 1]), **asked)
    losses = iter([0.5, 0.1, 9.0])
    raw: list[dict[str, torch.Tensor]] = []
    averaged: list[dict[str, torch.Tensor]] = []

    def evaluate() -> dict[str, float]:
        assert it.average is not None
        for states, model in ((raw, it.model), (averaged, it.average.module)):
            states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"choice_loss": next(losses), "choice_accuracy": 0.5}

    monkeypatch.setattr(it, "_validate", evaluate)
    list(it.fit())
    assert not torch.allclose(raw[1]["fc.weight"], averaged[1]["fc.weight"], atol=1e-4)
    assert all(torch.equal(value, averaged[1][name]) for name, value in it.model.state_dict().items())


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_is_drawn_by_the_seed(seed: int) -> None:
    labels = np.zeros(50, int)
    order = epoch_order(labels, replace(E, seed=seed), 0)
    assert not np.array_equal(order, epoch_order(labels, replace(E, seed=seed + 1), 0))


def test_the_recipe_stops_when_something_frozen_moves() -> None:
    it = recipe((phase(),), (2,))

    def spoil(*_: Any) -> None:
        it.model.get_parameter("stem.0.weight").data.add_(1e-6)

    it.model.get_submodule("fc").register_forward_hook(spoil)
    with pytest.raises(ZooError, match=r"frozen tensor `stem.0.weight` changed in epoch 1"):
        list(it.fit())


@pytest.mark.parametrize("solver", [None, "zoo_strategies.logistic:solve"])
def test_recalibration_happens_at_the_start_of_its_phase(solver: str | None) -> None:
    asked = Phase(name="p", groups=(Group(stages=("head",)),), norm="recalibrate", solver=solver)
    it = recipe((asked,), (0 if solver else 1,), batch_size=12)
    inputs = it.workspace.views.normalised(canvases_of(it))
    with torch.no_grad():
        expected = it.model.get_submodule("stem.0")(inputs).mean((0, 2, 3))
    list(it.fit())
    assert torch.allclose(it.model.get_buffer("stem.1.running_mean"), expected, atol=1e-4)


def test_choosing_is_done_in_eval_mode_over_images_not_batches() -> None:
    choose = scanned([0, 1, 1, 0, 1])
    it = recipe((phase(),), (1,), choose=choose)
    (record,) = it.fit()
    it.model.eval()
    logits = torch.from_numpy(it.workspace.predictor.logits_of_pixels(np.asarray(choose.pixels)))
    loss = float(nn.functional.cross_entropy(logits, torch.from_numpy(choose.labels)))
    assert record["choice_loss"] == pytest.approx(loss, abs=1e-5)


def test_precision_is_what_the_forward_computes_in() -> None:
    seen = []
    it = recipe((phase(),), (1,), precision="bf16")

    def note(module: nn.Module, _: object, out: torch.Tensor) -> None:
        seen.append((module.training, out.dtype))

    it.model.get_submodule("stem.0").register_forward_hook(note)
    list(it.fit())
    assert {kind for _, kind in seen} == {torch.bfloat16}


def test_an_average_over_more_steps_than_there_are_is_told() -> None:
    class Warned(Silent):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    for decay, told in ((0.5, 0), (0.999, 1)):
        progress = Warned()
        list(Recipe(job((phase(ema=decay),), (2,), progress=progress)).fit())
        assert len(progress.warnings) == told
    assert "`ema=0.999` averages over about 1,000 steps and `p` has 6" in progress.warnings[0]


def test_a_phase_ends_with_its_average() -> None:
    plain, averaged = recipe((phase(),), (3,)), recipe((phase(ema=0.9),), (3,))
    seen: list[torch.Tensor] = []
    step = averaged.workspace.stepper.step

    def spy(*arguments: Any, **words: Any) -> Any:
        answer = step(*arguments, **words)
        seen.append(averaged.model.get_parameter("fc.weight").detach().clone())
        return answer

    averaged.workspace.stepper.step = spy  # type: ignore[method-assign]
    list(plain.fit())
    list(averaged.fit())
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.9 * expected + 0.1 * value
    assert torch.equal(seen[-1], plain.model.get_parameter("fc.weight"))  # averaging changes no step
    assert torch.allclose(averaged.model.get_parameter("fc.weight"), expected, atol=1e-6)
    assert not torch.allclose(expected, seen[-1], atol=1e-4)
