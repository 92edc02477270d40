"""Solutions of solvers, kept in the store: the same linear head on the same features is not solved again."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import zoo.training
from zoo.errors import ZooError
from zoo.networks.freezing import digest_of_state
from zoo.solver import Task
from zoo.storage.cache import source_key
from zoo.storage.files import json_text
from zoo.storage.tensor_store import Store
from zoo.system.environment import machine, package_version, versions

# Packages that solvers compute with, besides those whose versions a run records
OTHERS = ("scikit-learn", "scipy")

ANSWER = "answer"  # the name of the answer among the tensors of an entry


def solve_or_find(target: str, solve: Callable[[Task], Any], task: Task, store: Store | None) -> Any:
    """What a solver returns for a task, whose head it changes; both from the store if this task was solved before.

    The result must depend on nothing but the task, the solver's package and installed libraries. Only of heads that are
    one linear layer a solution is kept: that is all that there is to restore.

    Args:
        target: The solver, as `"module:function"`.
        solve: The same, imported.
        task: Its input.
        store: Where solutions are kept. None: nowhere.
    """
    head = task.head
    if store is None or store.failure is not None or type(head) is not nn.Linear or head.weight.device.type != "cpu":
        return solve(task)
    key, shapes = _key(target, task), _shapes(head)
    found = store.read(key)
    if found is not None:
        answer = found.pop(ANSWER, None)
        if answer is not None and {name: tuple(value.shape) for name, value in found.items()} == shapes:
            head.load_state_dict(found)
            return json.loads(answer.numpy().tobytes())
    answer = solve(task)
    if _shapes(head) != shapes or not isinstance(answer, dict):
        return answer
    try:
        text = json_text(answer, ascii_only=True).encode()
    except (ZooError, TypeError):  # it cannot be recorded either
        return answer
    if json.loads(text) == answer:
        state = {name: value.detach().clone().contiguous() for name, value in head.state_dict().items()}
        store.write(key, {ANSWER: torch.frombuffer(bytearray(text), dtype=torch.uint8), **state})
    return answer


def _shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in head.state_dict().items()}


def _key(target: str, task: Task) -> dict[str, Any]:
    package = importlib.import_module(target.partition(":")[0].partition(".")[0])
    folders = [Path(str(module.__file__)).parent for module in (zoo.training, package)]
    return {
        "kind": "solution",
        "solver": target,
        "code": source_key(*(file for folder in folders for file in sorted(folder.rglob("*.py")))),
        "head": digest_of_state(task.head),
        "features": _digest(task.features),
        "labels": _digest(task.labels),
        "groups": None if task.groups is None else _digest(task.groups),
        "classes": task.classes,
        "seed": task.seed,
        "threads": torch.get_num_threads(),
        "processor": [machine()["processor"], torch.backends.cpu.get_cpu_capability(), platform.machine()],
        "versions": {**versions(), **{name: package_version(name) for name in OTHERS}},
    }


def _digest(values: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array."""
    whole = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    whole.update(np.ascontiguousarray(values).data)
    return whole.hexdigest()
