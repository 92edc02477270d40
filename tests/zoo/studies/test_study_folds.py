"""A study of folds: all images compared, resumed after a stop, and the winners trained on all that is not locked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import made_once
from tests_support import make_photos

from zoo import Plugins, Run, Study, UsageError, ZooError, evaluate, study, train, train_final
from zoo.evaluation.statistics import sign_flip_test
from zoo.feature_cache.loader import PrefixOutputs
from zoo.progress import Silent
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.hyperparameter_search import search
from zoo.studies.results import COSTS_FILE, Results
from zoo.studies.trial_worker import TrialWorker
from zoo.system.worker_process import WorkerFailed
from zoo.target import load_target
from zoo_cli.main import run as run_zoo

SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu", "folds": 3}
WAYS = ["timm/test_resnet linear", "timm/test_resnet knn"]


class Told(Silent):
    """Collects warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class InThisProcess:
    """The worker of a study without a process of its own."""

    alive = True

    def __init__(self, target: str, *, threads: int | None = None) -> None:
        self.worker = load_target(target)()

    def ask(self, do: str, timeout: float | None, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(json.dumps(getattr(self.worker, do)(**json.loads(json.dumps(request)))))
        except ZooError as error:
            raise WorkerFailed(error.message, hint=error.hint) from error
        return answer

    def close(self) -> None:
        pass


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)


def begun(folder: Path, data: Path, **changes: Any) -> Path:
    """The folder of a study that has not trained yet; its networks are measured already, which takes seconds each."""
    asked = Study(
        data=str(data),
        backbones=("timm/test_resnet",),
        strategies=("linear", "knn"),
        seeds=(0,),
        settings=SETTINGS | changes.pop("settings", {}),
        **changes,
    )
    folder.mkdir()
    one = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x").to_json()
    (folder / COSTS_FILE).write_text(json.dumps(dict.fromkeys(WAYS, one)))
    record = {"schema": 1, "study": json.loads(json.dumps(asked.to_json())), "status": "running", "trials": 0}
    (folder / "study.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), {"": 14})


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Results]:
    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)
            study(begun(folder / "s", photos), plugins=plugins)

    for folder in made_once(tmp_path_factory.getbasetemp(), "study-of-folds", make):
        yield Results.open(folder / "s")


def test_all_images_are_compared_and_the_winners_are_scored_by_final_runs(done: Results) -> None:
    board = done.leaderboard
    assert board["split"] == "folds" and {row["way"] for row in board["rows"]} == set(WAYS)
    assert all(row["images"] == 24 for row in board["rows"])  # 28 without the 4 that are locked
    assert "only more photographs help" in board["too_few"]
    locked = set(json.loads((done.path / "locked.json").read_text())["sha256"])
    assert len(locked) == 4
    for row in board["rows"]:
        first = done.first(row["way"])
        final = done.locked_run(first)
        assert (final is not None) is row["winner"] and (row["test"] is not None) is row["winner"]
        assert len(done.run(first).folds) == 3
        if final is not None:
            assert final.path.parent.name == "finals" and final.record["final"]["id"] == done.run(first).record["id"]
            fitted = final.contents()["fit"]
            assert len(fitted) == 24 and not locked & set(fitted.values()) and row["test"]["images"] == 4
    assert len(done.looks()) == len(board["winners"]) == board["looks"] and all(
        look["by"] == "study" for look in done.looks()
    )


