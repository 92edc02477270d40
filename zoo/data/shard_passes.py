"""Passes over shards: of which data by which backbone features were computed by shard, so that runs look for them."""

from __future__ import annotations

import hashlib

from zoo.experiment import Experiment
from zoo.storage.cache import read_memo, write_memo
from zoo.storage.files import json_text

MEMO, MOST_PASSES = "shard-passes", 200


def note_pass(experiment: Experiment) -> None:
    """Remember that features of these data by this backbone are computed by shard."""
    known = _passes()
    new = {_of_backbone(experiment): None, _of_data(experiment): None}
    if not new.keys() <= set(known):
        write_memo(MEMO, "", [*(one for one in known if one not in new), *new][-MOST_PASSES:])


def has_pass(experiment: Experiment) -> bool:
    """Whether `note_pass` was called for these data and this backbone."""
    return _of_data(experiment) in _passes()


def may_have_features(experiment: Experiment) -> bool:
    """Whether `note_pass` was called for this backbone: some of these shards may be among those of other data."""
    return _of_backbone(experiment) in _passes()


def _passes() -> list[str]:
    return [one for one in read_memo(MEMO, "") or [] if isinstance(one, str)]


def _of_data(experiment: Experiment) -> str:
    return hashlib.sha256(json_text([experiment.data, experiment.backbone]).encode()).hexdigest()[:16]


def _of_backbone(experiment: Experiment) -> str:
    return hashlib.sha256(experiment.backbone.encode()).hexdigest()[:16]
