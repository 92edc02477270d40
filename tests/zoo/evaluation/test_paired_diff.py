"""Two runs photograph by photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from zoo import UsageError, ZooError
from zoo.evaluation.paired_diff import compare_tables
from zoo.predictions import Predictions
from zoo_cli.main import run as zoo


def table(
    ids: str, predicted: str, labels: str, classes: tuple[str, ...] = ("x", "y"), sure: float = 2.0
) -> Predictions:
    logits = np.zeros((len(ids), len(classes)), np.float32)
    for row, name in enumerate(predicted):
        logits[row, classes.index(name)] = sure + row
    return Predictions(
        split="val",
        classes=classes,
        ids=tuple(ids),
        labels=np.array([classes.index(name) for name in labels]),
        logits=logits,
    )


def test_fixed_and_broken_by_name_whatever_the_order() -> None:
    ours = table("abcde", "xxyyx", "xyyyy")  # b and e are wrong
    theirs = table("edcba", "yxyyy", "yyyyx", classes=("y", "x"))  # a and d are wrong
    found = compare_tables(ours, theirs)
    assert [one.id for one in found.fixed] == ["e", "b"]  # surest mistake first
    assert [one.id for one in found.broken] == ["a", "d"]
    assert (found.before, found.after) == (0.6, 0.6) and found.p_value == 1
    assert found.per_class() == {"x": (0, 1), "y": (2, 1)}
    assert found.fixed[0].before[0] == "x" and found.fixed[0].after[0] == "y"


def test_the_p_value_is_mcnemar_s() -> None:
    ids = "abcdefghij"
    found = compare_tables(table(ids, "yyyyyyyyyx", "x" * 10), table(ids, "xxxxxxxxxy", "x" * 10))
    assert (len(found.fixed), len(found.broken)) == (9, 1)
    assert found.p_value == pytest.approx(2 * binom.cdf(1, 10, 0.5))
    assert compare_tables(table(ids, "x" * 10, "x" * 10), table(ids, "x" * 10, "x" * 10)).p_value == 1


def test_the_p_value_pairs_images_by_name() -> None:
    ids = "abcdefghij"
    ours = table(ids, "yyyyyyyxxx", "x" * 10)
    for theirs in (table(ids, "yxxxxxxxxx", "x" * 10), table(ids[::-1], "xxxxxxxxxy", "x" * 10)):
        found = compare_tables(ours, theirs)
        assert sorted(one.id for one in found.fixed) == list("bcdefg") and found.broken == ()
        assert found.p_value == pytest.approx(2 * binom.cdf(0, 6, 0.5))


def test_runs_on_other_images_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="different photographs: `c`"):
        compare_tables(table("ab", "xx", "xx"), table("abc", "xxx", "xxx"))
    with pytest.raises(UsageError, match="different classes"):
        compare_tables(table("ab", "xx", "xx"), table("ab", "xx", "xx", classes=("x", "z")))
    with pytest.raises(ZooError, match="different labels"):
        compare_tables(table("ab", "xx", "xx"), table("ab", "xx", "xy"))


def test_diff_of_two_runs(capsys: pytest.CaptureFixture[str], two_splits: Path, tmp_path: Path) -> None:
    settings = ["--data", str(two_splits), "--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32"]
    for name, epochs in (("one", "1"), ("other", "2")):
        command = ["train", *settings, "--strategy", "full", "--epochs", epochs, "--device", "cpu", "--out"]
        assert zoo([*command, str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert zoo(["diff", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    assert "photographs of val: accuracy" in capsys.readouterr().err
    assert zoo(["diff", str(tmp_path / "one"), str(tmp_path / "one"), "--json"]) == 0
    assert '"fixed": []' in capsys.readouterr().out
    assert zoo(["diff", str(tmp_path / "one"), str(tmp_path / "none")]) == 2
    capsys.readouterr()
    assert zoo(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    said = capsys.readouterr().err
    assert "the best, " in said or "only winner" in said
