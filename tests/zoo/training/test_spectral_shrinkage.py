"""Batch spectral shrinkage against its definition, and what a step, a strategy and a run do with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from messages import refused
from tests_support import TINY
from torch import nn

from zoo import Experiment, Plugins, UsageError, train
from zoo.config.choice import choose
from zoo.progress import Silent
from zoo.strategy import Group, Phase
from zoo.system.device import choose_device
from zoo.training.spectral_shrinkage import spectral_penalty
from zoo.training.step import Stepper

PLUGINS = Plugins()
LOSS = choose("cross-entropy", PLUGINS.losses, PLUGINS)
PHASE = Phase(name="full", groups=(Group(stages=("head",)),), norm="frozen", bss=0.3)


def test_the_penalty_is_the_smallest_eigenvalue_of_the_gram_matrix() -> None:
    features = torch.randn(6, 10, dtype=torch.float64)
    smallest = torch.linalg.eigvalsh(features @ features.T)[0]
    assert float(spectral_penalty(features)) == pytest.approx(float(smallest), rel=1e-4)
    wide = torch.randn(10, 4)
    assert float(spectral_penalty(wide)) == pytest.approx(float(torch.linalg.eigvalsh(wide.T @ wide)[0]), rel=1e-3)
    assert float(spectral_penalty(features[:1])) == 0


def test_its_gradient_is_that_of_differences_and_a_step_against_it_lowers_it() -> None:
    features = torch.randn(5, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(spectral_penalty(features), features)
    step = 1e-2 * torch.randn(5, 7)
    change = (spectral_penalty(features + step) - spectral_penalty(features - step)) / 2
    assert float(change.detach()) == pytest.approx(float((gradient * step).sum()), rel=2e-2, abs=1e-4)
    assert spectral_penalty(features - 0.1 * gradient) < spectral_penalty(features)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_takes_the_gradient_of_loss_and_penalty(parts: int) -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(8, 6), nn.Linear(6, 3)
    model = nn.Sequential(body, head)
    images, labels = torch.randn(7, 8), torch.arange(7) % 3
    loss = nn.functional.cross_entropy(model(images), labels)
    cuts = [slice(0, 7)] if parts == 1 else [slice(0, 3), slice(3, 5), slice(5, 7)]
    for cut in cuts:
        count = cut.stop - cut.start
        gram = body(images[cut]) @ body(images[cut]).T if count < 6 else body(images[cut]).T @ body(images[cut])
        loss = loss + 0.3 * count / 7 * torch.linalg.eigvalsh(gram)[0]
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {name: one.detach() - 0.5 * one.grad for name, one in model.named_parameters() if one.grad is not None}
    experiment = Experiment(
        data="x", backbone="y", strategy="full", accumulate=parts, batch_size=7, clip=0.0, label_smoothing=0.0
    )
    stepper = Stepper(
        model,
        experiment=experiment,
        device=choose_device("cpu", "fp32"),
        classes=3,
        loss=LOSS,
        class_weights=None,
        progress=Silent(),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    told, _ = stepper.step(model, (images,), labels, optimizer, PHASE, epoch=0, batch=0, start={}, head=head)
    assert told < float(loss.detach())  # the penalty is no part of the loss that is shown
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-4), name
    assert not head._forward_pre_hooks


def test_a_run_is_trained_with_it_and_says_so(two_splits: Path, tmp_path: Path) -> None:
    """Steps begin at the frozen prefix, whose features are cached; the weights differ from those without."""
    weights = []
    for name, text in (("with", "partial:1,bss=0.5"), ("without", "partial:1")):
        experiment = replace(TINY, data=str(two_splits), strategy=text, epochs=1)
        run = train(experiment, out=tmp_path / name, plugins=PLUGINS)
        assert run.record["phases"][0].get("bss") == (0.5 if name == "with" else None)
        state = run.load_network(PLUGINS).model.state_dict()
        weights.append(torch.cat([value.flatten().float() for value in state.values()]))
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "linear,bss=0.001"}, ("`bss=`", "only the head trains")),
        ({"strategy": "full,bss=0.001", "compile": True}, ("`full,bss=0.001`", "compiled")),
        ({"strategy": "full,bss=-1"}, ("`bss=-1.0`", "positive")),
        ({"strategy": "full,bss=2000"}, ("`bss=2000`", "more than 1000")),
        ({"strategy": "full,bss=0.001", "backbone": "squeezenet1_1"}, ("squeezenet1_1", "one vector for each image")),
    ],
)
def test_what_has_no_features_that_change_is_refused(
    change: dict[str, object], words: tuple[str, ...], two_splits: Path, tmp_path: Path
) -> None:
    experiment = replace(TINY, data=str(two_splits), **change)  # type: ignore[arg-type]
    with refused(UsageError, *words):
        train(experiment, out=tmp_path / "run", plugins=PLUGINS)
    assert not (tmp_path / "run").exists()
