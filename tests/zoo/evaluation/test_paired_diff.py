"""Two runs photograph by photograph."""

from __future__ import annotations

import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from messages import refused, unsaid
from scipy.stats import binom
from tests_support import TINY, make_photos

from zoo import Plugins, Run, UsageError, ZooError, compare, diff, evaluate, export, train
from zoo.data.class_names import keys, respelt
from zoo.evaluation.paired_diff import compare_tables
from zoo.evaluation.statistics import correct
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


def test_runs_on_other_images_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="different photographs: `c`"):
        compare_tables(table("ab", "xx", "xx"), table("abc", "xxx", "xxx"))
    with pytest.raises(UsageError, match="different classes"):
        compare_tables(table("ab", "xx", "xx"), table("ab", "xx", "xx", classes=("x", "z")))
    with pytest.raises(ZooError, match="different labels"):
        compare_tables(table("ab", "xx", "xx"), table("ab", "xx", "xy"))


def test_names_in_another_unicode_form_are_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugins: Plugins
) -> None:
    """One data folder on Linux and its copy on macOS, whose names also have another order."""
    source = make_photos(tmp_path / "source", {"": 8})
    runs: dict[str, Run] = {}
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for folder, name in (("blue", "caf\u00e9"), ("red", "cafz")):
            shutil.copytree(source / folder, root / unicodedata.normalize(form, name))
        settings = replace(TINY, data=str(root), epochs=1)
        runs[form] = train(settings, out=tmp_path / f"run-{form}", plugins=plugins)
    one, other = runs.values()
    assert set(one.classes) != set(other.classes) and one.classes[0] == other.classes[1] == "cafz"
    assert other.digest_of("val") != one.digest_of("val") and one.same_images(other, "val")
    found = diff(one, other)
    assert found.images == len(one.predictions()) and set(found.per_class()) <= set(one.classes)
    assert all(change.after[0] in one.classes for change in (*found.fixed, *found.broken))
    assert compare([one, other]) is None, "the second is a repetition of the first"
    linear = train(replace(other.experiment, strategy="linear"), out=tmp_path / "linear", plugins=plugins)
    told = compare([one, other, linear])
    assert told is not None and told.repeated == (str(other.path),)
    assert zoo(["compare", *(str(run.path) for run in (one, other, linear))]) == 0
    assert not unsaid(capsys.readouterr().err, "repeats the settings")
    scored = evaluate(one, data=str(tmp_path / "NFD"), plugins=plugins)
    assert scored.predictions.split == "val" and scored.fitted == 0
    assert sorted(scored.predictions.ids) == sorted(one.predictions().ids)
    assert export(one, data=str(tmp_path / "NFD"), plugins=plugins).path.is_file()


def test_answers_are_aligned_in_whatever_unicode_form() -> None:
    right = table("ab", "xy", "xx")  # the first right, the second wrong
    one = replace(right, ids=("caf\u00e9", "cafz"))
    other = replace(table("ab", "yx", "xx"), ids=("cafz", "cafe\u0301"))
    assert np.array_equal(*correct([one, other])) and not np.array_equal(*correct([one, replace(other, ids=one.ids)]))


def test_what_only_looks_like_another_unicode_form() -> None:
    both = ("caf\u00e9", "cafe\u0301")
    assert keys(both) == both and keys(both[1:]) == both[:1]
    assert respelt(both, both) == {name: name for name in both} and respelt(both[1:], both[:1]) == {both[1]: both[0]}
    with refused(UsageError, "classes", f"`{both[1]}`"):
        compare_tables(table("ab", "xx", "xx", (*both, "x")), table("ab", "xx", "xx", (both[0], "x")))


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
