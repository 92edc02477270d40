"""The strategy grammar: reading and writing are inverse, and all mistakes are told at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import Anatomy, Group, Phase, Stage, Strategy, UsageError, ZooError
from zoo.backbone import Backbone, Weights
from zoo.catalogue import Catalogue, Entry
from zoo.config.grammar import canonical, parse, share_epochs
from zoo.config.other_words import WORDS, own_word
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.strategy import RESERVED


@dataclass(frozen=True)
class Rich(Strategy):
    """Every type of option."""

    name: ClassVar[str] = "rich"
    summary: ClassVar[str] = "every type of option"

    depth: int = 3
    rate: float = 0.5
    deep: bool = False
    mode: Literal["a", "b"] = "a"
    label: str = "x"

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        return (Phase(name="rich", groups=(Group(stages=("head",)),)),)


BUILT_IN = [Entry("strategies", entry.value) for entry in Plugins().strategies]
CATALOGUE: Catalogue[Any] = Catalogue("strategy", "strategies", [*BUILT_IN, Entry("acme", Rich)])

ANATOMY = Anatomy(
    backbone="net",
    stages=tuple(Stage(name=name, parameters=(f"{name}.weight",)) for name in ("stem", "layer1", "layer2")),
    head=Stage(name="head", parameters=("fc.weight",)),
)

factors = st.floats(min_value=1e-12, max_value=1e6, allow_nan=False, allow_infinity=False)
finite = st.floats(min_value=1e-12, max_value=1e30, allow_nan=False, allow_infinity=False)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-/", min_size=1, max_size=8)


@st.composite
def texts(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(["linear", "full", "partial", "rich", "acme/rich"]))
        options: dict[str, Any] = {}
        if name == "partial":
            options["stages"] = draw(st.integers(1, 9))
        if "rich" in name:
            if draw(st.booleans()):
                options["depth"] = draw(st.integers(-5, 99))
            if draw(st.booleans()):
                options["rate"] = repr(draw(finite)).replace("e+", "e")
            if draw(st.booleans()):
                options["deep"] = draw(st.sampled_from(["true", "false"]))
            if draw(st.booleans()):
                options["label"] = draw(words)
        if draw(st.booleans()):
            options["epochs"] = draw(st.integers(1, 50))
        if draw(st.booleans()):
            options["lr"] = repr(draw(factors)).replace("e+", "e")
        if draw(st.booleans()):
            options["norm"] = draw(st.sampled_from(["frozen", "train", "recalibrate"]))
        pairs = [f"{key}={value}" for key, value in options.items()]
        pairs = draw(st.permutations(pairs))
        parts.append(",".join([name, *pairs]))
    return "+".join(parts)


@given(texts())
def test_canonical_form_reads_back_as_the_same_plan(text: str) -> None:
    plan = parse(text, CATALOGUE)
    assert parse(canonical(plan), CATALOGUE) == plan
    assert canonical(parse(canonical(plan), CATALOGUE)) == canonical(plan)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("partial:2", "partial:2"),
        ("partial,stages=2", "partial:2"),
        ("strategies/partial:2", "partial:2"),
        ("rich:3,rate=0.5", "rich"),
        ("rich,rate=1e16", "rich,rate=1e16"),
        ("linear,epochs=2+full,lr=0.1", "linear,epochs=2+full,lr=0.1"),
    ],
)
def test_canonical_form(text: str, form: str) -> None:
    assert canonical(parse(text, CATALOGUE)) == form


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("partial:two", ["`stages=two` is not a whole number"]),
        ("partial", ["`partial` needs a value, as in `partial:2`"]),
        ("partial:0", ["trains no stage"]),
        ("full:3", ["takes no value"]),
        ("linear,lr=nan", ["`lr=nan` is not a positive number"]),
        ("linear,lr=0", ["`lr=0.0` is not a positive number"]),
        ("linear,epochs=0", ["`epochs=0`"]),
        ("rich,deep=maybe,rate=fast,color=1", ["not true or false", "not a number", "no option `color`"]),
        ("linear,epochs=2,epochs=3", ["given twice"]),
        ("linear+", ["a name is missing"]),
        ("linear,epochs", ["not written KEY=VALUE"]),
        ("full+scratch", ["nothing can come before `scratch`"]),
        ("linear,norm=melted", ["known are frozen train recalibrate"]),
        ("full,lr=0+partial:0+linear,solver=x", ["`lr=0.0` is not", "`partial:0` trains", "`solver=x`: known are"]),
        ("partial:0,lr=0", ["`partial:0` trains no stage", "`lr=0.0` is not a positive number"]),
        ("ful+partial+knn:0", ["unknown strategy `ful`", "`partial` needs a value", "`knn:0`", "joined to `knn`"]),
        ("rich,rate=x,deep=1,epochs=0", ["`rate=x`", "`deep=1`", "`epochs=0`"]),
    ],
)
def test_every_mistake_is_reported(text: str, complaints: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        parse(text, CATALOGUE)
    for complaint in complaints:
        assert complaint in error.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partial:", "a value is missing after `partial:`"),
        ("partial:x", "`stages=x` is not a whole number"),
        ("partial:٣", "`stages=٣` is not a whole number"),
        ("linear,epochs=99999999999", "`epochs=99999999999` is too large"),
        ("linear,lr=٣", "`lr=٣` is not a number"),
        ("linear,epochs=999999999", "`epochs=999999999` is more than 1000000"),
        ("linear,mixup=2e6", "`mixup=2e+06` is more than 1000000"),
        ("linear,cutmix=-1", "`cutmix=-1.0` is not a positive number"),
        ("linear,lr=1e-300", "`lr=1e-300` is less than 1e-12; it is a factor of the learning rate"),
        ("linear,lr=1e300", "`lr=1e+300` is more than 1000000; it is a factor of the learning rate"),
    ],
)
def test_one_mistake_is_one_problem(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text, CATALOGUE)
    assert error.value.message == f"strategy `{text}`: {message}"


def test_epochs_of_a_part_are_hinted_at_as_they_are_written() -> None:
    with pytest.raises(UsageError) as error:
        parse("gradual,epochs=3", CATALOGUE).phases(ANATOMY)
    assert error.value.hint == "pass `epochs=4` or more"


def test_what_takes_no_steps_is_named_with_its_option() -> None:
    with pytest.raises(UsageError, match="`linear,solver=lbfgs` takes no optimiser steps, so `ema=` has no effect"):
        parse("linear,solver=lbfgs,ema=0.9", CATALOGUE).phases(ANATOMY)


def test_an_unknown_strategy_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        parse("partail:2", CATALOGUE)
    assert error.value.hint is not None and "`partial`" in error.value.hint


def test_too_many_stages_are_listed() -> None:
    with pytest.raises(UsageError, match="asks for 9 stages but `net` has 3: stem layer1 layer2"):
        parse("partial:9", CATALOGUE).phases(ANATOMY)


def test_words_override_every_phase() -> None:
    first, second = parse("linear,norm=train+full,lr=0.1,epochs=4", CATALOGUE).phases(ANATOMY)
    assert (first.norm, first.trains, first.epochs) == ("train", ("head",), None)
    assert (second.lr, second.epochs, second.trains) == (0.1, 4, ("stem", "layer1", "layer2", "head"))


@pytest.mark.parametrize(
    ("text", "epochs", "shares"),
    [
        ("full", None, (10,)),
        ("full", 3, (3,)),
        ("linear", None, (0,)),
        ("linear+full", 5, (0, 5)),
        ("partial:1+full", 5, (2, 3)),
        ("lpft,epochs=4", None, (0, 4)),
        ("linear,epochs=2+full", None, (2, 8)),
        ("linear,epochs=2+full,epochs=4", None, (2, 4)),
        ("linear,epochs=12+full", None, (12, 1)),
    ],
)
def test_epochs_are_shared(text: str, epochs: int | None, shares: tuple[int, ...]) -> None:
    assert share_epochs(parse(text, CATALOGUE).phases(ANATOMY), epochs, 10, text) == shares


@pytest.mark.parametrize(("text", "epochs"), [("linear,epochs=2+full,epochs=4", 10), ("linear,epochs=2+full", 2)])
def test_epochs_that_do_not_fit_are_refused(text: str, epochs: int) -> None:
    with pytest.raises(UsageError, match="epochs"):
        share_epochs(parse(text, CATALOGUE).phases(ANATOMY), epochs, 10, text)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, "returns None, not a tuple"),
        ([], "not a tuple"),
        ((), "not a tuple"),
        (("head",), "not a tuple"),
        ((Phase(name="x", groups="head"),), "`groups` is a tuple of `zoo.Group`s, not 'head'"),  # type: ignore[arg-type]
        ((Phase(name="x", groups=(Group(stages="head"),)),), "`stages` is a tuple of texts, not 'head'"),  # type: ignore[arg-type]
        ((Phase(name="x", groups=(Group(stages=("head",), lr="1"),)),), "`lr` is a number"),  # type: ignore[arg-type]
        ((Phase(name="x", groups=(Group(stages=("head",)),), norm="odd"),), "`norm` is one of"),  # type: ignore[arg-type]
        ((Phase(name="x", groups=(Group(stages=("head",)),), epochs=1.5),), "`epochs` is a whole number or None"),  # type: ignore[arg-type]
    ],
)
def test_what_a_strategy_returns_is_checked(returned: Any, reason: str) -> None:
    class Wrong(Rich):
        name: ClassVar[str] = "wrong"

        def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
            found: tuple[Phase, ...] = returned
            return found

    catalogue: Catalogue[Any] = Catalogue("strategy", "strategies", [Entry("acme", Wrong)])
    with pytest.raises(ZooError, match=reason):
        parse("wrong", catalogue).phases(ANATOMY)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("freeze:2", "`partial:N` trains the last N stages and the head, and freezes the others"),
        ("linear+Freeze_Backbone:2,lr=0.1", "`partial:N`"),
        ("fine-tune", "`full` trains every stage and the head"),
        ("head_only", "`linear` trains the head alone"),
        ("llrd", "`layerdecay`"),
    ],
)
def test_a_word_of_another_tool_is_told_its_word_here(text: str, hint: str, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="unknown strategy") as error:
        parse(text, plugins.strategies)
    assert hint in str(error.value.hint)


def test_words_of_other_tools_name_strategies_that_are_there(plugins: Plugins) -> None:
    named = {word.partition(":")[0] for told in WORDS.values() for word in re.findall(r"`([^`]+)`", told)}
    assert named and all(word in plugins.strategies for word in named)
    assert not any(own_word(entry.name) for entry in plugins.strategies)


def test_a_mistyped_backbone_offers_first_what_is_at_hand() -> None:
    def raises(*_: object) -> bool:
        raise OSError("a plugin may do so")

    def row(name: str, at_hand: Callable[..., bool] | None) -> Entry[Backbone]:
        weights = Weights(tag="w", preprocess=Preprocess(), at_hand=at_hand)
        return Entry("acme", Backbone(name=name, summary="s", build="nowhere:none", weights=(weights,)))

    here, away = (lambda *_: True), (lambda *_: False)
    rows = [row("net_one1", None), row("net_one2", here), row("net_one3", raises), row("net_one0", away)]
    catalogue = Catalogue("backbone", "backbones", [*rows, row("net_xxe", here)])
    with pytest.raises(UsageError) as error:
        catalogue.find("net_one")
    assert error.value.hint == "did you mean `net_one2` or `net_one0` or `net_one1`? See `zoo list backbones`"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lora:rank=x", "write `lora,rank=x`"),
        ("lora:x", "`rank` takes a whole number, such as `lora:8`: "),
        ("lora:0", "`rank` takes a whole number, such as `lora:8`: "),
        ("lora,alpha=x", "`alpha` takes a number, such as `lora,alpha=0.5`: "),
        ("partial:x", "`stages` takes a whole number, such as `partial:2`: number of stages that train"),
        ("partial", "`stages` takes a whole number, such as `partial:2`: "),
        ("partial:", "`stages` takes a whole number, such as `partial:2`: "),
        ("partial:-1", "`linear` trains only the head"),
        ("partial:2,wd=abc", "`--weight-decay` is a setting of the whole run"),
        ("full,batch-size=8", "`--batch-size` is a setting of the whole run"),
        ("full,epoch=1", "did you mean `epochs`?"),
        ("full,lr=abc", "`lr` takes a number, such as `full,lr=0.1`: factor of the learning rate"),
        ("full,lr=0", "`lr` takes a number, such as `full,lr=0.1`: "),
        ("full,lr", "`lr` takes a number, such as `full,lr=0.1`: "),
        ("full,ema=2", "`ema` takes a number, such as `full,ema=0.99`: "),
        ("full,bss=-1", "`bss` takes a number, such as `full,bss=0.001`: "),
        ("full,stochnorm=1", "`stochnorm` takes a number, such as `full,stochnorm=0.5`: "),
        ("full,norm=bad", "`norm` takes one of frozen train recalibrate, such as `full,norm=train`: "),
        (
            "linear,solver=x",
            "`solver` takes one of auto lbfgs sgd, such as `linear,solver=sgd`: how the head is trained",
        ),
        ("full,,lr=1", "remove the comma"),
        ("full,lr=1,lr=2", "give `lr` once"),
        ("full:3", "write `full`; "),
        ("full+", "leave the `+` out"),
    ],
)
def test_a_hint_says_what_an_option_takes_with_an_example(text: str, hint: str, plugins: Plugins) -> None:
    with pytest.raises(UsageError) as error:
        parse(text, plugins.strategies)
    assert error.value.hint is not None and error.value.hint.startswith(hint)


def test_every_example_in_a_hint_can_be_parsed(plugins: Plugins) -> None:
    """Of each option of each strategy that is given a value that it cannot have."""
    for entry in plugins.strategies:
        fields = dataclasses.fields(entry.value)
        needed = bool(fields) and fields[0].default is dataclasses.MISSING
        head = f"{entry.name}:2" if needed else entry.name
        for name in [*(field.name for field in fields[needed:]), *RESERVED]:
            with pytest.raises(UsageError) as error:
                parse(f"{head},{name}= ", plugins.strategies)
            assert f"`{name}` takes " in str(error.value.hint)
            if name != "head":
                example = re.search("such as `([^`]+)`", str(error.value.hint))
                assert example is not None, error.value.hint
                parse(example[1], plugins.strategies)
