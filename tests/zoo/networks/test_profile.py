"""Facts: counted as papers count, remembered, and never in a listing's way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import zoo.networks.profile
from zoo.backbone import Backbone, BuildSpec, Network
from zoo.networks.profile import Facts, all_facts, facts, measure
from zoo.preprocess import Preprocess
from zoo.stage import Anatomy, Stage

BUILT: list[str] = []


def build(spec: BuildSpec) -> Network:
    BUILT.append(spec.backbone)
    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(4 * 16, spec.classes))
    return Network(model, Anatomy(backbone=spec.backbone, stages=(), head=Stage(name="head", parameters=())))


def build_badly(spec: BuildSpec) -> Network:
    BUILT.append(spec.backbone)
    return Network(nn.Linear(int(torch.ones(1).item()), 1), build(spec).anatomy)


ROW = Backbone(name="net", summary="a network", build=f"{__name__}:build", preprocess=Preprocess(crop=8))
PARAMETERS = 4 * 3 * 2 * 2 + (4 * 16 + 1) * 1000
MULTIPLY_ADDS = 16 * 4 * 3 * 2 * 2 + 4 * 16 * 1000


@pytest.fixture(autouse=True)
def fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
    BUILT.clear()


def test_counts_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(replace(ROW, preprocess=Preprocess(crop=8), build=build))
    assert found == Facts(parameters=PARAMETERS, gflops=round(MULTIPLY_ADDS / 1e9, 3))


def test_torchvision_s_own_figure_is_what_is_counted() -> None:
    resnet = Backbone(name="resnet18", summary="ResNet-18", build="zoo_torchvision.build:build")
    assert measure(resnet) == Facts(parameters=11_689_512, gflops=1.814)


def test_what_a_row_says_is_taken() -> None:
    said = replace(ROW, parameters=5, gflops=2.0)
    assert facts(said) == Facts(parameters=5, gflops=2.0)
    assert not BUILT


def test_found_out_once() -> None:
    assert facts(ROW) == facts(ROW)
    assert BUILT == ["net"]


def test_too_many_are_left_unknown() -> None:
    many = [replace(ROW, name=f"net{number}") for number in range(5)]
    assert all_facts(many, most=4) == [Facts(parameters=None, gflops=None)] * 5
    assert not BUILT
    assert all(found.parameters == PARAMETERS for found in all_facts(many, most=5))
    assert all_facts(many, most=0)[0].parameters == PARAMETERS, "what is remembered costs nothing"


def test_a_network_that_cannot_be_built_shows_nothing() -> None:
    bad = replace(ROW, name="bad", build=f"{__name__}:build_badly")
    assert all_facts([bad, ROW]) == [
        Facts(parameters=None, gflops=None),
        Facts(parameters=PARAMETERS, gflops=round(MULTIPLY_ADDS / 1e9, 3)),
    ]
    assert zoo.networks.profile.all_facts([bad])[0].gflops is None
    assert BUILT.count("bad") == 1, "remembered too"