@pytest.mark.usefixtures("in_this_process")
def test_a_stopped_study_keeps_what_is_finished(done: Results, plugins: Plugins, tmp_path: Path) -> None:
    """Stopped in the second fold of the second trial, and while the first winner was trained on all images."""
    folder = shutil.copytree(done.path, tmp_path / "s")
    lines = (folder / "outcomes.jsonl").read_text().splitlines(keepends=True)
    last = Run.open(folder / "trials" / json.loads(lines[-1])["name"])
    (folder / "outcomes.jsonl").write_text("".join(lines[:-1]))
    last.update(status="running", metrics=None)
    (last.path / "folds" / "2" / "run.json").unlink()
    shutil.rmtree(folder / "finals" / last.path.name)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("model.safetensors")}
    again = study(folder, plugins=plugins)
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("model.safetensors")}
    changed = {str(file.relative_to(folder)) for file in after if before.get(file) != after[file]}
    name = last.path.name
    assert changed == {f"trials/{name}/folds/2/model.safetensors", f"finals/{name}/model.safetensors"}
    figures = [
        [(row["way"], row["accuracy"], row["winner"]) for row in one.leaderboard["rows"]] for one in (again, done)
    ]
    assert figures[0] == figures[1]
    assert (Run.open(last.path).predictions().logits == done.run(done.first(WAYS[1])).predictions().logits).all()
    assert len(again.looks()) == len(done.looks()) + 1  # another run than the one that was lost


