"""Rank checks: that all ranks begin with the same, decide the same, and end with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from zoo.errors import UsageError
from zoo.experiment import Experiment
from zoo.feature_cache.engine_choice import EngineChoice
from zoo.networks.freezing import digest_of_state
from zoo.system.environment import versions
from zoo.system.ranks import Ranks
from zoo.training.preparation import Job

T = TypeVar("T")

SHOWN = 12  # digits of a digest in a message


def check_settings_of_ranks(experiment: Experiment, ranks: Ranks) -> None:
    """Check that several ranks can train with these settings.

    Raises:
        UsageError: they compile, which no test compares between one process and several.
    """
    if ranks.size > 1 and experiment.compile:
        raise UsageError(
            "`--compile` is for one process, and torchrun has started several",
            hint="leave `--compile` out, or leave torchrun out",
        )


def check_start_of_ranks(job: Job) -> None:
    """Check that all ranks have the versions, the images and the weights that rank 0 has.

    Raises:
        ZooError: one has others; the message names the rank and what differs.
    """
    job.context.ranks.check_same(
        {
            **versions(),
            **{f"the data of `{role}`": part.digest[:SHOWN] for role, part in job.decoded.items()},
            "the digest of the starting weights": job.start_digest[:SHOWN],
        }
    )


def check_weights(job: Job, model: nn.Module) -> None:
    """Check that the weights of all ranks are those of rank 0, after a phase.

    Raises:
        ZooError: they are not.
    """
    if job.context.ranks.size > 1:
        job.context.ranks.check_same({"the digest of the trained weights": digest_of_state(model)[:SHOWN]})


def in_turn(job: Job, compute: Callable[[], T]) -> T:
    """Compute on rank 0, which may choose an engine, and then on the others, which take the same engine."""
    ranks, engine = job.context.ranks, job.engine
    found = compute() if ranks.leads else None
    if ranks.size == 1:
        assert found is not None
        return found
    chosen = ranks.first(lambda: None if engine is None or engine.choice is None else engine.choice.to_json())
    if ranks.leads:
        assert found is not None
        return found
    if engine is not None and chosen is not None:
        engine.begin_with(EngineChoice.from_json(chosen))
    return compute()
