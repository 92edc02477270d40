"""Stochastic normalisation against its definition, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from messages import refused
from tests_support import TINY
from torch import nn

from zoo import Plugins, UsageError, train
from zoo.training.stochastic_norm import StochasticNorms

PLUGINS = Plugins()


def made() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(64)
    with torch.no_grad():
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        norm.weight.normal_()
        norm.bias.normal_()
    return nn.Sequential(norm, nn.ReLU(inplace=True)).train()


@pytest.mark.parametrize("chance", [1e-9, 0.5, 1 - 1e-9])
def test_each_channel_is_that_of_its_batch_or_of_running_statistics(chance: float) -> None:
    model, plain = made(), made()
    images = torch.randn(5, 64, 4, 4, requires_grad=True)
    running = made().eval()(images)
    by_batch = plain(images)
    with StochasticNorms(model, chance).drawn():
        found = model(images)
    first = (found == by_batch).flatten(2).all(2).all(0)
    other = (found == running).flatten(2).all(2).all(0)
    assert bool((first | other).all())
    share = float(first[~(first & other)].float().mean())
    assert share == round(chance) if chance != 0.5 else 0.25 < share < 0.75
    for name in ("running_mean", "running_var", "num_batches_tracked"):  # updated by the batch, once
        assert torch.equal(getattr(model[0], name), getattr(plain[0], name))
    gradient = torch.autograd.grad(found.sum(), images)[0]
    channels = torch.where(first[:, None, None], by_batch, running)
    assert torch.allclose(gradient, torch.autograd.grad(channels.sum(), images)[0], atol=1e-6)
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def test_norms_in_eval_mode_and_evaluation_stay_as_they_are() -> None:
    model, images = made().eval(), torch.randn(5, 64, 4, 4)
    with StochasticNorms(model, 0.5).drawn():
        found = model(images)
    assert torch.equal(found, model(images))


def test_a_run_is_trained_with_it(two_splits: Path, tmp_path: Path) -> None:
    experiment = replace(TINY, data=str(two_splits), strategy="partial:1,stochnorm=0.5", epochs=1)
    run = train(experiment, out=tmp_path / "run", plugins=PLUGINS)
    (phase,) = run.record["phases"]
    assert (phase["stochnorm"], phase["norm"]) == (0.5, "train")
    plain = train(replace(experiment, strategy="partial:1,norm=train"), out=tmp_path / "plain", plugins=PLUGINS)
    states = [one.load_network(PLUGINS).model.state_dict() for one in (run, plain)]
    assert any(not torch.equal(value, states[1][name]) for name, value in states[0].items())
    again = train(experiment, out=tmp_path / "again", plugins=PLUGINS).load_network(PLUGINS).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in states[0].items())  # its draws are seeded


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "linear,stochnorm=0.5"}, ("`stochnorm=`", "no batch norm")),
        ({"strategy": "full,stochnorm=0.5,norm=frozen"}, ("`stochnorm=0.5`", "`norm=frozen`")),
        ({"strategy": "full,stochnorm=0.5", "norm": "frozen"}, ("`--norm frozen`", "norm")),
        ({"strategy": "full,stochnorm=0.5", "compile": True}, ("`full,stochnorm=0.5`", "compiled")),
        ({"strategy": "full,stochnorm=1"}, ("`stochnorm=1.0`", "between 0 and 1")),
    ],
)
def test_what_has_no_choice_is_refused(
    change: dict[str, object], words: tuple[str, ...], two_splits: Path, tmp_path: Path
) -> None:
    experiment = replace(TINY, data=str(two_splits), **change)  # type: ignore[arg-type]
    with refused(UsageError, *words):
        train(experiment, out=tmp_path / "run", plugins=PLUGINS)
    assert not (tmp_path / "run").exists()