@pytest.mark.usefixtures("in_this_process")
def test_trials_share_the_outputs_of_frozen_layers(
    photos: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the store, whose rows are by sets of images: the trials of a worker share those in memory."""
    computed: list[int] = []
    compute = PrefixOutputs._compute

    def counting(self: PrefixOutputs, indices, *rest, **more):  # type: ignore[no-untyped-def]
        computed.append(len(indices))
        return compute(self, indices, *rest, **more)

    monkeypatch.setattr(PrefixOutputs, "_compute", counting)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder, so nothing is stored")
    found = study(begun(tmp_path / "s", photos, test=False, settings={"split_seed": 3}), plugins=plugins)
    assert [one.state for one in found.outcomes] == ["finished", "finished"]
    assert sum(computed) <= 2 * 24  # each image as it is trained on, and as it is scored, in all six runs of folds


def test_the_winner_of_a_study_is_trained_on_all_images(
    done: Results, plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(done.path, tmp_path / "s")
    assert run_zoo(["train", "--final", str(folder), "--out", str(tmp_path / "final")]) == 0
    assert f"the cheapest winner of `{folder}` is" in " ".join(capsys.readouterr().err.split())
    final = Run.open(tmp_path / "final")
    chosen = Results.open(folder).chosen
    assert final.record["final"]["id"] == chosen.record["id"] and len(final.splits()["roles"]["fit"]) == 24
    looks = len(Results.open(folder).looks())
    with pytest.warns(UserWarning, match="evaluation on the locked images of study"):
        evaluate(final, split="test", plugins=plugins)
    assert len(Results.open(folder).looks()) == looks + 1
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(ZooError, match="is interrupted, not finished") as raised:
        train_final(Results.open(folder).chosen, out=tmp_path / "again", plugins=plugins)
    assert f"`zoo study {folder}`" in str(raised.value.hint)


def test_the_command_says_what_comes_next(done: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(done.path, tmp_path / "my study")
    assert run_zoo(["study", str(folder), "--status"]) == 0
    assert f"zooexport'{folder}/finals/".replace(" ", "") in "".join(capsys.readouterr().err.split())
    assert run_zoo(["report", str(folder)]) == 0
    page = json.loads((folder / "report.json").read_text())
    assert page["model"]["split"] == "test" and page["board"]["split"] == "folds"
    shutil.rmtree(folder / "finals")
    assert run_zoo(["report", str(folder)]) == 0
    capsys.readouterr()
    assert run_zoo(["study", str(folder), "--status"]) == 0
    told = "".join(capsys.readouterr().err.split())  # wherever lines are wrapped
    then = f"zoo report '{folder}'; zoo train --final '{folder}' --out '{folder}-final'; zoo evaluate '{folder}-final'"
    assert then.replace(" ", "") in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"schedule": "plateau:3"},
            "`schedule schedules/plateau:3` needs `--no-test`: a final run has no validation loss",
        ),
        ({"on_leak": "drop"}, "`on_leak drop` has no meaning with `folds`"),
    ],
)
def test_settings_that_folds_cannot_have_are_refused(settings: dict[str, Any], words: str, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=words):
        Study(data="x", backbones=("resnet18",), strategies=("full",), settings={"folds": 5, **settings}).trials(
            plugins
        )


def test_folds_that_cannot_be_made_are_refused_before_anything_is_written(
    photos: Path, plugins: Plugins, tmp_path: Path
) -> None:
    asked = Study(
        data=str(photos), backbones=("timm/test_resnet",), strategies=("linear",), settings=SETTINGS | {"folds": 13}
    )
    with pytest.raises(ZooError, match="class `blue` has 12 images"):
        study(asked, out=tmp_path / "s", plugins=plugins)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("in_this_process")
def test_the_worker_makes_a_final_run_of_another_run_anew(done: Results, tmp_path: Path) -> None:
    first = done.run(done.first(WAYS[0]))
    other = done.run(done.first(WAYS[1]))
    folder = tmp_path / "final"
    worker = TrialWorker()
    for run in (first, other):
        worker.train_final(str(run.path), str(folder))
        assert Run.open(folder).record["final"]["id"] == run.record["id"]
    made = (folder / "run.json").read_bytes()
    worker.train_final(str(other.path), str(folder))
    assert (folder / "run.json").read_bytes() == made


@pytest.mark.usefixtures("in_this_process")
def test_configurations_are_compared_over_groups(photos: Path, plugins: Plugins, tmp_path: Path) -> None:
    """Eight groups of which each has images of both classes; the tests of the leaderboard are over them."""
    settings = {"group": r"\d*(\d)\.jpg"}
    found = study(begun(tmp_path / "s", photos, test=False, settings=settings), plugins=plugins)
    board = found.leaderboard
    tables = [found.run(one).predictions() for one in found.outcomes]
    groups = tables[0].group_numbers
    assert groups is not None and len(set(groups)) < len(tables[0]) / 2
    assert f"in {len(set(groups))} groups" in board["too_few"]
    one, other = (table.correct[np.argsort(table.ids)].astype(float) for table in tables)
    numbers = groups[np.argsort(tables[0].ids)]
    assert board["comparison"]["pairs"][0]["p_value"] == pytest.approx(sign_flip_test(one - other, numbers))
    for fold in found.run(found.outcomes[0]).folds:
        roles = fold.splits()["roles"]
        assert not {name[-5] for name in roles["fit"]} & {name[-5] for name in roles["reported"]}


def test_settings_are_searched_over_all_folds(photos: Path, plugins: Plugins, tmp_path: Path) -> None:
    asked = Study(
        data=str(photos), backbones=("timm/test_resnet",), strategies=("full",), settings=SETTINGS | {"epochs": 1}
    )
    experiment = asked.experiment(asked.trials(plugins)[0])
    found = search(experiment, ["lr", "epochs", "weight_decay"], 1, tmp_path, None, plugins)
    run = train(experiment, out=tmp_path / "run", plugins=plugins)
    assert found["settings"] == {"augment": experiment.augment} and found["loss"] == pytest.approx(run.metrics["loss"])


@pytest.mark.usefixtures("in_this_process")
def test_a_study_goes_on_with_the_list_that_it_began_with(photos: Path, plugins: Plugins, tmp_path: Path) -> None:
    first, second = (f"{label}/000.jpg" for label in ("blue", "red"))
    marked = tmp_path / "marked.csv"
    marked.write_text(f"id\n{first}\n")
    folder = begun(tmp_path / "s", photos, test=False, settings={"exclude": str(marked)})
    done = study(folder, plugins=plugins)
    assert (folder / "exclude.csv").read_bytes() == marked.read_bytes()
    lines = (folder / "outcomes.jsonl").read_text().splitlines(keepends=True)
    (folder / "outcomes.jsonl").write_text(lines[0])
    shutil.rmtree(folder / "trials" / json.loads(lines[1])["name"])
    marked.write_text(f"id\n{second}\n")
    told = Told()
    again = study(folder, plugins=plugins, progress=told)
    assert any("marked.csv` has changed since the study began" in text for text in told.warnings)
    runs = [again.run(outcome) for outcome in again.outcomes]
    assert len(runs) == 2 and len(done.outcomes) == 2
    assert all(run.record["exclude"]["images"] == [first] for run in runs)
    marked.unlink()
    assert study(folder, plugins=plugins).status == "finished"
