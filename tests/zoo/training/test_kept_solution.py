"""Kept solutions: the same head on the same features is solved once."""

from __future__ import annotations

import random
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
from zoo.storage.tensor_store import Store
from zoo.training import kept_solution
from zoo.training.kept_solution import solve_or_find

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
        {"head": nn.Sequential(task_of().head)},
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


def test_other_code_of_a_module_that_a_solver_imports_solves_again(
    calls: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "solver_of_a_test.py").write_text("def solve(task):\n    from helper_of_a_test.inner import fit\n")
    (tmp_path / "helper_of_a_test").mkdir()
    for text in ("", "import more_of_a_test", "import more_of_a_test"):
        (tmp_path / "helper_of_a_test" / "inner.py").write_text(text)
        solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 2
    (tmp_path / "more_of_a_test.py").write_text("CHANGED = True")
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 3


def test_another_version_of_a_library_that_a_solver_imports_solves_again(
    calls: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "solver_of_a_test.py").write_text("import numpy, library_of_a_test as library\n")
    for version in ("1", "1", "2"):
        known = {"library_of_a_test": version}
        monkeypatch.setattr(kept_solution, "package_version", known.get)
        solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch.get_num_threads", lambda: 77),
        ("zoo.training.kept_solution.versions", lambda: {"torch": "0"}),
        ("zoo.training.kept_solution.machine", lambda: {"processor": "another"}),
        ("zoo.training.kept_solution.source_key", lambda *files: "another"),
    ],
)
def test_another_machine_solves_again(
    name: str, value: Callable[..., Any], calls: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    monkeypatch.setattr(name, value)
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert len(calls) == 2


def test_the_code_of_zoo_that_solvers_use_counts(
    calls: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def source_key(*files: Path) -> str:
        asked.extend(files)
        return "key"

    monkeypatch.setattr(kept_solution, "source_key", source_key)
    solve_or_find(TARGET, solver(calls), task_of(), Store(tmp_path / "store"))
    assert {"held_out_folds.py", "temperature_scaling.py", "solver_of_a_test.py"} <= {file.name for file in asked}


@pytest.mark.parametrize("answer", [{"folds": (1, 2)}, {1: 2}, {"loss": float("nan")}, {"loss": np.float32(1)}, None])
def test_an_answer_that_json_changes_is_not_kept(answer: Any, calls: list[Task], tmp_path: Path) -> None:
    def solve(task: Task) -> Any:
        calls.append(task)
        return answer

    assert [solve_or_find(TARGET, solve, task_of(), Store(tmp_path)) is answer for _ in range(2)] == [True, True]


class Scaled(nn.Linear):
    """A head with a value that its text does not show, and a tensor that is not of its state."""

    def __init__(self, scale: float) -> None:
        super().__init__(4, 3)
        self.scale = scale
        self.seen: list[int] = []
        self.register_buffer("mean", torch.zeros(3), persistent=False)


def test_heads_that_differ_in_a_hidden_value_are_solved_each(calls: list[Task], tmp_path: Path) -> None:
    for scale in (1.0, 2.0, 1.0):
        torch.manual_seed(0)
        solve_or_find(TARGET, solver(calls), task_of(head=Scaled(scale)), Store(tmp_path))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.mean.fill_(7.0),
        lambda head: head.seen.append(1),
        lambda head: head.register_forward_hook(print),
        lambda head: head.bias.requires_grad_(False),
        lambda head: head.eval(),
    ],
    ids=["tensor", "list", "hook", "gradient", "mode"],
)
def test_a_solver_that_changes_what_is_not_in_the_state_solves_each_time(
    change: Callable[[nn.Module], None], calls: list[Task], tmp_path: Path
) -> None:
    for _ in range(2):
        torch.manual_seed(0)
        solve_or_find(TARGET, solver(calls, change), task_of(head=Scaled(1.0)), Store(tmp_path))
    assert len(calls) == 2


def test_a_solver_that_changes_its_features_solves_each_time(calls: list[Task], tmp_path: Path) -> None:
    for _ in range(2):
        task = task_of()

        def spoil(head: nn.Module, features: Any = task.features) -> None:
            features.fill(0)

        solve_or_find(TARGET, solver(calls, spoil), task, Store(tmp_path))
        assert not task.features.any()
    assert len(calls) == 2


def test_random_numbers_of_a_solver_are_those_of_the_task_and_leave_others_alone(
    calls: list[Task], tmp_path: Path
) -> None:
    def drawing(task: Task) -> dict[str, Any]:
        calls.append(task)
        return {"drawn": [float(torch.rand(1)), float(np.random.rand()), random.random()]}

    found = []
    for number, store in enumerate((Store(tmp_path), Store(tmp_path), None)):
        task = task_of()
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        expected = torch.get_rng_state()
        found.append(solve_or_find(TARGET, drawing, task, store))
        assert torch.equal(torch.get_rng_state(), expected)
    assert found[0] == found[1] == found[2] and len(calls) == 2


def test_a_head_of_which_two_layers_share_weights_is_kept(calls: list[Task], tmp_path: Path) -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        heads.append(nn.Sequential(*[nn.Linear(4, 4)] * 2))
        solve_or_find(TARGET, solver(calls), task_of(head=heads[-1]), Store(tmp_path))
    assert len(calls) == 1 and torch.equal(*(head.state_dict()["1.weight"] for head in heads))


def set_attribute(head: nn.Module) -> None:
    head.temperature = 2.0  # type: ignore[assignment]


def grow(head: nn.Module) -> None:
    head.register_buffer("seen", torch.zeros(7))


@pytest.mark.parametrize("change", [set_attribute, grow])
def test_a_solver_that_changes_more_than_values_solves_each_time(
    change: Callable[[nn.Module], None], calls: list[Task], tmp_path: Path
) -> None:
    for _ in range(2):
        task = task_of()
        solve_or_find(TARGET, solver(calls, change), task, Store(tmp_path))
        assert hasattr(task.head, "temperature") or hasattr(task.head, "seen")
    assert len(calls) == 2


def test_an_unnamed_solver_and_none_to_keep_in_solve_each_time(calls: list[Task], tmp_path: Path) -> None:
    function = solver(calls)
    for target, store in ((function, Store(tmp_path)), (function, Store(tmp_path)), (TARGET, None), (TARGET, None)):
        solve_or_find(target, function, task_of(), store)
    assert len(calls) == 4


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
