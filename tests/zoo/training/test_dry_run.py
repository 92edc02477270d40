"""`zoo plan` says what the optimiser's groups really hold, phase by phase and stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from zoo import Experiment, Plugins, UsageError, train
from zoo.config.context import Context
from zoo.networks.freezing import apply_phase, keeps_statistics
from zoo.training.optimizer import make_optimizer
from zoo.training.preparation import prepare
from zoo.training.setup import resolve
from zoo.training.workspace import Workspace

BASE = Experiment(
    data="none", backbone="timm/test_efficientnet", strategy="full", weights="none", image_size=32, device="cpu"
)
STRATEGIES = (
    "linear",
    "linear,solver=sgd",
    "linear,head=mlp:8",
    "knn:3",
    "partial:2",
    "full,norm=train",
    "lpft,lr=0.1",
    "gradual:2",
    "layerdecay:0.5",
    "l2sp:0.1",
    "surgical:2",
    "truncate:1+full,norm=recalibrate",
    "norm",
    "bitfit",
    "lora:2",
    "scratch",
    "partial:1,epochs=1,norm=train+full,lr=0.5",
)


# With batch norms and without: by turns on every push, and both where norms are what the strategy is about
BACKBONES = ("timm/test_efficientnet", "timm/test_vit")
PLANNED = [
    pytest.param(
        strategy,
        backbone,
        id=f"{strategy}-{backbone}",
        marks=() if place % 2 == turn or "norm" in strategy else pytest.mark.slow,
    )
    for place, strategy in enumerate(STRATEGIES)
    for turn, backbone in enumerate(BACKBONES)
]


@pytest.mark.parametrize(("strategy", "backbone"), PLANNED)
def test_the_table_is_what_the_optimiser_holds(
    strategy: str, backbone: str, two_splits: Path, plugins: Plugins
) -> None:
    asked = replace(BASE, data=str(two_splits), strategy=strategy, backbone=backbone, batch_size=8)
    made = zoo.plan(asked, plugins=plugins)
    job = prepare(asked, resolve(asked, plugins), Context.of(plugins))
    recipe = Workspace(job)
    assert [phase.name for phase in made.phases] == [phase.name for phase in recipe.phases]
    ever = set()
    for planned, phase, groups, epochs in zip(made.phases, recipe.phases, recipe.groups, recipe.epochs):
        optimizer = make_optimizer(recipe.model, groups, job.setup.optimizer) if groups else None
        apply_phase(recipe.model, [name for group in groups for name in group.names], phase.norm)
        held = {
            id(tensor): (group["lr"], group["weight_decay"])
            for group in (optimizer.param_groups if optimizer else ())
            for tensor in group["params"]
        }
        parameters = dict(recipe.model.named_parameters())
        for row, stage in zip(planned.stages, (*job.network.anatomy.stages, job.network.anatomy.head), strict=True):
            mine = [parameters[name] for name in stage.parameters]
            trained = [tensor for tensor in mine if id(tensor) in held]
            assert row.stage == stage.name and row.parameters == sum(tensor.numel() for tensor in mine)
            assert row.trainable == sum(tensor.numel() for tensor in trained)
            assert (row.trains == "no") == (not trained)
            ever |= {id(tensor) for tensor in trained}
            if trained and phase.solver is None:
                assert row.lr == pytest.approx(max(held[id(tensor)][0] for tensor in trained))
                assert row.weight_decay == max(held[id(tensor)][1] for tensor in trained)
                assert row.decayed == sum(tensor.numel() for tensor in trained if held[id(tensor)][1])
            follows = {
                module.training
                for module in recipe.model.modules()
                if keeps_statistics(module) and any(p is t for p in module.parameters() for t in mine)
            }
            expected = "-" if not follows else "train" if True in follows else None
            assert row.norm == expected if expected else row.norm in ("frozen", "recalibrate")
        assert planned.epochs == epochs and planned.steps == epochs * recipe.steps_per_epoch
        assert planned.trainable == sum(row.trainable for row in planned.stages)
    assert made.trainable == sum(tensor.numel() for tensor in recipe.model.parameters() if id(tensor) in ever)
    assert made.parameters == sum(tensor.numel() for tensor in recipe.model.parameters())
    assert made.steps == sum(phase.steps or 0 for phase in made.phases)
    assert made.seconds is not None and made.seconds > 0


def test_steps_are_those_of_the_run(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    asked = replace(BASE, data=str(two_splits), strategy="lpft+partial:1,epochs=2", epochs=3, batch_size=7)
    run = train(asked, out=tmp_path / "run", plugins=plugins)
    made = zoo.plan(asked, plugins=plugins)
    assert run.record["steps"] == made.steps == 12  # 24 images: three batches of 7, and a last one of 3
    # of the whole process: torch alone takes more than 200 MiB, and these small images and this network hardly anything
    assert made.peak_memory is not None and 2**27 + made.memory < made.peak_memory < 2 * run.record["peak_memory"]


def test_memory_grows_with_what_trains_and_shrinks_with_parts(plugins: Plugins) -> None:
    def memory(strategy: str, **settings: object) -> int:
        return zoo.plan(replace(BASE, strategy=strategy, **settings), with_data=False, plugins=plugins).memory  # type: ignore[arg-type]

    solved, head, last, full = (memory(text) for text in ("linear", "linear,solver=sgd", "partial:1", "full"))
    assert solved < head < last < full
    assert memory("full", accumulate=4) < full < memory("full", batch_size=64)
    assert memory("full", optimizer="sgd:0") < memory("full", optimizer="lion") == memory("full", optimizer="sgd")
    assert memory("full", optimizer="sgd") < full < memory("full", optimizer="adan")


def test_without_data_there_are_no_steps_and_nothing_is_opened(plugins: Plugins) -> None:
    made = zoo.plan(BASE, with_data=False, plugins=plugins)
    assert (made.images, made.steps, made.seconds, made.peak_memory, made.classes) == (None, None, None, None, 2)
    assert any("without `--data`" in note for note in made.notes)


def test_weights_are_not_asked_for(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan reads no weights")

    monkeypatch.setattr("zoo_lite.build.read_state", refuse)
    made = zoo.plan(replace(BASE, backbone="efficientnet_lite0", weights="default"), with_data=False, plugins=plugins)
    assert made.backbone == "lite/efficientnet_lite0"


def test_a_plan_refuses_what_training_refuses(plugins: Plugins) -> None:
    for strategy in ("partial:99", "truncate:99", "surgical:99"):
        with pytest.raises(UsageError, match="99 stages"):
            zoo.plan(replace(BASE, strategy=strategy), with_data=False, plugins=plugins)
    with pytest.raises(UsageError, match="takes no optimiser steps"):
        zoo.plan(replace(BASE, strategy="knn", epochs=3), with_data=False, plugins=plugins)
