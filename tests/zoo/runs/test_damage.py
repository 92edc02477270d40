"""Files of a run that were damaged, lost or copied from elsewhere: each is named or made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests_support import TINY, Killed

from zoo import Plugins, Run, UsageError, ZooError, evaluate, resume, train
from zoo.exporting.writing import export
from zoo.progress import Silent
from zoo.storage.files import read_json, write_json
from zoo.training.checkpoint import Checkpoints

BASE = replace(TINY, epochs=2, save_every=0.0)
NOISE = b"\xff\xfe\x00\x81\n\xc3\x28"


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@pytest.fixture(scope="module")
def folders(two_splits: Path, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> dict[str, Path]:
    """`finished`, and `killed` and `other` at their fifth step of six, each with two checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    experiment = replace(BASE, data=str(two_splits))
    train(experiment, out=root / "finished", plugins=plugins)
    write = Checkpoints.write
    for name in ("killed", "other"):
        left = [5]

        def dying(self: Checkpoints, *arguments: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            write(self, *arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Checkpoints, "write", dying)
            train(replace(experiment, seed=1 if name == "other" else 0), out=root / name, plugins=plugins)
    return {name: root / name for name in ("finished", "killed", "other")}


@pytest.fixture
def killed(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["killed"], tmp_path / "killed"))


@pytest.fixture
def finished(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["finished"], tmp_path / "finished"))


def test_a_checkpoint_of_another_run_is_not_taken(killed: Path, folders: dict[str, Path], plugins: Plugins) -> None:
    shutil.copy(folders["other"] / "checkpoint.safetensors", killed)
    said = Said()
    again = resume(killed, plugins=plugins, progress=said)
    assert "checkpoint.safetensors` belongs to another run" in said
    assert again.record["resumed"][0]["step"] == 4
    assert again.record["weights_sha256"] == Run.open(folders["finished"]).record["weights_sha256"]


def test_a_resume_that_is_refused_loses_nothing(killed: Path, folders: dict[str, Path], plugins: Plugins) -> None:
    for file in folders["other"].glob("checkpoint*"):
        shutil.copy(file, killed)
    with (killed / "history.jsonl").open("a") as stream:
        stream.write('{"epoch": 2}\n')
    before = (killed / "history.jsonl").read_bytes()
    with pytest.raises(
        ZooError, match=r"checkpoint\.safetensors` belongs to another run.*previous.*another run"
    ) as error:
        resume(killed, plugins=plugins)
    assert f"zoo train --resume {killed}`" in str(error.value.hint) and "--force" in str(error.value.hint)
    assert (killed / "history.jsonl").read_bytes() == before
    for file in folders["killed"].glob("checkpoint*"):
        shutil.copy(file, killed)
    checkpoints = Checkpoints(killed, 0.0, Run.open(killed).record["id"])
    tensors, state, _ = checkpoints.read() or pytest.fail("no checkpoint")
    name = next(name for name in tensors if name.startswith("model/") and name.endswith("running_mean"))
    checkpoints.write({**tensors, name: tensors[name] + 1}, state)
    with pytest.raises(ZooError, match="the frozen tensors differ"):
        resume(killed, plugins=plugins)
    assert (killed / "history.jsonl").read_bytes() == before


def test_a_checkpoint_without_an_identity_is_of_another_run(killed: Path, plugins: Plugins) -> None:
    checkpoints = Checkpoints(killed, 0.0, None)
    checkpoints.write({}, {})
    checkpoints.write({}, {})
    with pytest.raises(ZooError, match="belongs to another run"):
        resume(killed, plugins=plugins)


def test_missing_checkpoints_are_reported(killed: Path, plugins: Plugins) -> None:
    for file in killed.glob("checkpoint*"):
        file.unlink()
    said = Said()
    again = resume(killed, plugins=plugins, progress=said)
    assert "no checkpoint in" in said and [line["epoch"] for line in again.history] == [1, 2]


def test_a_folder_in_the_place_of_a_checkpoint_is_named(killed: Path, plugins: Plugins) -> None:
    (killed / "checkpoint.safetensors").unlink()
    (killed / "checkpoint.safetensors").mkdir()
    with pytest.raises(ZooError, match=r"checkpoint\.safetensors` is a folder") as error:
        resume(killed, plugins=plugins)
    assert error.value.hint is not None


def test_a_folder_in_the_place_of_the_lock_is_named(killed: Path, plugins: Plugins) -> None:
    (killed / ".lock").unlink()
    (killed / ".lock").mkdir()
    with pytest.raises(ZooError, match=r"\.lock` cannot be written: is a directory") as error:
        resume(killed, plugins=plugins)
    assert error.value.hint == f"move `{killed / '.lock'}` away"


def test_a_folder_that_may_not_be_written_is_named(
    killed: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FileLock, timeout: float) -> None:  # the tests may run as root, who may write anywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(ZooError, match=r"\.lock` cannot be written: permission denied") as error:
        resume(killed, plugins=plugins)
    assert f"`chmod u+w {killed}`" in str(error.value.hint)


def test_the_record_is_read_again_under_the_lock(killed: Path, finished: Path, plugins: Plugins) -> None:
    stale = Run.open(killed)
    shutil.copy(finished / "run.json", killed)  # another process has ended it since
    said = Said()
    assert resume(stale, plugins=plugins, progress=said).status == "finished"
    assert "is finished, there is nothing to resume" in said


