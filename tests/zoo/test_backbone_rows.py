"""Rows: finding weights by tag, and the JSON that a catalogue is kept as."""

from __future__ import annotations

import json

import pytest

from zoo.backbone import Backbone, Weights, is_at_hand
from zoo.errors import UsageError
from zoo.preprocess import Preprocess

FIRST = Weights(tag="first_in1k", preprocess=Preprocess(crop=160), top1=0.7, at_hand="os.path:exists")
SECOND = Weights(tag="second_in22k", preprocess=Preprocess(fit="squash"))
ROW = Backbone(name="net", summary="a network", build="some.module:build", weights=(FIRST, SECOND), parameters=7)


def test_json_round_trip() -> None:
    assert Backbone.from_json(json.loads(json.dumps(ROW.to_json()))) == ROW


def test_find_weights() -> None:
    assert ROW.find_weights("default") is FIRST
    assert ROW.find_weights("second_in22k") is SECOND
    assert ROW.find_weights("none") is None
    with pytest.raises(UsageError, match="no weights `second_in1k`") as error:
        ROW.find_weights("second_in1k")
    assert error.value.hint is not None and "second_in22k" in error.value.hint


def test_no_weights_at_all() -> None:
    bare = Backbone(name="net", summary="a network", build="some.module:build")
    with pytest.raises(UsageError, match="no published weights"):
        bare.find_weights("default")
    assert bare.find_weights("none") is None


def test_is_at_hand() -> None:
    assert not is_at_hand(ROW, SECOND)
    always = Weights(tag="t", preprocess=Preprocess(), at_hand=lambda backbone, weights: backbone.name == "net")
    assert is_at_hand(ROW, always)
