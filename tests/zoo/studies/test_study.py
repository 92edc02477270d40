"""A study's description: what it is made of, what it refuses, and the trials that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from messages import refused

from zoo import Plugins, Study, UsageError
from zoo.config.grammar import parse
from zoo.data.opening import open_images
from zoo.data.splitting import lock, stratified_subset
from zoo.dataset import Images, Sample
from zoo.studies.study import same_study
from zoo.studies.trial import Trial, fraction_text
from zoo_cli.main import run as run_zoo


def asked(**changes: object) -> Study:
    values = {"data": "photos", "backbones": ("resnet18",), "strategies": ("linear", "partial:2"), **changes}
    return Study(**values)  # type: ignore[arg-type]


def test_every_pair_with_every_seed_the_first_seed_first(plugins: Plugins) -> None:
    trials = asked(
        backbones=("resnet18", "resnet34"), seeds=(3, 5), fractions=(0.5, 1.0), also=(("vgg11", "full"),)
    ).trials(plugins)
    assert len(trials) == len({trial.name for trial in trials}) == (2 * 2 + 1) * 2 * 2
    assert [(trial.fraction, trial.seed) for trial in trials] == [
        (f, s) for f in (1.0, 0.5) for s in (3, 5) for _ in range(5)
    ]
    assert {trial.backbone for trial in trials} == {f"torchvision/{name}" for name in ("resnet18", "resnet34", "vgg11")}
    assert "torchvision/vgg11 linear" not in {trial.configuration for trial in trials}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbones": ()}, "a strategy"),
        ({"backbones": (), "strategies": ()}, "needs a backbone and a strategy"),
        ({"seeds": (1, 1)}, "`1` is given twice in `seeds`"),
        ({"fractions": (0.0,)}, "a fraction of `0.0`"),
        ({"max_latency": -1.0}, "`max_latency -1.0`"),
        ({"search": -1}, "`search -1`"),
        ({"settings": {"seed": 1}}, "`seed` cannot be among `settings`"),
        ({"time_budget": 0}, "`time_budget 0` is not a positive number of seconds"),
        ({"max_latency": "20ms"}, "`max_latency 20ms` is not a positive number of seconds, such as 0.02"),
        ({"data": 3}, "`data` is 3, not the path of a folder"),
        ({"backbones": [1]}, r"`backbones` is \[1\], not a list of names"),
        ({"seeds": ["a"]}, r"`seeds` is \['a'\], not a list of whole numbers"),
        ({"seeds": True}, "`seeds` is True"),
        ({"also": ["hog_color", "svm"]}, "not a list of pairs"),
        ({"also": [["hog_color"]]}, "not a list of pairs"),
        ({"settings": 3}, "`settings` is 3, not a table"),
    ],
)
def test_invalid_values_are_usage_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked(**changes)


def test_names_are_looked_up_at_once(plugins: Plugins) -> None:
    with pytest.raises(UsageError) as error:
        asked(backbones=("resnet18", "resnet"), strategies=("linear", "linaer")).trials(plugins)
    assert "unknown backbone `resnet`" in error.value.message and "unknown strategy `linaer`" in error.value.message


@pytest.mark.parametrize(
    "changes", [{"backbones": ("resnet18", "torchvision/resnet18")}, {"strategies": ("partial:2", "partial:02")}]
)
def test_two_names_for_one_entry_are_refused(changes: dict[str, object], plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="are two names of one"):
        asked(**changes).trials(plugins)


@pytest.mark.parametrize(
    ("texts", "strategies"),
    [
        (("truncate:1..3",), ["truncate:1", "truncate:2", "truncate:3"]),  # `truncate` is `truncate:1`
        (("partial:2..2", "knn:9..11"), ["partial:2", "knn:9", "knn", "knn:11"]),
        (
            ("linear+partial:1..2,epochs=3..4", "linear"),
            [
                "linear+partial:1,epochs=3",
                "linear+partial:1,epochs=4",
                "linear+partial:2,epochs=3",
                "linear+partial:2,epochs=4",
                "linear",
            ],
        ),
        (("partial:1..2", "partial:2..3"), ["partial:1", "partial:2", "partial:3"]),
    ],
)
def test_a_range_stands_for_its_strategies(texts: tuple[str, ...], strategies: list[str], plugins: Plugins) -> None:
    study = asked(strategies=texts, seeds=(0,))
    expected = [str(parse(text, plugins.strategies)) for text in strategies]
    assert [trial.strategy for trial in study.trials(plugins)] == expected
    pairs = asked(strategies=(), backbones=(), also=tuple(("resnet18", text) for text in texts), seeds=(0,))
    assert [trial.strategy for trial in pairs.trials(plugins)] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("truncate:3..1", ("`truncate:3..1`", "`3..1` ends before it begins")),
        ("partial:1..1000000", ("`partial:1..1000000`", "more than 100 strategies")),
        ("partial:1..50+partial:1..50", ("`partial:1..50+", "more than 100 strategies")),
        ("truncate:0..1", ("`truncate:0`", "drops no stage")),
        ("l2sp:1..2", ("`alpha=1..2`", "is not a number")),
        ("linear,head=1..2", ("`head=1..2`", "neither")),
        ("linear:1..2", ("`head=1..2`", "neither")),
        ("full:1..2", ("`full` takes no value", "`:1..2`")),
        ("partial:1...3", ("`stages=1...3`", "not a whole number")),
        ("partial:1..", ("`stages=1..`", "not a whole number")),
        ("nothing:1..2", ("unknown strategy", "`nothing`")),
    ],
)
def test_ranges_that_mean_nothing(text: str, words: tuple[str, ...], plugins: Plugins) -> None:
    with refused(UsageError, *words):
        asked(strategies=(text,)).trials(plugins)


def test_a_run_takes_no_range(plugins: Plugins) -> None:
    with refused(UsageError, "`stages=1..3` is a range", "`zoo study`"):
        parse("partial:1..3", plugins.strategies)


def test_unknown_settings(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="unknown setting `epoch`"):
        asked(settings={"epoch": 3}).trials(plugins)


def test_a_study_file_equals_the_study(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    file = tmp_path / "study.toml"
    file.write_text(
        'data = "photos"\nbackbones = ["resnet18"]\nstrategies = ["linear"]\nalso = [["vgg11", "full"]]\n'
        "seeds = [1]\nmax_latency = 0.02\n[settings]\nepochs = 3\n"
    )
    found = Study.from_file(file)
    assert found == Study(
        data=str(tmp_path / "photos"), backbones=("resnet18",), strategies=("linear",), also=(("vgg11", "full"),),
        seeds=(1,), max_latency=0.02, settings={"epochs": 3},
    )  # fmt: skip
    assert Study.from_json(found.to_json()) == found
    file.write_text('data = "photos"\nbackbone = ["resnet18"]\n')
    with pytest.raises(UsageError, match="unknown key `backbone`") as error:
        Study.from_file(file)
    assert error.value.hint is not None and "`backbones`" in error.value.hint
    file.write_text("data = ")
    with pytest.raises(UsageError, match="cannot be read"):
        Study.from_file(file)
    file.write_text("seeds = [1]")
    with pytest.raises(UsageError, match="a study needs `data`"):
        Study.from_file(file)


def test_a_printed_study_read_back_is_the_same_study(
    tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"lr": "find", "image_size": [32, 48], "compile": True, "group": 'a "b" \\d', "weights": "w/x.pth"}
    study = asked(also=(("hog_color", "svm"),), max_latency=0.02, test=False, settings=settings, licenses=("a*",))
    file = tmp_path / "study.toml"
    file.write_text(study.to_toml(plugins), encoding="utf-8")
    absolute = {**settings, "weights": str(Path("w/x.pth").absolute())}
    assert Study.from_file(file, plugins) == replace(study, settings=absolute)
    file.write_text(file.read_text().replace(str(Path("w").absolute()), "w"))
    assert Study.from_file(file, plugins).settings["weights"] == str(tmp_path / "w/x.pth")
    words = ["study", str(file), "--print-config", "--seed", "9", "--lr", "0.5", "--time-budget", "1m"]
    assert run_zoo(words) == 0
    file.write_text(capsys.readouterr().out)
    found = Study.from_file(file, plugins)
    assert (found.seeds, found.settings["lr"], found.time_budget, found.max_latency) == ((9,), 0.5, 60.0, 0.02)
    file.write_text('data = "s3://me:hunter2@bucket"\n')
    assert run_zoo(["study", str(file)]) == 2
    told = capsys.readouterr().err
    assert f"`data` of `{file}` has an address with a password" in told and "hunter2" not in told


def test_a_time_budget_does_not_change_the_study() -> None:
    one = asked().to_json()
    assert same_study(one, asked(time_budget=3.0).to_json()) == []
    assert same_study(one, asked(seeds=(1,)).to_json()) == ["seeds"]


def images(**counts: int) -> Images:
    splits = {
        role: tuple(Sample(f"{role}/{label}/{n:03d}", label, Path("x")) for label in "ab" for n in range(count))
        for role, count in counts.items()
    }
    return Images(name="data", classes=("a", "b"), splits=splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("last", ["val", "test"])
def test_the_last_of_two_splits_is_locked(last: str) -> None:
    whole = images(train=20, **{last: 5})
    found = lock(whole, 0)
    assert found.may_choose and found.reported == "val" and found.name == "locked:data"
    assert found.splits["test"] == whole.splits[last]  # type: ignore[index]
    assert set(found.splits["train"]) | set(found.splits["val"]) == set(whole.splits["train"])
    assert not set(found.splits["train"]) & set(found.splits["val"]) and len(found.splits["val"]) == 6
    assert lock(found, 0) is found


def test_three_splits_are_as_they_are() -> None:
    whole = images(train=4, val=3, test=3)
    assert lock(whole, 0) is whole


def test_locked_data_are_opened_by_name(two_splits: Path, plugins: Plugins) -> None:
    found = open_images(f"locked:{two_splits}", 0, plugins)
    assert {role: len(samples) for role, samples in found.splits.items()} == {"train": 20, "val": 4, "test": 12}


WORDS = st.text("ab/_-:+=,.", min_size=1, max_size=4) | st.text(min_size=1, max_size=90)
TRIAL_ = st.builds(
    Trial,
    backbone=WORDS,
    strategy=WORDS,
    seed=st.integers(0, 20),
    fraction=st.floats(1e-6, 1) | st.sampled_from([1 / 3, 0.333333, 0.3333333, 1.0]),
)


@given(TRIAL_, TRIAL_)
@example(*(Trial(backbone="lite/x", strategy="linear", seed=0, fraction=part) for part in (1 / 3, 0.333333)))
@example(*(Trial(backbone=name, strategy="linear", seed=0, fraction=1.0) for name in ("x/y_z", "x_y/z")))
@example(*(Trial(backbone=name, strategy=other, seed=0, fraction=1.0) for name, other in (("a-b", "c"), ("a", "b-c"))))
def test_names_of_trials_cannot_collide(one: Trial, other: Trial) -> None:
    assert (one.name == other.name) is (one == other)
    assert len(one.name.encode()) < 255 and "/" not in one.name and one.name not in (".", "..")


@given(st.floats(1e-6, 1))
@example(1 / 30)
def test_a_fraction_reads_back(fraction: float) -> None:
    assert float(fraction_text(fraction)) == fraction
    assert (fraction_text(1.0), fraction_text(0.1)) == ("1", "0.1")


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    samples = images(train=30, val=2).splits["train"]
    before: set[Sample] = set()
    for share in (0.01, 0.1, 0.5, 1.0):
        kept = set(stratified_subset(samples, share, 0))
        assert before <= kept and len(kept) == 2 * max(2, round(30 * share))
        before = kept
    assert stratified_subset(samples, 0.5, 0) != stratified_subset(samples, 0.5, 1)
