"""Cutting a network into stages: the rules, and the law that every parameter stands in exactly one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.stage import Anatomy, Stage, check_anatomy, cut, group_parameters

RESNET = ["conv1.weight", "bn1.weight", "layer1.0.conv.weight", "layer1.1.conv.weight", "layer2.0.conv.weight", "fc.w"]


def test_patterns_group_in_order() -> None:
    groups, rest = group_parameters(reversed(RESNET), [r"conv1|bn1", r"layer(\d+)"])
    assert [group[0].split(".")[0] for group in groups] == ["bn1", "layer1", "layer2"]
    assert rest == ["fc.w"]


def test_numbers_are_ordered_as_numbers() -> None:
    groups, _ = group_parameters(["b.10.w", "b.2.w"], [r"b\.(\d+)"])
    assert groups == [["b.2.w"], ["b.10.w"]]


def test_stage_names() -> None:
    groups, _ = group_parameters(RESNET, [r"conv1|bn1", r"layer(\d+)"])
    anatomy = cut("net", RESNET, groups=groups, head={"fc.w"})
    assert anatomy.names == ("stem", "layer1", "layer2")
    assert anatomy.head.parameters == ("fc.w",)
    check_anatomy(anatomy, RESNET)


def test_a_trailing_convolution_joins_the_last_stage() -> None:
    names = ["stem.w", "blocks.0.w", "blocks.1.w", "conv_head.w", "bn2.w", "classifier.w"]
    anatomy = cut("net", names, groups=[["stem.w"], ["blocks.0.w"], ["blocks.1.w"]], head={"classifier.w"})
    assert anatomy.stages[-1] == Stage(name="blocks.1", parameters=("blocks.1.w", "conv_head.w", "bn2.w"))


def test_a_norm_joins_the_layer_it_follows() -> None:
    names = ["f.0.w", "f.1.w", "f.3.w", "f.4.w", "head.w"]
    anatomy = cut("net", names, groups=[[name] for name in names], head={"head.w"}, norms={"f.1.w", "f.4.w"})
    assert [stage.parameters for stage in anatomy.stages] == [("f.0.w", "f.1.w"), ("f.3.w", "f.4.w")]
    assert anatomy.names == ("stem", "f.3")


def test_names_do_not_repeat() -> None:
    names = ["a.w", "stem.w", "head.0.w", "head.1.w"]
    anatomy = cut("net", names, groups=[["a.w"], ["stem.w"], ["head.0.w"]], head={"head.1.w"})
    check_anatomy(anatomy, names)
    assert anatomy.names == ("stem", "stem.1", "head.0")


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_every_parameter_stands_once(owners: list[int], heads: set[int], norms: set[int]) -> None:
    """Whatever the groups, the head and the norms are: 0 is "in no group"."""
    names = [f"m{owner}.p{position}" for position, owner in enumerate(owners)]
    groups = [[name for name, owner in zip(names, owners) if owner == wanted] for wanted in range(1, 7)]
    head = {names[position] for position in heads if position < len(names)}
    normal = {names[position] for position in norms if position < len(names)}
    anatomy = cut("net", names, groups=groups, head=head, norms=normal)
    check_anatomy(anatomy, names)
    assert set(anatomy.head.parameters) == head
    assert all(stage.parameters for stage in anatomy.stages)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((("a", ("x",)), ("b", ("x", "y"))), "in two stages"),
        ((("a", ("x",)),), "in no stage"),
        ((("a", ("x", "y", "z")),), "not in the network"),
        ((("a", ("x",)), ("a", ("y",))), "names repeat"),
        ((("head", ("x", "y")),), "names repeat"),
    ],
)
def test_a_wrong_anatomy_is_refused(stages: tuple[tuple[str, tuple[str, ...]], ...], message: str) -> None:
    anatomy = Anatomy(
        backbone="net",
        stages=tuple(Stage(name=name, parameters=parameters) for name, parameters in stages),
        head=Stage(name="head", parameters=("h",)),
    )
    with pytest.raises(ValueError, match=message):
        check_anatomy(anatomy, ["x", "y", "h"])
