"""A search in a storage: settings, what the folder of a trial decides, secrets, and how far it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests_support import TINY

import zoo.studies.search_queue
from zoo import Plugins, Study, UsageError, ZooError, study
from zoo.errors import Pruned, StorageLost
from zoo.runs.run import Run
from zoo.studies.deployment_cost import DeploymentCost
from zoo.studies.hyperparameter_search import search, search_folder
from zoo.studies.pruners import PRUNERS, make_pruner
from zoo.studies.results import COSTS_FILE, Results
from zoo.studies.search_queue import Claim
from zoo.studies.search_session import search_place
from zoo.studies.search_status import searches_of_folder, searches_of_storage
from zoo.studies.search_storage import SearchPlace, close_storage, masked, open_storage, without_secret
from zoo.system.environment import versions
from zoo.target import load_target
from zoo_cli.main import run as run_zoo

optuna = pytest.importorskip("optuna")
State = optuna.trial.TrialState
WAY = "timm/test_resnet full"
SETTINGS = {"weights": "none", "image_size": 32, "batch_size": 8, "device": "cpu", "epochs": 1}
GIVEN = [*SETTINGS, "augment", "weight_decay"]


def place(folder: Path, **changes: Any) -> SearchPlace:
    return SearchPlace(**{"storage": str(folder / "journal"), "name": "birds", **changes})


def asked(data: Path, **changes: Any) -> Study:
    values = {"backbones": ("timm/test_resnet",), "strategies": ("full",), "seeds": (0,), "settings": SETTINGS}
    return Study(data=str(data), **{**values, "search": 2, **changes})


def trials(storage: str) -> list[Any]:
    opened = open_storage(storage)
    (name,) = optuna.get_all_study_names(opened)
    found = list(optuna.load_study(study_name=name, storage=opened).trials)
    close_storage(opened)
    return found


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me:geheim@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:ge@h/eim@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql://me@host/db?password=geheim&user=a", "postgresql://me@host/db?password=***&user=a"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("mysql+pymysql://me:geheim@host/db", "mysql+pymysql://me:***@host/db"),
        ("sqlite:////shared/search.db", "sqlite:////shared/search.db"),
        ("/shared/a:b@journal", "/shared/a:b@journal"),
    ],
)
def test_passwords_are_masked(storage: str, shown: str) -> None:
    assert masked(storage) == shown
    assert "geheim" not in without_secret(f"FATAL for {storage}", storage)


def test_a_password_is_masked_in_each_of_its_spellings() -> None:
    told = without_secret("`ge/im@1` and ge%2Fim%401", "postgresql://me:ge%2Fim%401@host/db")
    assert told == "`***` and ***"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("", "is empty"),
        ("redis://host", "of no kind that zoo knows"),
        ("postgresql://me:geheim@host:port/db", r"`--storage postgresql://me:\*\*\*@host:port/db` is not a URL"),
        ("sqlite://", "names no file"),
        ("sqlite:////nowhere/at/all/search.db", "not a file in a folder that exists"),
        ("/nowhere/at/all/journal", "not the path of a file"),
    ],
)
def test_what_is_no_storage(storage: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchPlace(storage=storage, name="birds")


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ZooError, match=r"`--storage postgresql://me:\*\*\*@host/db` needs a driver") as error:
        SearchPlace(storage="postgresql://me:geheim@host/db", name="birds")
    assert error.value.hint == "pip install 'psycopg[binary]'"


def test_a_storage_that_cannot_be_reached(
    tmp_path: Path, plugins: Plugins, two_splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line before anything is written."""
    monkeypatch.setattr("zoo.studies.search_storage.OPENING_SECONDS", 0.0)
    (tmp_path / "db").write_text("some text, which is no database and longer than its header")
    with pytest.raises(StorageLost, match=r"sqlite:///.*db` cannot be used: file is not a database") as error:
        study(asked(two_splits), out=tmp_path / "s", storage=f"sqlite:///{tmp_path / 'db'}", plugins=plugins)
    assert not (tmp_path / "s").exists() and "delete" not in str(error.value.hint)


