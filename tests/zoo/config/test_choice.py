"""Choices: what a setting names is read, written and refused."""

from __future__ import annotations

import pytest

from zoo import UsageError, ZooError
from zoo.augmentation import Augmentation
from zoo.catalogue import Catalogue, Entry
from zoo.config.choice import Choice, choose
from zoo.option import Option
from zoo.plugin import Plugins

PLUGINS = Plugins()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("light", "augmentations/light"),
        ("light:0.2", "augmentations/light"),
        ("light:0.5,least=0.3", "augmentations/light:0.5,least=0.3"),
        ("augmentations/rand,operations=3", "augmentations/rand,operations=3"),
    ],
)
def test_texts_have_a_canonical_form(text: str, canonical: str) -> None:
    choice = choose(text, PLUGINS.augmentations, PLUGINS)
    assert str(choice) == canonical and choice.distribution is None
    assert choose(canonical, PLUGINS.augmentations, PLUGINS) == choice


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lihgt", "unknown augmentation `lihgt`"),
        ("acme/mixed:1", "no plugin `acme` with augmentations is installed"),
        ("flip:1", "`flip` takes no value"),
        ("rand:2.5", "`magnitude=2.5` is not a whole number"),
        ("light:2", "`strength=2` is outside 0 to 1"),
        ("light:nan", "`strength=nan` is outside 0 to 1"),
        ("light:0.1,strength=0.2,size=3", "`strength` is given twice; `light` has no option `size`"),
        ("light,", "`` is not written KEY=VALUE"),
        ("light:strength=0.2", "`strength=0.2` stands after the colon"),
    ],
)
def test_wrong_texts_are_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(text, PLUGINS.augmentations, PLUGINS)
    assert told in caught.value.message and caught.value.hint


def test_a_function_with_other_arguments_is_named() -> None:
    row = Augmentation(name="mine", summary="x", target=lambda canvas: canvas)
    with pytest.raises(ZooError, match="of augmentation `acme/mine` does not take 3 arguments"):
        Choice(entry=Entry("acme", row), noun="augmentation", values={}).function(3)


@pytest.mark.parametrize(("target", "told"), [("math:pi", "`math:pi` of augmentation `acme/mine` is no function")])
def test_what_is_no_function_is_named(target: str, told: str) -> None:
    row = Augmentation(name="mine", summary="x", target=target)
    with pytest.raises(ZooError, match=told):
        Choice(entry=Entry("acme", row), noun="augmentation", values={}).function(3)


def test_a_function_without_a_signature_is_taken() -> None:
    row = Augmentation(name="mine", summary="x", target="builtins:max")
    assert Choice(entry=Entry("acme", row), noun="augmentation", values={}).function(3)(1, 3, 2) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mine:inf", "`x=inf` is not a finite number"),
        ("mine:-1e400", "`x=-1e400` is not a finite number"),
        ("mine:nan", "`x=nan` is not a finite number"),
        ("mine,least=0", "`least=0` is below 1"),
        ("mine,most=8", "`most=8` is above 7"),
    ],
)
def test_numbers_without_bounds_are_finite(text: str, told: str) -> None:
    options = (
        Option(name="x", default=1.0, summary="x"),
        Option(name="least", default=2, summary="x", low=1),
        Option(name="most", default=2, summary="x", high=7),
    )
    row = Augmentation(name="mine", summary="x", target="acme:mine", options=options)
    mine: Catalogue[Augmentation] = Catalogue("augmentation", "augmentations", [Entry("augmentations", row)])
    with pytest.raises(UsageError) as caught:
        choose(text, mine, PLUGINS)
    assert told in caught.value.message
    bounds = [choose(f"mine{words}", mine, PLUGINS).values for words in (":-1e300", ",least=1", ",most=7")]
    assert [values[name] for values, name in zip(bounds, ("x", "least", "most"))] == [-1e300, 1, 7]


def test_a_bound_is_told_as_it_is() -> None:
    with pytest.raises(UsageError, match=r"outside 0 to 0\.9999999\n"):
        choose("sgd:1", PLUGINS.optimizers, PLUGINS)


@pytest.mark.parametrize(
    ("setting", "text", "hint"),
    [
        ("losses", "focal:x", "`gamma` takes a number, such as `focal:2`: "),
        ("augmentations", "rand:2.5", "`magnitude` takes a whole number, such as `rand:"),
        ("optimizers", "sgd:9", "`momentum` takes a number, such as `sgd:0.9`: "),
    ],
)
def test_a_hint_says_what_an_option_takes(setting: str, text: str, hint: str, plugins: Plugins) -> None:
    with pytest.raises(UsageError) as error:
        choose(text, getattr(plugins, setting), plugins)
    assert str(error.value.hint).startswith(hint)
