"""Remote trials: what a machine of a cluster does with a trial. Ray and Slurm call the same function.

It trains in a process of its own, as on the session's machine, after it has found the same versions and images.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import DiskFull, ZooError, is_disk_full
from zoo.experiment import Experiment
from zoo.storage.object_store import StoreError
from zoo.studies.executor import LocalProcess
from zoo.studies.running import check_session, hold_trial
from zoo.studies.study_store import carry_out_from_store
from zoo.studies.trial import Trial, TrialResult
from zoo.system.environment import versions
from zoo.system.worker_process import WorkerFailed

# Processes that train, by what their libraries read once: a process of Ray carries out several trials, and its own
# process keeps torch and features from trial to trial
_processes: dict[tuple[int, str | None], LocalProcess] = {}


def carry_out(request: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a trial on this machine.

    Args:
        request: `study`, the folder, or what `StoreSession.request` gives; `session`, its token; `trial`, `experiment`
            and `tuned` as JSON; the `name` of the trial's folder; `threads`; and `state`, the versions and images of
            the session's machine.

    Returns:
        JSON values: `outcome`, that of `TrialResult.to_json`; or `refused` or `full` with the reason and a `hint`,
        where this machine may not train it, or its disk is full.
    """
    if "features" in request:
        return _shard_features(request)
    key = (request["threads"], os.environ.get("CUDA_VISIBLE_DEVICES"))
    process = _processes.setdefault(key, LocalProcess(request["threads"]))
    trial = Trial(**request["trial"])

    def train(experiment: Experiment, folder: Path) -> TrialResult:
        _check_state(process, experiment, request["state"])
        return process.submit(trial, experiment, folder, request["tuned"]).result()

    try:
        if "store" in request:
            return {"outcome": carry_out_from_store(request, train)}
        study, name = Path(request["study"]), str(request["name"])
        check_session(study, request["session"])
        with hold_trial(study, name, request["session"]):
            found = train(Experiment.from_json(request["experiment"]), study / "trials" / name)
            return {"outcome": found.to_json()}
    except DiskFull as error:
        return {"full": f"worker `{platform.node()}`: {error.message}", "hint": error.hint}
    except StoreError as error:
        return {"refused": f"worker `{platform.node()}`: {error.message}", "hint": error.hint}
    except ZooError as error:
        return {"refused": f"worker `{platform.node()}` {error.message}", "hint": error.hint}
    except OSError as error:
        why = f"worker `{platform.node()}` cannot use `{error.filename}`: {(error.strerror or str(error)).lower()}"
        return {"full" if is_disk_full(error) else "refused": why, "hint": "make room, or set `ZOO_CACHE` there"}


def _shard_features(request: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the features of one shard on this machine.

    Args:
        request: `features`, what `TrialWorker.shard_features` takes; `threads`; and `versions`, those of the session.

    Returns:
        JSON values: `answer`; or `failed` with the reason, a `hint` and the type of the error.
    """
    key = (request["threads"], os.environ.get("CUDA_VISIBLE_DEVICES"))
    process, node = _processes.setdefault(key, LocalProcess(request["threads"])), f"worker `{platform.node()}`"
    difference = versions_difference(request["versions"], versions())
    if difference:
        return {
            "failed": f"{node} has other versions: {difference}",
            "hint": "install the same on all machines",
            "kind": "",
        }
    try:
        return {"answer": process.ask("shard_features", **request["features"])}
    except DiskFull as error:
        return {"failed": f"{node}: {error.message}", "hint": error.hint, "kind": DiskFull.__name__}
    except WorkerFailed as failure:
        kind = "" if failure.kind is None else failure.kind.__name__
        return {"failed": f"{node}: {failure.reason}", "hint": failure.hint, "kind": kind}


def _check_state(process: LocalProcess, experiment: Experiment, wanted: Mapping[str, Any]) -> None:
    """Check that this machine has the session's versions and images.

    Raises:
        ZooError: it does not.
    """
    try:
        found = process.ask("state", experiment=experiment.to_json())
    except WorkerFailed as failure:
        raise ZooError(f"cannot begin: {failure.reason}", hint=failure.hint) from failure
    difference = versions_difference(wanted["versions"], found["versions"])
    if difference:
        raise ZooError(f"has other versions: {difference}", hint="install the same on all machines")
    if found["images"] != wanted["images"]:
        raise ZooError(
            f"sees other images in `{experiment.data}` than the session, which read {wanted['count']:,} (it read "
            f"{found['count']:,})",
            hint="all machines must see the same files; were any changed since the study began?",
        )


def versions_difference(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What differs between two machines' versions, such as `torch 2.9 instead of 2.10`; empty where nothing does."""
    names = sorted({*wanted, *found})
    return ", ".join(
        f"`{name}` {found.get(name, 'missing')} instead of {wanted.get(name, 'none')}"
        for name in names
        if wanted.get(name) != found.get(name)
    )