def test_which_storage_a_study_has(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = asked(two_splits)
    some, journal = spec.trials(plugins), str(tmp_path / "journal")
    assert search_place(spec, some, tmp_path, None, None, None) is None
    monkeypatch.setenv("ZOO_STORAGE", journal)
    found = search_place(spec, some, tmp_path, None, None, 5.0)
    assert found == SearchPlace(storage=journal, name=tmp_path.name, grace=5.0)
    monkeypatch.delenv("ZOO_STORAGE")
    (tmp_path / "study.json").write_text(json.dumps({"storage": journal, "study_name": "birds"}))
    assert search_place(spec, some, tmp_path, None, None, None) == SearchPlace(storage=journal, name="birds")
    (tmp_path / "study.json").write_text(json.dumps({"storage": "postgresql://me:***@host/db"}))
    with pytest.raises(ZooError, match="whose password is not kept") as error:
        search_place(spec, some, tmp_path, None, None, None)
    assert "ZOO_STORAGE" in str(error.value.hint)
    (tmp_path / "tuned.json").write_text(json.dumps({WAY: {"settings": None}}))
    assert search_place(spec, some, tmp_path, None, None, None) is None  # there is nothing left to search
    for storage, name in ((journal, None), (None, "birds")):
        with pytest.raises(UsageError, match=r"has ended in `postgresql://me:\*\*\*@host/db`"):
            search_place(spec, some, tmp_path, storage, name, None)
    assert search_place(spec, some, tmp_path, "postgresql://me@host/db", None, None) is not None  # a helper may say it
    monkeypatch.setenv("ZOO_STORAGE", journal)
    assert search_place(spec, some, tmp_path, None, None, None) is None  # `study.json` keeps where it was searched
    monkeypatch.delenv("ZOO_STORAGE")
    with pytest.raises(UsageError, match="`--storage` is empty"):
        search_place(spec, some, tmp_path / "new", "", None, None)
    with pytest.raises(UsageError, match="apply with `--search` only"):
        search_place(replace(spec, search=0), some, tmp_path, journal, None, None)
    with pytest.raises(UsageError, match="apply with `--storage` only"):
        search_place(spec, some, tmp_path / "new", None, "birds", None)


def test_the_folder_decides_what_became_of_a_trial(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is finished on disk is told as finished, whether the storage has it as running or as failed."""
    experiment = asked(two_splits).experiment(asked(two_splits).trials(plugins)[0])
    where = place(tmp_path, storage=f"sqlite:///{tmp_path / 'db'}")

    def run_search() -> dict[str, Any]:
        return search(experiment, GIVEN, 2, tmp_path, None, plugins, place=where)

    def gone(*_: Any, **__: Any) -> bool:
        raise StorageLost("`postgresql://host` cannot be used")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageLost):
        patch.setattr(Claim, "tell", gone)
        run_search()
    runs = search_folder(tmp_path, WAY)
    loss = Run.open(runs / "0").metrics["loss"]
    assert [trial.state for trial in trials(where.storage)] == [State.RUNNING, State.WAITING]
    trained: list[str] = []
    import zoo.training.entry

    train = zoo.training.entry.train

    def counted_train(*words: Any, out: Path, **more: Any) -> Any:
        trained.append(out.name)
        return train(*words, out=out, **more)

    monkeypatch.setattr(zoo.training.entry, "train", counted_train)
    found = run_search()
    assert trained == ["1"] and found["tried"] == 2 and found["trials"][0]["loss"] == loss
    assert not list(runs.glob("*/*.safetensors"))  # weights are of no use any more
    told = trials(where.storage)
    assert [trial.state for trial in told] == [State.COMPLETE] * 2 and told[0].params["lr"] == 5e-3
    # as if another program had ended both: one is finished here
    (tmp_path / "db").unlink()
    opened = open_storage(where.storage)
    other = optuna.create_study(storage=opened, study_name=f"birds: {WAY}")
    for trial in told:
        other.add_trial(optuna.create_trial(state=State.FAIL, params=trial.params, distributions=trial.distributions))
    other.set_user_attr("zoo", json.loads(json.dumps(_identity_of(tmp_path, where, experiment, plugins))))
    close_storage(opened)
    again = run_search()
    assert trained == ["1"] and [one["state"] for one in again["trials"]] == ["finished"] * 2
    assert again["settings"] == found["settings"] and run_search()["trials"] == again["trials"]
    assert len(trials(where.storage)) == 4


def _identity_of(folder: Path, where: SearchPlace, experiment: Any, plugins: Plugins) -> Any:
    from zoo.studies.hyperparameter_search import _identity, _space

    space = _space(experiment, GIVEN, plugins)
    assert not isinstance(space, str)
    return _identity(experiment, space, 2, "median", plugins)


def test_other_images_or_settings_are_refused(
    two_splits: Path, three_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    where = place(tmp_path)
    one, other = (asked(data).experiment(asked(data).trials(plugins)[0]) for data in (two_splits, three_splits))
    search(one, GIVEN, 1, tmp_path / "a", 0.0, plugins, place=where)
    with pytest.raises(
        StorageLost, match=r"another search `birds: timm/test_resnet full`, which differs in `images`\n"
    ):
        search(other, GIVEN, 1, tmp_path / "b", 0.0, plugins, place=where)
    with pytest.raises(StorageLost, match=r"differs in `label_smoothing`, `pruner`, `search`\n"):
        search(replace(one, label_smoothing=0.2), GIVEN, 2, tmp_path, 0.0, plugins, place=where, pruner="asha")
    search(replace(one, device="auto", workers=1), GIVEN, 1, tmp_path / "c", 0.0, plugins, place=where)


def test_a_session_of_another_version_is_refused_by_name(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(tmp_path)
    experiment = asked(two_splits).experiment(asked(two_splits).trials(plugins)[0])
    search(experiment, GIVEN, 1, tmp_path / "a", 0.0, plugins, place=where)
    monkeypatch.setattr("zoo.studies.machine_state.versions", lambda: {**versions(), "torch": "0.1"})
    with pytest.raises(StorageLost, match=r"differs in `version of torch`\n"):
        search(experiment, GIVEN, 1, tmp_path / "b", 0.0, plugins, place=where)


def test_a_pruned_trial_is_told_as_such_and_never_wins(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = replace(asked(two_splits).experiment(asked(two_splits).trials(plugins)[0]), epochs=2)
    monkeypatch.setattr(Claim, "should_prune", lambda self, step, loss: self.number == 1 and step == 1)
    found = search(experiment, GIVEN, 2, tmp_path, None, plugins, pruner="asha")
    assert [one["state"] for one in found["trials"]] == ["finished", "pruned"] and found["pruned"] == 1
    assert found["settings"] == found["trials"][0]["params"] and found["trials"][1]["epochs"] == 0
    run = Run.open(search_folder(tmp_path, WAY) / "1")
    assert run.status == "pruned" and run.record["failure"] == "other settings were ahead after 1 epoch"
    (told,) = searches_of_folder(tmp_path)
    assert str(told) == "2 of 2 trials ended: 1 finished, 1 pruned, 0 failed"
    assert searches_of_folder(tmp_path, {WAY}) == []


def test_the_pruner_sees_the_loss_of_every_epoch(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    experiment = replace(asked(two_splits).experiment(asked(two_splits).trials(plugins)[0]), epochs=2)
    found = search(experiment, GIVEN, 1, tmp_path, None, plugins, pruner="hyperband", place=place(tmp_path))
    (trial,) = trials(str(tmp_path / "journal"))
    history = Run.open(search_folder(tmp_path, WAY) / "0").history
    assert trial.intermediate_values == {line["epoch"]: line["choice_loss"] for line in history}
    assert found["trials"][0]["epochs"] == 2 and any("completed_rung" in name for name in trial.system_attrs)


@pytest.mark.parametrize("name", PRUNERS)
def test_each_pruner_is_one_of_optuna(name: str) -> None:
    ahead = optuna.create_study(pruner=make_pruner(name, 9))
    for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        ahead.add_trial(
            optuna.create_trial(
                value=value, intermediate_values={1: value, 2: value, 3: value},
                system_attrs={"completed_rung_0": value, "completed_rung_1": value},
            )
        )  # fmt: skip
    pruned = 0
    for _ in range(8):  # Hyperband has brackets that look later
        trial = ahead.ask()
        for step in (1, 2, 3):
            trial.report(9.0, step)
            if trial.should_prune():
                pruned += 1
                break
        ahead.tell(trial, state=State.FAIL)
    assert (pruned > 0) is (name != "none")


def test_a_storage_that_was_lost_deletes_no_outcome(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    """Another one gives other settings to the same numbers."""
    experiment = asked(two_splits).experiment(asked(two_splits).trials(plugins)[0])
    runs = search_folder(tmp_path, WAY)
    search(replace(experiment, lr=1e-3), ["lr", *GIVEN[:-1]], 1, tmp_path, None, plugins)
    before = (runs / "0/run.json").read_bytes()
    search(experiment, GIVEN, 1, tmp_path, None, plugins, place=place(tmp_path))
    (kept,) = runs.glob("0-*/run.json")
    assert kept.read_bytes() == before and (runs / "0/run.json").read_bytes() != before
    assert searches_of_folder(tmp_path)[0].counts["finished"] == 1


def test_a_trial_that_ends_its_process_twice_fails(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    experiment = asked(two_splits).experiment(asked(two_splits).trials(plugins)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.studies.search_queue, "MOST_DEATHS", 0)
        found = search(experiment, GIVEN, 1, tmp_path, None, plugins, place=place(tmp_path))
    assert found["failed"] == 1 and found["settings"] is None
    assert "its process died 0 times" in found["trials"][0]["failure"]


def weighed(folder: Path) -> Path:
    one = DeploymentCost(latency=(0.01, 0.01, 0.01), size=10, license="unknown", shape="x").to_json()
    folder.mkdir(exist_ok=True)
    (folder / COSTS_FILE).write_text(json.dumps({WAY: one}))
    return folder


def begun(folder: Path, spec: Study) -> Path:
    record = {"schema": 1, "study": json.loads(json.dumps(spec.to_json())), "status": "running", "trials": 1}
    weighed(folder)
    (folder / "study.json").write_text(json.dumps({**record, "data_name": "photos", "study_name": "birds"}))
    return folder


class InThisProcess:
    """The worker of a study without a process of its own."""

    alive = True

    def __init__(self, target: str, *, threads: int | None = None) -> None:
        self.worker = load_target(target)()

    def ask(self, do: str, timeout: float | None, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(json.dumps(getattr(self.worker, do)(**json.loads(json.dumps(request)))))
        return answer

    def close(self) -> None: ...


def test_a_second_session_helps_to_search_and_another_goes_on(
    two_splits: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.data.opening import absolute

    monkeypatch.setattr("zoo.studies.executor.WorkerProcess", InThisProcess)

    spec = asked(two_splits, test=False)
    spec = replace(spec, data=absolute(spec.data, plugins))
    folder = begun(tmp_path / "s", spec)
    storage = str(tmp_path / "journal")
    with FileLock(folder / ".lock"):
        found = study(folder, storage=storage, plugins=plugins)
    assert found.outcomes == () and not (folder / "tuned.json").exists()  # the other one writes it
    assert [trial.state for trial in trials(storage)] == [State.COMPLETE] * 2
    (told,) = searches_of_storage(storage, "birds")
    assert told.name == f"birds: {WAY}" and told.counts["finished"] == 2
    assert searches_of_storage(storage, "bird") == []
    found = study(folder, storage=storage, plugins=plugins)
    assert found.status == "finished" and found.record["storage"] == storage
    tuned = json.loads((folder / "tuned.json").read_text())[WAY]
    assert found.outcomes[0].tuned == tuned["settings"] and tuned["tried"] == 2
    assert len(trials(storage)) == 2


def test_status_says_whether_the_session_is_gone(
    two_splits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = begun(tmp_path / "s", asked(two_splits))
    files = sorted(folder.iterdir())
    assert run_zoo(["study", str(folder), "--status"]) == 0
    assert re.search(r"study stopped, its session is gone .*`zoo study \S+` continues it", capfd.readouterr().err)
    assert sorted(folder.iterdir()) == files and Results.open(folder).is_stopped
    with FileLock(folder / ".lock"):
        assert run_zoo(["study", str(folder), "--status"]) == 0
        assert "study running: 1 trial" in capfd.readouterr().err


def test_status_of_a_storage(
    tmp_path: Path, two_splits: Path, plugins: Plugins, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nothing")
    assert run_zoo(["study", "--status", "--storage", missing]) == 1
    assert f"there is no storage `{missing}`" in capfd.readouterr().err and not Path(missing).exists()
    experiment = asked(two_splits).experiment(asked(two_splits).trials(plugins)[0])
    search(experiment, GIVEN, 3, tmp_path, 0.0, plugins, place=place(tmp_path))
    assert run_zoo(["study", "--status", "--storage", str(tmp_path / "journal"), "--json"]) == 0
    printed = capfd.readouterr()
    assert "birds: timm/test_resnet full: 0 of 3 trials ended" in printed.err
    assert json.loads(printed.out)["searches"][0]["trials"] == 3
    words = ["study", "--status", "--storage", str(tmp_path / "journal"), "--study-name", "bees"]
    assert run_zoo(words) == 1 and "holds no search of a study `bees`" in capfd.readouterr().err


def test_status_makes_no_tables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    assert run_zoo(["study", "--status", "--storage", f"sqlite:///{file}"]) == 1
    assert "holds no search" in capfd.readouterr().err and file.stat().st_size == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--watch", "--storage", "j"], "`--storage` has no meaning with `--watch`"),
        (["--watch", "--json"], "`--json` has no meaning with `--watch`"),
        (["--status", "--retry"], "`--retry` has no meaning with `--status`"),
        (["--status", "--epochs", "3"], "`--epochs` has no meaning with `--status`"),
    ],
)
def test_what_only_shows_a_study_takes_no_settings(
    words: list[str], message: str, two_splits: Path, tmp_path: Path, capfd: Any
) -> None:
    assert run_zoo(["study", str(begun(tmp_path / "s", asked(two_splits))), *words]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pruner", "asha"], "`pruner asha` has no meaning without `search`"),
        (["--search", "2", "--pruner", "asha", "--folds", "3"], "`pruner asha` has no meaning with `folds`"),
        (["--search", "2", "--storage", "j", "--grace-period", "1s"], "`--grace-period 1` is below 2 seconds"),
        (["--search", "2", "--storage", "j", "--study-name", " "], "is not a name of 1 to 200 characters"),
        (["--port", "80"], "`--port` applies with `--watch` only"),
        (["--watch"], "`--watch` needs the folder of a study"),
    ],
)
def test_options_without_a_meaning(words: list[str], message: str, two_splits: Path, capfd: Any) -> None:
    asked = ["study", "--data", str(two_splits), "--backbone", "timm/test_resnet", "--strategy", "full", *words]
    assert run_zoo(asked) == 2
    assert message in capfd.readouterr().err


def test_a_run_that_is_pruned_says_so(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    from zoo import train
    from zoo.progress import Silent

    class Gives(Silent):
        def epoch(self, record: dict[str, Any]) -> None:
            raise Pruned("others were ahead")

    with pytest.raises(Pruned):
        train(replace(TINY, data=str(two_splits), epochs=2), out=tmp_path / "run", plugins=plugins, progress=Gives())
    run = Run.open(tmp_path / "run")
    assert run.status == "pruned" and run.record["failure"] == "others were ahead"
