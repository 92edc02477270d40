"""Costs: the matrix as a file, the cheapest decisions, their mean cost and its interval."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from zoo import Predictions, UsageError
from zoo.evaluation.costs import cheapest, compare_costs, mean_intervals, read_costs
from zoo_cli.main import run

CLASSES = ("cat", "dog", "fox")


def matrix_of(text: str, tmp_path: Path, classes: tuple[str, ...] = CLASSES) -> npt.NDArray[np.float64]:
    file = tmp_path / "costs.csv"
    file.write_text(text, encoding="utf-8")
    return read_costs(file, classes)


def test_rows_and_columns_are_found_by_their_names(tmp_path: Path) -> None:
    found = matrix_of("true,fox,cat,dog\ndog,1,2,0\ncat,3,0,4\nfox,0,5,6.5\n", tmp_path)
    assert found.tolist() == [[0, 4, 3], [2, 0, 1], [5, 6.5, 0]]
    assert matrix_of(";dog;cat\ncat;1;0\ndog;0;2\n", tmp_path, ("cat", "dog")).tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("true,cat,dog,fox\ncat,0,1,1\ndog,1,0,1\n", "no row for class `fox`.*not square"),
        ("true,cat,dog\ncat,0,1\ndog,1,0\nfox,1,1\n", "no column for class `fox`.*not square"),
        ("true,cat,dog,fox,cow\ncat,0,1,1,1\n", "column `cow` of .* is no class of the model"),
        ("true,cat,Dog,fox\ncat,0,1,1\n", "column `Dog` of .* is no class of the model"),
        ("true,cat,dog,fox\ncat,0,1,1\ndog,1,0,1\ndog,1,0,1\nfox,1,1,0\n", "two rows for class `dog`"),
        ("true,cat,dog,fox\ncat,0,nan,1\ndog,1,0,1\nfox,1,1,0\n", "`nan` of `cat` decided as `dog`.* not a finite"),
        ("true,cat,dog,fox\ncat,0,-1,1\ndog,1,0,1\nfox,1,1,0\n", "`-1` of `cat` decided as `dog`.* at least 0"),
        ("true,cat,dog,fox\ncat,0,inf,1\ndog,1,0,1\nfox,1,1,0\n", "`inf` of"),
        ("true,cat,dog,fox\ncat,0,,1\ndog,1,0,1\nfox,1,1,0\n", "the cost `` of"),
        ("true,cat,dog,fox\ncat,0,1\ndog,1,0,1\nfox,1,1,0\n", "costs.csv"),
        ("", "is empty"),
        ("true,cat,dog,fox\n", "no rows"),
    ],
)  # fmt: skip
def test_a_matrix_that_is_none_gets_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        matrix_of(text, tmp_path)
    assert error.value.hint and "\n" not in error.value.message
    with pytest.raises(UsageError, match="cannot be read"):
        read_costs(tmp_path, CLASSES)


def test_the_cheapest_decision_weighs_costs_by_probabilities() -> None:
    # 0.8 cat: taking it for a dog costs 0.8, for a cat 0.2 * 10
    dear = np.array([[0.0, 1.0], [10.0, 0.0]])
    assert cheapest(np.array([[0.8, 0.2], [0.95, 0.05]]), dear).tolist() == [1, 0]
    # with equal costs of all mistakes, or none at all, it is the most probable class
    shares = np.random.default_rng(0).dirichlet(np.ones(5), 200)
    for costs in (1 - np.eye(5), np.zeros((5, 5)), np.ones((5, 5))):
        assert (cheapest(shares, costs) == shares.argmax(1)).all()


def table(labels: list[int], shares: list[list[float]], groups: tuple[str, ...] | None = None) -> Predictions:
    ids = tuple(f"{number}.png" for number in range(len(labels)))
    logits = np.log(np.array(shares, np.float32))
    return Predictions(
        split="test", classes=("cat", "dog"), ids=ids, labels=np.array(labels), logits=logits, groups=groups
    )


def test_mean_costs_and_their_intervals() -> None:
    some = table([0, 1] * 20, [[0.8, 0.2]] * 40)
    found = compare_costs(some, np.array([[0.0, 1.0], [10.0, 0.0]]), "costs.csv")
    assert (found.mean, found.argmax, found.difference, found.changed) == (0.5, 5.0, -4.5, 40)
    assert found.interval[0] < 0.5 < found.interval[1] < found.argmax_interval[0] < 5 < found.argmax_interval[1]
    assert found.difference_interval[1] < 0
    # groups of equal images say less
    paired = compare_costs(
        table([0, 1] * 20, [[0.8, 0.2]] * 40, tuple(str(number % 4) for number in range(40))), found.matrix
    )
    assert np.ptp(paired.interval) > np.ptp(found.interval)


def test_an_interval_has_a_width_also_where_all_costs_are_equal() -> None:
    ((low, high),) = mean_intervals(np.zeros((1, 50)), [(0.0, 7.0)])
    assert low == 0 and high == pytest.approx(7 * 0.0713, abs=1e-2)  # Wilson's upper bound of 0 of 50
    ((low, high),) = mean_intervals(np.full((1, 1), 3.0), [(3.0, 3.0)])
    assert (low, high) == (3, 3)


def test_costs_and_operating_points_are_reported(
    exported_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = shutil.copytree(exported_run, tmp_path / "run")
    names = json.loads((scored / "run.json").read_text())["classes"]
    file = tmp_path / "costs.csv"
    file.write_text(f"true,{names[1]},{names[0]}\n{names[0]},1,0\n{names[1]},0,1\n")
    options = ["--costs", str(file), "--at", f"{names[0]}:recall=1", "--at", f"{names[1]}:precision=0.01"]
    assert run(["evaluate", str(scored), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["costs"]["mean"] == pytest.approx(1 - found["metrics"]["accuracy"])
    assert found["costs"]["difference"] == 0 and found["costs"]["changed"] == 0
    first, second = found["operating_points"]
    assert first["chosen_images"] + first["images"] == found["images"] and first["chosen_on"] == "half of val"
    assert second["recall"] == 1 and second["recall_interval_95"][1] == 1 and 0 <= second["threshold"] <= 1
    assert run(["evaluate", str(scored), *options]) == 0
    said = capsys.readouterr().err
    assert f"{names[0]}:recall=1" in said and "lowest expected cost" in said
    for wrong in (["--costs", str(tmp_path / "none.csv")], ["--at", "nobody:recall=1"], ["--at", f"{names[0]}:f1=1"]):
        assert run(["evaluate", str(scored), *wrong]) == 2
    assert not math.isnan(found["per_class"][0]["roc_auc"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1e308", "is above 1e"),
        ("1_000", "is not a finite number"),
        ("\u0663", "is not a finite number"),
        ("nan", "`nan`"),
    ],
)
def test_a_cost_that_no_figure_could_hold_is_refused(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"
    file.write_text(f"true,a,b\na,0,{text}\nb,1,0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        read_costs(file, ("a", "b"))