@pytest.mark.parametrize("data", [NOISE, b"[1]\n" + NOISE + b'\n"x"\nnull\n', b"[" * 100_000])
def test_noise_in_a_file_of_lines_is_left_out(killed: Path, finished: Path, plugins: Plugins, data: bytes) -> None:
    run = Run.open(finished)
    whole = (run.history, run.looks("val"))
    for name in ("history.jsonl", "ledger.jsonl"):
        with (finished / name).open("ab") as stream:
            stream.write(data)
    assert (run.history, run.looks("val")) == whole
    (killed / "history.jsonl").write_bytes(data)
    said = Said()
    again = resume(killed, plugins=plugins, progress=said)
    assert "`history.jsonl` has lost 1 of its lines" in said and [line["epoch"] for line in again.history] == [2]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["data"], None),
        (["data"], []),
        (["data"], {}),
        (["data", "fit"], "x"),
        (["data", "fit", "sha256"], 3),
        (["device"], None),
        (["device"], "cpu"),
        (["device", "name"], None),
        (["device", "threads"], "many"),
        (["device", "threads"], 0),
        (["device", "threads"], 10**9),
        (["versions"], ["torch"]),
        (["versions", "torch"], 2),
        (["status"], "done"),
        (["backbone"], 1),
        (["strategy"], None),
        (["classes"], ["red", "red"]),
        (["classes"], ["red", 1]),
        (["phases"], [1]),
        (["phases"], [{}]),
        (["metrics"], None),
        (["metrics", "accuracy"], "high"),
        (["accuracy_interval_95"], [0.1]),
        (["seconds"], {}),
        (["preprocess", "fit"], "tight"),
        (["preprocess", "mean"], 1),
        (["preprocess", "crop"], float("inf")),
        (["experiment"], []),
        (["id"], 7),
        (["resumed"], "often"),
        (["teachers"], ["runs/big"]),
        (["teachers"], {"runs/big": "runs/big"}),
        (["teachers"], {"runs/big": {"id": "0"}}),
        (["soup"], {}),
        (["soup"], {"ingredients": [{"run": 3}]}),
        (["ensemble"], {"members": "runs/big"}),
    ],
)
def test_a_record_that_violates_its_schema_is_damaged(finished: Path, path: list[str], value: Any) -> None:
    record = read_json(finished / "run.json")
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (finished / "run.json").write_text(json.dumps(record))  # `write_json` refuses what is not a number
    with pytest.raises(ZooError, match=r"run\.json` is damaged: ") as error:
        Run.open(finished)
    assert path[0] in error.value.message and error.value.hint is not None


SPLITS = [b"{}", b"", b"[]", NOISE, b'{"roles": {"fit": 3}, "sha256": {}}', b'{"roles": {"choose": []}, "sha256": {}}']


@pytest.mark.parametrize("content", [*SPLITS, None])
def test_damaged_splits_are_made_again(killed: Path, plugins: Plugins, content: bytes | None) -> None:
    file = killed / "splits.json"
    before = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    said = Said()
    resume(killed, plugins=plugins, progress=said)
    assert file.read_bytes() == before
    assert "it is written again, since the photographs are those of the run" in said


@pytest.mark.parametrize("content", SPLITS)
def test_damaged_splits_stop_an_evaluation(finished: Path, plugins: Plugins, content: bytes) -> None:
    (finished / "splits.json").write_bytes(content)
    with pytest.raises(ZooError, match=r"splits\.json` (is damaged|cannot be read)") as error:
        evaluate(finished, plugins=plugins)
    assert error.value.hint is not None


def test_other_photographs_without_splits_have_a_hint(
    killed: Path, two_splits: Path, tmp_path: Path, plugins: Plugins
) -> None:
    photos = Path(shutil.copytree(two_splits, tmp_path / "photos"))
    next((photos / "train").rglob("*.jpg")).unlink()
    record = read_json(killed / "run.json")
    record["experiment"]["data"] = str(photos)
    write_json(killed / "run.json", record)
    (killed / "splits.json").unlink()
    with pytest.raises(ZooError, match=r"not those of the run, and which ones differ is unknown") as error:
        resume(killed, plugins=plugins)
    assert error.value.hint is not None


@pytest.mark.parametrize("ask", [lambda run, plugins: evaluate(run, plugins=plugins), lambda run, _: export(run)])
def test_a_run_without_weights_says_what_to_do(
    killed: Path, finished: Path, plugins: Plugins, ask: Callable[[Path, Plugins], Any]
) -> None:
    Run.open(killed).update(status="running")  # as `kill -9` leaves it
    with pytest.raises(ZooError, match="it is still running, or was killed") as error:
        ask(killed, plugins)
    assert f"`zoo train --resume {killed}`" in str(error.value.hint)
    Run.open(killed).update(status="interrupted")
    with pytest.raises(ZooError, match="is interrupted and has no weights") as error:
        ask(killed, plugins)
    assert f"`zoo train --resume {killed}`" in str(error.value.hint)
    for file in finished.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ZooError, match="is finished and has no weights") as error:
        ask(finished, plugins)
    assert "--resume" not in str(error.value.hint)


def test_an_empty_name_is_not_the_folder_one_stands_in(
    finished: Path, two_splits: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    with pytest.raises(UsageError, match="empty"):
        resume("", plugins=plugins)
    with pytest.raises(UsageError, match="empty"):
        evaluate("", plugins=plugins)
    with pytest.raises(UsageError, match="`--out` is empty"):
        train(replace(BASE, data=str(two_splits)), out="", force=True, plugins=plugins)
    assert Run.open(finished).status == "finished"
