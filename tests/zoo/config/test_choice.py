"""Choices: what a setting names is read, written and refused."""

from __future__ import annotations

import pytest

from zoo import UsageError, ZooError
from zoo.augmentation import Augmentation
from zoo.catalogue import Entry
from zoo.config.choice import Choice, choose
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
