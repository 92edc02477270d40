"""Network profiles: parameters and multiply-adds, measured once and cached."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import zoo.networks.profile
from zoo.backbone import Backbone, BuildSpec, Network
from zoo.networks.profile import NetworkProfile, measure, profile_network, profile_networks
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
    assert found == NetworkProfile(parameters=PARAMETERS, gflops=round(MULTIPLY_ADDS / 1e9, 3))


def test_torchvision_s_own_figure_is_what_is_counted() -> None:
    resnet = Backbone(name="resnet18", summary="ResNet-18", build="zoo_torchvision.build:build")
    assert measure(resnet) == NetworkProfile(parameters=11_689_512, gflops=1.814)


def test_figures_of_a_row_are_used() -> None:
    said = replace(ROW, parameters=5, gflops=2.0)
    assert profile_network(said) == NetworkProfile(parameters=5, gflops=2.0)
    assert not BUILT


def test_a_profile_is_measured_once() -> None:
    assert profile_network(ROW) == profile_network(ROW)
    assert BUILT == ["net"]


def test_too_many_unknown_profiles_are_not_measured() -> None:
    many = [replace(ROW, name=f"net{number}") for number in range(5)]
    assert profile_networks(many, most=4) == [NetworkProfile(parameters=None, gflops=None)] * 5
    assert not BUILT
    assert all(found.parameters == PARAMETERS for found in profile_networks(many, most=5))
    assert profile_networks(many, most=0)[0].parameters == PARAMETERS, "what is remembered costs nothing"


def test_a_network_that_cannot_be_built_shows_nothing() -> None:
    bad = replace(ROW, name="bad", build=f"{__name__}:build_badly")
    assert profile_networks([bad, ROW]) == [
        NetworkProfile(parameters=None, gflops=None),
        NetworkProfile(parameters=PARAMETERS, gflops=round(MULTIPLY_ADDS / 1e9, 3)),
    ]
    assert zoo.networks.profile.profile_networks([bad])[0].gflops is None
    assert BUILT.count("bad") == 1, "remembered too"
