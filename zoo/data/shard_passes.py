"""Passes over shards: of which data by which backbone features were computed by shard, so that runs look for them."""

from __future__ import annotations

import hashlib

from zoo.experiment import Experiment
from zoo.storage.cache import read_memo, write_memo
from zoo.storage.files import json_text

MEMO, MOST_PASSES = "shard-passes", 200


def note_pass(experiment: Experiment) -> None:
    """Remember that features of these data by this backbone are computed by shard."""
    known = [one for one in read_memo(MEMO, "") or [] if isinstance(one, str)]
    name = _pass_name(experiment)
    if name not in known:
        write_memo(MEMO, "", [*known, name][-MOST_PASSES:])


def has_pass(experiment: Experiment) -> bool:
    """Whether `note_pass` was called for these data and this backbone."""
    return _pass_name(experiment) in (read_memo(MEMO, "") or [])


def _pass_name(experiment: Experiment) -> str:
    return hashlib.sha256(json_text([experiment.data, experiment.backbone]).encode()).hexdigest()[:16]
