"""Trackers log a run once, however often it is stopped, and send nothing anywhere unless they are asked to.

MLflow and Weights & Biases are large, so they are tested where they are installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests_support import TINY, Killed

from zoo import Plugins, Run, resume, train
from zoo.plugin import PluginCandidate, installed_candidates
from zoo.testing import check_callback
from zoo.training.checkpoint import Checkpoints

EXPERIMENT = replace(TINY, strategy="linear+full", epochs=2, save_every=0.0)
INSTALLED = [name for name in ("tensorboard", "mlflow", "wandb") if find_spec(name) is not None]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(module not in INSTALLED, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def loaded() -> Plugins:
    """What is installed, and the trackers, also where the tree was installed before they were in it."""
    point = importlib.metadata.EntryPoint("trackers", "zoo_trackers", "zoo.plugins")
    candidates = [one for one in installed_candidates() if one.name != "trackers"]
    return Plugins([*candidates, PluginCandidate("trackers", "backbone-zoo", "0", point)])


@pytest.fixture
def stopped(two_splits: Path, tmp_path: Path, loaded: Plugins, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Trains with a callback, from another folder is killed in the last epoch, and resumed."""
    write, left = Checkpoints.write, [5]

    def dying(self: Checkpoints, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(self, *arguments)

    def make(callback: str) -> Run:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Checkpoints, "write", dying)
        experiment = replace(EXPERIMENT, data=str(two_splits), callback=(callback,))
        with pytest.raises(Killed):
            train(experiment, out=tmp_path / "runs" / "first", plugins=loaded)
        monkeypatch.chdir(tmp_path / "elsewhere")
        run = resume(tmp_path / "runs" / "first", plugins=loaded)
        assert [one["failure"] for one in run.record["callbacks"]] == [None]
        assert not list((tmp_path / "elsewhere").iterdir())
        return run

    return make


@needs("tensorboard")
@pytest.mark.parametrize("callback", ["tensorboard", "tensorboard:events"])
def test_tensorboard(callback: str, stopped: Callable[[str], Run], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stopped(callback)
    log = EventAccumulator(str(run.path if callback == "tensorboard" else tmp_path / "events" / "first"))
    log.Reload()
    losses = log.Scalars("epoch/train_loss")
    assert [one.step for one in losses] == [1, 2, 3]
    assert [one.value for one in losses] == pytest.approx([line["train_loss"] for line in run.history])
    (accuracy,) = log.Scalars("val/accuracy")
    assert accuracy.value == pytest.approx(run.metrics["accuracy"])
    plugins = {tag for name in log.summary_metadata.values() for tag in [name.plugin_data.plugin_name]}
    assert {"text", "hparams"} <= plugins
    protos = {tag: log.Tensors(tag)[-1].tensor_proto for tag in log.Tags()["tensors"]}
    texts = {tag: proto.string_val[0].decode() for tag, proto in protos.items() if proto.string_val}
    assert "| backbone | timm/test_resnet |" in texts["settings"] and "model.safetensors" in texts["files of the run"]
    (confusion,) = [text for tag, text in texts.items() if tag.startswith("confusion on val")]
    assert confusion.splitlines()[0] == "| true class | blue | red |"


@needs("mlflow")
def test_mlflow(stopped: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped("mlflow,weights=true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("zoo")
        assert experiment is not None
        (logged,) = client.search_runs([experiment.experiment_id])
        losses = client.get_metric_history(logged.info.run_id, "train_loss")
        files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert logged.info.status == "FINISHED" and logged.info.run_name == "first"
    assert (
        logged.data.params["backbone"] == "timm/test_resnet"
        and logged.data.params["strategy"] == run.record["strategy"]
    )
    assert [(one.step, one.value) for one in losses] == [
        (number, line["train_loss"]) for number, line in enumerate(run.history, start=1)
    ]
    assert logged.data.metrics["val/accuracy"] == run.metrics["accuracy"]
    assert {"run.json", "history.jsonl", "confusion-val.json", "model.safetensors"} <= files


@needs("wandb")
def test_wandb(stopped: Callable[[str], Run]) -> None:
    run = stopped("wandb:photos")
    folder = run.path / "callbacks" / "wandb"
    (file,) = (run.path / "callbacks").glob("trackers-wandb-*.json")
    kept = json.loads(file.read_text())["kept"]
    logs = sorted(folder.glob("offline-run-*/*.wandb"))
    assert [file.name for file in logs] == 2 * [f"run-{kept['run']}.wandb"]
    items: list[dict[str, Any]] = []
    for file in logs:
        items += _logged(file)
    assert [json.loads(one["epoch"]) for one in items if "epoch" in one] == [1, 2, 3]
    losses = [json.loads(one["train_loss"]) for one in items if "train_loss" in one]
    assert losses == pytest.approx([line["train_loss"] for line in run.history])
    assert any("confusion on val" in one for one in items)
    assert (logs[1].parent / "files" / "run.json").exists()


def _logged(file: Path) -> Iterator[dict[str, str]]:
    """The items of each step in an offline file of W&B: seven bytes, then a log as LevelDB writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # of a block, which no header fits into
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # complete, or the last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or item.nested_key[0]: item.value_json for item in record.history.item}


@pytest.mark.skipif(not INSTALLED, reason="no tracker is installed")
def test_nothing_is_sent_unless_asked(
    two_splits: Path, tmp_path: Path, loaded: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a tracker would send goes through a proxy, which notes it."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(connection.recv(200))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.lower(), address)
        for name in ("NO_PROXY", "no_proxy", "MLFLOW_TRACKING_URI"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.chdir(tmp_path)
        experiment = replace(EXPERIMENT, data=str(two_splits), callback=tuple(INSTALLED))
        run = train(experiment, out=tmp_path / "run", plugins=loaded)
        assert [one["failure"] for one in run.record["callbacks"]] == [None] * len(INSTALLED)
        assert asked == []
        server.shutdown(socket.SHUT_RDWR)


@needs("mlflow")
def test_a_server_that_is_down_ends_no_run(
    two_splits: Path, tmp_path: Path, loaded: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    experiment = replace(EXPERIMENT, data=str(two_splits), callback=("mlflow:http://127.0.0.1:9",))
    run = train(experiment, out=tmp_path / "run", plugins=loaded)
    (mlflow,) = run.record["callbacks"]
    assert run.status == "finished" and "127.0.0.1" in mlflow["failure"] and "RunStarted" in mlflow["failure"]


@pytest.mark.parametrize("tracker", INSTALLED)
def test_a_tracker_keeps_the_laws(
    tracker: str, loaded: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_callback(tracker, plugins=loaded)


def test_the_plugin_imports_no_tracker(loaded: Plugins) -> None:
    assert {"tensorboard", "mlflow", "wandb"} <= {entry.name for entry in loaded.callbacks}
    assert "zoo_trackers.tensorboard" not in sys.modules
