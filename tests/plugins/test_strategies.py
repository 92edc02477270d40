"""The built-in strategies: what their phases say, how they join, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from zoo import Anatomy, Phase, Stage, UsageError
from zoo.config.grammar import canonical, parse
from zoo.plugin import Plugins
from zoo.strategy import RESERVED, Strategy, option_help

NAMES = ("stem", "low", "middle", "high")
ANATOMY = Anatomy(
    backbone="net",
    stages=tuple(Stage(name=name, parameters=(f"{name}.weight",)) for name in NAMES),
    head=Stage(name="head", parameters=("fc.weight",)),
)


def phases(text: str, plugins: Plugins) -> tuple[Phase, ...]:
    return parse(text, plugins.strategies).phases(ANATOMY)


def rates(phase: Phase) -> dict[str, float]:
    return {stage: round(group.lr, 6) for group in phase.groups for stage in group.stages}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear", [{"head": 1}]),
        ("knn", [{}]),
        ("partial:2", [{"middle": 0.05, "high": 0.05, "head": 1}]),
        ("full", [{**dict.fromkeys(NAMES, 0.05), "head": 1}]),
        ("surgical:1", [{"stem": 0.05, "head": 1}]),
        ("surgical:3", [{"stem": 0.05, "low": 0.05, "middle": 0.05, "head": 1}]),
        ("layerdecay:0.5", [{"stem": 0.00625, "low": 0.0125, "middle": 0.025, "high": 0.05, "head": 1}]),
        ("scratch", [{**dict.fromkeys(NAMES, 1), "head": 1}]),
        ("truncate:1", [{"head": 1}]),
        ("lpft", [{"head": 1}, {**dict.fromkeys(NAMES, 0.05), "head": 1}]),
        (
            "gradual",
            [
                {"head": 1},
                {"high": 0.05, "head": 1},
                {"middle": 0.05, "high": 0.05, "head": 1},
                {"low": 0.05, "middle": 0.05, "high": 0.05, "head": 1},
                {**dict.fromkeys(NAMES, 0.05), "head": 1},
            ],
        ),
        (
            "gradual:3",
            [
                {"head": 1},
                {"high": 0.05, "head": 1},
                {"middle": 0.05, "high": 0.05, "head": 1},
                {**dict.fromkeys(NAMES, 0.05), "head": 1},
            ],
        ),
    ],
)
def test_which_stages_train_at_which_rate(text: str, expected: list[dict[str, float]], plugins: Plugins) -> None:
    assert [rates(phase) for phase in phases(text, plugins)] == expected


def test_statistics_are_frozen_except_in_scratch(plugins: Plugins) -> None:
    texts = ("linear", "partial:1", "full", "lpft", "gradual", "layerdecay", "l2sp", "surgical", "norm", "bitfit")
    assert {phase.norm for text in texts for phase in phases(text, plugins)} == {"frozen"}
    assert phases("scratch", plugins)[0].norm == "train"


def test_lpft_equals_linear_plus_full(plugins: Plugins) -> None:
    assert phases("lpft", plugins) == phases("linear+full", plugins)
    assert phases("lpft,lr=0.1,epochs=3", plugins)[1] == phases("linear+full,lr=0.1,epochs=3", plugins)[1]


def test_norm_and_bitfit_limit_groups_to_one_kind_of_parameter(plugins: Plugins) -> None:
    assert [group.only for group in phases("norm", plugins)[0].groups] == ["norms", "all"]
    assert [group.only for group in phases("bitfit", plugins)[0].groups] == ["biases", "all"]


def test_l2sp_sets_the_pull(plugins: Plugins) -> None:
    assert phases("l2sp:0.3", plugins)[0].pull == 0.3 and phases("full", plugins)[0].pull == 0


@pytest.mark.parametrize(
    ("text", "solved"),
    [
        ("linear", True),
        ("linear,solver=lbfgs", True),
        ("linear,norm=recalibrate", True),
        ("linear,solver=sgd", False),
        ("linear,head=mlp:16", False),
        ("linear,epochs=2", False),
        ("linear,lr=0.1", False),
        ("linear,mixup=0.2", False),
        ("linear,norm=train", False),
        ("truncate:1", True),
        ("truncate:1,epochs=1", False),
        ("knn", True),
    ],
)
def test_a_head_is_solved_unless_steps_are_asked_for(text: str, solved: bool, plugins: Plugins) -> None:
    (phase,) = phases(text, plugins)
    assert (phase.solver is not None) is solved


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partial:0", "trains no stage"),
        ("partial:-1", "trains no stage"),
        ("partial:5", "asks for 5 stages but `net` has 4: stem low middle high"),
        ("surgical:0", "trains no stage"),
        ("surgical:9", "asks for 9 stages"),
        ("truncate:0", "drops no stage"),
        ("truncate:-2", "drops no stage"),
        ("gradual:-1", "number of phases"),
        ("gradual:9", "asks for 9 stages"),
        ("layerdecay:0", "above 0 and at most 1"),
        ("layerdecay:nan", "above 0 and at most 1"),
        ("layerdecay:1.5", "above 0 and at most 1"),
        ("l2sp:0", "strength"),
        ("l2sp:nan", "strength"),
        ("l2sp:inf", "strength"),
        ("knn:0", "number of neighbours"),
        ("lora:0", "rank"),
        ("lora:-1", "rank"),
        ("lora:4,alpha=nan", "`alpha=nan`"),
        ("linear,head=big", "neither `linear` nor `mlp:WIDTH`"),
        ("linear,head=mlp:0", "neither `linear` nor `mlp:WIDTH`"),
        ("linear,head=mlp:8,solver=lbfgs", "`solver=lbfgs`"),
        ("linear,solver=adam", "known are auto lbfgs sgd"),
        ("linear,solver=lbfgs,epochs=2", "takes no optimiser steps, so `epochs=` has no effect"),
        ("knn,lr=0.1", "takes no optimiser steps, so `lr=` has no effect"),
        ("full,lr=nan", "not a positive number"),
        ("full,ema=1", "not between 0 and 1"),
        ("full,ema=0", "not between 0 and 1"),
        ("full,mixup=nan", "not a positive number"),
        ("full,cutmix=-1", "not a positive number"),
        ("full,epochs=0", "`epochs=0`"),
        ("knn+full", "nothing can be joined to `knn`: it trains nothing"),
        ("full+knn", "nothing can be joined to `knn`"),
        ("full+scratch", "nothing can come before `scratch`"),
        ("full+truncate:1", "nothing can come before `truncate`: it drops stages"),
        ("full+linear,head=mlp:8", "nothing can come before `linear`"),
    ],
)
def test_invalid_strategies_are_usage_errors(text: str, words: str, plugins: Plugins) -> None:
    with pytest.raises(UsageError) as error:
        phases(text, plugins)
    assert words in error.value.message


def test_all_mistakes_are_reported_together(plugins: Plugins) -> None:
    with pytest.raises(UsageError) as error:
        phases("partial:0+ful+linear,epochs=0,lr=nan,ema=2+knn:x", plugins)
    for words in (
        "trains no stage",
        "unknown strategy `ful`",
        "`epochs=0`",
        "`lr=nan`",
        "`ema=2.0`",
        "`neighbours",
    ):
        assert words in error.value.message, words


def test_every_option_has_help_and_every_strategy_a_source(plugins: Plugins) -> None:
    for entry in plugins.strategies:
        kind: type[Strategy] = entry.value
        helped = option_help(kind)
        assert all(helped.values()), f"{kind.name}: {helped}"
        assert not set(helped) & set(RESERVED)
        assert kind.__doc__ and len(kind.__doc__.splitlines()[0]) < 130


WORDS: dict[str, Any] = {"epochs": 3, "lr": 0.25, "norm": "train", "ema": 0.9, "mixup": 0.2, "cutmix": 1.0} | {
    "bss": 0.1,
    "stochnorm": 0.5,
}
TAUGHT: dict[str, Any] = {"distill": "runs/big", "distill_temperature": 2.0, "distill_weight": 0.5}  # without mixtures


def test_words_reach_every_phase_of_their_part(plugins: Plugins) -> None:
    assert set(WORDS) | set(TAUGHT) == set(RESERVED)
    text = "gradual:2," + ",".join(f"{key}={value}" for key, value in TAUGHT.items())
    assert canonical(parse(text, plugins.strategies)) == text
    for phase in phases(f"{text}+full", plugins)[:-1]:
        assert (phase.distill, phase.distill_temperature, phase.distill_weight) == ("runs/big", 2.0, 0.5)
    text = "gradual:2," + ",".join(f"{key}={value}" for key, value in WORDS.items())
    assert canonical(parse(text, plugins.strategies)) == text
    first, *rest = phases(f"{text}+full", plugins)
    changed = (first, *rest[:-1])
    assert len(changed) == 3 and sum(phase.epochs or 0 for phase in changed) == 3
    for phase in changed:
        assert (phase.lr, phase.norm, phase.ema, phase.mixup, phase.cutmix) == (0.25, "train", 0.9, 0.2, 1.0)
        assert (phase.bss, phase.stochnorm) == (0.1, 0.5)
    assert rest[-1] == phases("full", plugins)[0]
