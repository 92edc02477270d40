"""Cooperation: how ranks carry out one run. Rank 0 tells the others what to train, and they follow it step by step.

Everything that a rank needs comes from rank 0 and from the photographs, so that a follower reads no run folder:
settings, precision, threads, engine, rate and checkpoint. It prepares after rank 0 has, and finds the pixels in the
store where they share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.config.context import Context
from zoo.errors import counted
from zoo.experiment import Experiment
from zoo.feature_cache.engine_choice import EngineChoice
from zoo.progress import Progress, Silent
from zoo.runs.run import Run
from zoo.system.device import choose_device
from zoo.system.ranks import Ranks
from zoo.training.final_run import Earlier
from zoo.training.preparation import Job, prepare
from zoo.training.rank_checks import check_start_of_ranks
from zoo.training.recipe import Recipe
from zoo.training.sampler import preserved_generators
from zoo.training.setup import resolve

Restored = tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]


def lead(job: Job) -> None:
    """Tell the other ranks what to train, and wait until they are ready.

    Raises:
        ZooError: a rank has other data, weights or versions.
    """
    ranks = job.context.ranks
    if ranks.size == 1:
        return
    engine = job.engine.choice if job.engine is not None else None
    plan = {
        "experiment": job.experiment.to_json(),
        "precision": job.setup.device.precision,
        "threads": torch.get_num_threads(),
        "engine": None if engine is None else engine.to_json(),
        "earlier": None if job.earlier is None else job.earlier.to_json(),
        "exact": ranks.exact,
    }
    ranks.first(lambda: plan)
    ranks.meet()  # the others prepare as long as they need
    check_start_of_ranks(job)


def lead_nothing(ranks: Ranks, run: Run) -> Run:
    """Tell the other ranks that the run is finished already."""
    ranks.first(lambda: {"finished": (str(run.path), dict(run.record))})
    return run


def follow(context: Context) -> Run:
    """Train what rank 0 tells, without a word and without writing anything; returns the run of rank 0."""
    ranks = context.ranks
    plan: dict[str, Any] = ranks.first(dict)
    if "finished" in plan:
        return _run(plan["finished"])
    context = replace(context, progress=Silent())
    torch.set_num_threads(plan["threads"])
    ranks.exact = plan["exact"]
    experiment = replace(Experiment.from_json(plan["experiment"]), callback=())
    setup = resolve(experiment, context.plugins)
    setup = replace(setup, device=choose_device(experiment.device, plan["precision"]))
    engine = None if plan["engine"] is None else EngineChoice.from_json(plan["engine"])
    earlier = None if plan["earlier"] is None else Earlier.from_json(plan["earlier"])
    job = prepare(experiment, setup, context, earlier=earlier, engine=engine)
    ranks.meet()
    check_start_of_ranks(job)
    job = replace(job, experiment=replace(experiment, lr=ranks.first(lambda: experiment.lr)))
    recipe = Recipe(job)
    restored: Restored | None = ranks.first(lambda: None)
    if restored is not None:
        recipe.restore(*restored)
    with preserved_generators():
        for _ in recipe.fit():
            pass
    return _run(ranks.first(lambda: ("", {})))


def _run(found: tuple[str, dict[str, Any]]) -> Run:
    return Run(Path(found[0]), found[1])


def share_rate(job: Job) -> None:
    """Tell the other ranks the learning rate, which may have been found."""
    job.context.ranks.first(lambda: job.experiment.lr)


def share_state(job: Job, restored: Restored | None) -> None:
    """Give the other ranks the checkpoint that is continued. None: training begins."""
    job.context.ranks.first(lambda: restored)


def share_run(job: Job, run: Run) -> None:
    """Give the other ranks the finished run, which they wait for."""
    job.context.ranks.first(lambda: (str(run.path), dict(run.record)))


def times_of_parts(experiment: Experiment, ranks: Ranks, earlier: Earlier | None) -> int:
    """The factor of `--accumulate` in a new run: a final run keeps the parts of its run, if enough for all ranks."""
    return 1 if earlier is not None and experiment.accumulate >= ranks.size else ranks.size


def ranks_text(job: Job) -> str:
    """How many processes train a new run, and what its weights equal, for the user."""
    ranks = job.context.ranks
    if all(phase.solver is not None for phase in job.phases.phases):
        return f"{ranks.size} ranks: no optimiser step is taken, so rank 0 computes and the others wait"
    how = "in the order of ranks" if ranks.exact else "by all-reduce"
    threads = counted(torch.get_num_threads(), "thread")
    parts = counted(min(job.experiment.accumulate, job.experiment.batch_size), "part")
    same = "; the weights are those of one process with as many" if ranks.exact else ""
    text = f"{ranks.size} ranks with {threads} each: a batch has {parts} (`--accumulate`)"
    return f"{text}, whose gradients are added up {how}{same}"


def tell_ranks(run: Run, ranks: Ranks, progress: Progress) -> None:
    """Say what changes where a run is continued by another number of ranks than it was begun with."""
    said = run.record.get("ranks") or {"count": 1, "exact": True}
    if said["count"] == ranks.size and said["exact"] == ranks.exact:
        return
    parts = run.experiment.accumulate
    text = f"begun with {said['count']} rank{'' if said['count'] == 1 else 's'}, continued with {ranks.size}"
    idle = f", so {ranks.size - parts} of the ranks have nothing to do" if ranks.size > parts else ""
    text += f": a batch still has {parts} part{'' if parts == 1 else 's'}{idle}"
    if said["exact"] and ranks.exact:
        progress.note(f"{text}; the weights are the same")
    else:
        progress.warn(f"{text}; gradients are added up in another order, so the weights differ by rounding")
