"""Kept solutions: the same head on the same features is solved once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from shared import digest
from tests_support import TINY
from torch import nn

from zoo import Plugins, train
from zoo.solver import Task
from zoo.storage.tensor_store import SUFFIX, Store
from zoo.training.kept_solution import solve_or_find
from zoo.training.setup import build, plan_phases, resolve

TARGET = "solver_of_a_test:solve"


def task_of(**changed: Any) -> Task:
    torch.manual_seed(0)
    drawn = np.random.default_rng(0)
    task = Task(
        head=nn.Linear(4, 3),
        features=drawn.normal(size=(10, 4)).astype(np.float32),
        labels=drawn.integers(0, 3, 10),
        classes=3,
        seed=0,
    )
    return replace(task, **changed)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that the solver was called with; its module lies in a file of its own."""
    module = ModuleType("solver_of_a_test")
    module.__file__ = str(tmp_path / "solver_of_a_test.py")
    (tmp_path / "solver_of_a_test.py").write_text("")
    monkeypatch.setitem(sys.modules, "solver_of_a_test", module)
    return []


def solver(calls: list[Task], change: Callable[[nn.Module], None] = lambda head: None) -> Callable[[Task], Any]:
    def solve(task: Task) -> dict[str, Any]:
        calls.append(task)
        with torch.no_grad():
            next(task.head.parameters()).add_(float(task.features.sum()))
        change(task.head)
        return {"strength": 0.1 + 0.2, "note": None}

    return solve


def test_a_task_is_solved_once(calls: list[Task], tmp_path: Path) -> None:
    first, second = task_of(), task_of()
    answers = [solve_or_find(TARGET, solver(calls), task, Store(tmp_path)) for task in (first, second)]
    assert len(calls) == 1 and answers[0] == answers[1] == {"strength": 0.1 + 0.2, "note": None}
    assert all(map(torch.equal, first.head.state_dict().values(), second.head.state_dict().values()))


@pytest.mark.parametrize(
    "changed",
    [
        {"features": task_of().features[:, ::-1]},
        {"labels": task_of().labels[::-1]},
        {"seed": 1},
        {"groups": np.arange(10)},
        {"classes": 4},
        {"head": nn.Linear(4, 3)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_task_is_solved(changed: dict[str, Any], calls: list[Task], tmp_path: Path) -> None:
    for task in (task_of(), task_of(**changed)):
        solve_or_find(TARGET, solver(calls), task, Store(tmp_path))
    assert len(calls) == 2


def test_other_code_of_a_solver_solves_again(calls: list[Task], tmp_path: Path) -> None:
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    Path(str(sys.modules["solver_of_a_test"].__file__)).write_text("CHANGED = True")
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 2


def grow(head: nn.Module) -> None:
    head.register_buffer("seen", torch.zeros(7))


def test_a_solver_that_adds_to_the_head_solves_each_time(calls: list[Task], tmp_path: Path) -> None:
    for _ in range(2):
        task = task_of()
        solve_or_find(TARGET, solver(calls, grow), task, Store(tmp_path))
        assert hasattr(task.head, "seen")
    assert len(calls) == 2


class Subclass(nn.Linear):
    pass


def test_another_head_than_one_linear_layer_and_no_store_solve_each_time(calls: list[Task], tmp_path: Path) -> None:
    heads: list[Callable[[], nn.Module]] = [lambda: nn.Sequential(nn.Linear(4, 3)), lambda: Subclass(4, 3)]
    for make in heads * 2:
        torch.manual_seed(0)
        solve_or_find(TARGET, solver(calls), task_of(head=make()), Store(tmp_path))
    for _ in range(2):
        solve_or_find(TARGET, solver(calls), task_of(), None)
    assert len(calls) == 6


@pytest.mark.parametrize("answer", [{"pair": (1, 2)}, {"loss": float("nan")}, "text"])
def test_an_answer_that_json_changes_is_not_kept(answer: Any, calls: list[Task], tmp_path: Path) -> None:
    def solve(task: Task) -> Any:
        calls.append(task)
        return answer

    for _ in range(2):
        solve_or_find(TARGET, solve, task_of(), Store(tmp_path))
    assert len(calls) == 2


def test_a_damaged_solution_is_solved_again(calls: list[Task], tmp_path: Path) -> None:
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    (file,) = (tmp_path / "store").glob(f"**/*{SUFFIX}")
    file.write_bytes(file.read_bytes()[:-4])
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "another"),
    [
        ("versions", lambda: {"torch": "0"}),
        ("machine", lambda: {"processor": "another"}),
        ("package_version", lambda name: "0"),
    ],
)
def test_another_library_or_processor_solves_again(
    name: str, another: Callable[..., Any], calls: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path))
    monkeypatch.setattr(f"zoo.training.kept_solution.{name}", another)
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path))
    assert len(calls) == 2


def keeps(text: str, plugins: Plugins) -> bool:
    experiment = replace(TINY, strategy=text, epochs=None)
    setup = resolve(experiment, plugins)
    return plan_phases(setup, build(setup, experiment, 3), experiment).phases[0].keep_solution


def test_only_strategies_that_say_so_are_kept(plugins: Plugins) -> None:
    asked = ("linear", "truncate:1", "kmeans", "svm", "knn:3")
    assert [text for text in asked if not keeps(text, plugins)] == ["knn:3"]


def test_a_run_once_more_has_the_head_that_was_kept(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    asked = replace(TINY, data=str(two_splits), strategy="linear", epochs=None, cache="on")
    first = train(asked, out=tmp_path / "first", plugins=plugins)
    solved = []
    monkeypatch.setattr("zoo_strategies.logistic._cross_validate", lambda *given: solved.append(given))
    second = train(asked, out=tmp_path / "second", plugins=plugins)
    assert not solved
    assert digest(first.path / "model.safetensors") == digest(second.path / "model.safetensors")
    assert first.metrics == second.metrics
    train(replace(asked, cache="off"), out=tmp_path / "third", plugins=plugins)
    assert solved
