"""Images that a parent or a teacher was trained on: `--on-leak` does with them what it does with leaks of splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from messages import refused
from tests_support import TINY, make_photos

from zoo import Experiment, Plugins, Study, ZooError, evaluate, plan, train
from zoo import study as run_study
from zoo.progress import Silent


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def mixed(two_splits: Path, tmp_path: Path) -> Path:
    """Data with two images in `val` that `exported_run` was trained on, and five that it was not."""
    data = make_photos(tmp_path / "mixed", {"train": 9})
    for number, name in enumerate(("blue", "red")):
        (data / "val" / name).mkdir(parents=True)
        for file in sorted((two_splits / "val" / name).iterdir())[number:3]:
            shutil.copy(file, data / "val" / name / file.name)
        for file in (data / "train" / name).iterdir():
            file.write_bytes(file.read_bytes() + b"other")
        shutil.copy(two_splits / "train" / name / "003.jpg", data / "val" / name / "seen.jpg")
    return data


def going_on(data: Path, run: Path) -> Experiment:
    return replace(TINY, data=str(data), from_run=str(run), strategy="full", epochs=1)


def taught(data: Path, run: Path) -> Experiment:
    return replace(TINY, data=str(data), strategy=f"full,distill={run}", epochs=1)


@pytest.mark.parametrize(("asked", "whose"), [(going_on, "run"), (taught, "teacher")], ids=["parent", "teacher"])
def test_leaks_of_what_came_before_fail_or_are_dropped(
    asked: Callable[[Path, Path], Experiment],
    whose: str,
    exported_run: Path,
    mixed: Path,
    tmp_path: Path,
    plugins: Plugins,
) -> None:
    experiment, said = asked(mixed, exported_run), Said()
    text = f"{whose} `{exported_run}` was trained on 2 images of 7"
    with refused(ZooError, text, "--on-leak drop"):
        train(replace(experiment, on_leak="fail"), out=tmp_path / "no", plugins=plugins)
    with refused(ZooError, text, "--on-leak drop"):
        plan(replace(experiment, on_leak="fail"), plugins=plugins)
    assert not (tmp_path / "no").exists()
    folds = replace(experiment, on_leak="fail", folds=2, data=str(mixed))
    with refused(ZooError, f"{whose} `{exported_run}` was trained on 2 images of 25", "--on-leak warn"):
        train(folds, out=tmp_path / "no", plugins=plugins)
    with refused(ZooError, f"{whose} `{exported_run}` was trained on 2 images of 25", "--on-leak warn"):
        plan(folds, plugins=plugins)
    assert not (tmp_path / "no").exists()
    warned = train(experiment, out=tmp_path / "warned", plugins=plugins, progress=said)
    assert any(text in one for one in said.warnings) and len(warned.predictions()) == 7
    (told,) = [warned.record["from"]] if whose == "run" else warned.record["teachers"].values()
    assert told["trained_on"] == {"reported": 2}
    found = evaluate(warned, plugins=plugins)
    assert found.fitted == 2  # by the run before it
    said = Said()
    run = train(replace(experiment, on_leak="drop"), out=tmp_path / "dropped", plugins=plugins, progress=said)
    assert run.record["dropped"] == ["val/blue/seen.jpg", "val/red/seen.jpg"]
    assert not any("trained on" in one for one in said.warnings)
    note = f"2 images are not scored, since {whose} `{exported_run}` was trained on them: `val/blue/seen.jpg`"
    assert any(note in one for one in said.notes)
    assert len(run.predictions()) == len(evaluate(run, plugins=plugins).predictions) == 5
    planned = plan(replace(experiment, on_leak="drop"), plugins=plugins)
    assert any(note in one for one in planned.notes)
    assert planned.phases[0].settings == ({} if whose == "run" else {"distill": str(exported_run)})


def test_what_is_set_aside_for_validation_is_dropped_too(
    exported_run: Path, mixed: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    for name in ("blue", "red"):
        shutil.copy(two_splits / "train" / name / "001.jpg", mixed / "train" / name / "seen.jpg")
    experiment = replace(going_on(mixed, exported_run), on_leak="drop", keep="best")
    sizes = set()
    for seed in range(6):  # until one of them is set aside
        said = Said()
        out = tmp_path / str(seed)
        run = train(replace(experiment, split_seed=seed), out=out, plugins=plugins, progress=said)
        known = run.contents()
        seen = set(known["choose"]) & {"train/blue/seen.jpg", "train/red/seen.jpg"}
        assert not seen and run.record["from"]["trained_on"] == {"choose": 0, "reported": 0}
        sizes.add(len(run.record["dropped"]))
        if len(sizes) > 1:
            break
    assert sizes > {2}


def test_a_study_scores_all_configurations_on_the_same_images(
    exported_run: Path, mixed: Path, tmp_path: Path, plugins: Plugins
) -> None:
    settings = {"weights": "none", "image_size": 32, "device": "cpu", "epochs": 1}
    asked = Study(
        data=str(mixed),
        backbones=("timm/test_resnet",),
        strategies=("full", f"full,distill={exported_run}"),
        settings=settings,
    )
    for on_leak in ("drop", "fail"):
        with refused(ZooError, f"teacher `{exported_run}`", "2 images", "--exclude"):
            run_study(
                replace(asked, settings={**settings, "on_leak": on_leak}), out=tmp_path / "study", plugins=plugins
            )
    assert not (tmp_path / "study").exists()
