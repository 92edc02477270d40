"""Features by shard: computed once whatever stops the pass, and found by a run, whose weights stay the same."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from messages import refused, unsaid
from tests_support import COLOURS, TINY, Killed, paint

from zoo import Experiment, Plugins, UsageError, ZooError, train
from zoo.config.context import Context
from zoo.config.references import look_up
from zoo.data import decoding, image
from zoo.data.decode_plan import decode_requests
from zoo.data.sample_columns import Ranges
from zoo.data.shards import FileState
from zoo.errors import DiskFull
from zoo.feature_cache.engine_choice import EngineChoice
from zoo.feature_cache.shard_entries import write_entry
from zoo.progress import Silent
from zoo.storage.tensor_store import Store
from zoo.studies.executor import LocalProcess
from zoo.studies.feature_pass import FeaturePass, _tasks, compute_features
from zoo.studies.remote_executor import RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out
from zoo.studies.trial_worker import TrialWorker
from zoo.system.worker_process import WorkerFailed
from zoo.training import shard_features, solved_phase
from zoo.training.acceptance import accept
from zoo.training.shard_features import ShardFeatures
from zoo_cli.main import run as run_zoo

SHARDS, IMAGES = 4, 12


class Told(Silent):
    """Remembers lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    warn = note


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    paint(list(COLOURS.values())[number % len(COLOURS)], seed=number).save(stream, "JPEG")
    return stream.getvalue()


def put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_shard(file: Path, number: int, bad: Callable[[int], bytes | None] = lambda number: None) -> None:
    with tarfile.open(file, "w") as archive:
        for image in range(number * IMAGES, (number + 1) * IMAGES):
            put(archive, f"{image:03d}.jpg", bad(image) or jpeg(image))
            put(archive, f"{image:03d}.cls", list(COLOURS)[image % len(COLOURS)].encode())


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(SHARDS):
        write_shard(folder / f"{number}.tar", number)
    return folder


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, plugins: Plugins, tmp_path: Path) -> TrialWorker:
    """What a worker's process does is done in this one; the cache is the test's own."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    found = TrialWorker()
    found.plugins = plugins

    def ask(self: LocalProcess, do: str, **request: Any) -> dict[str, Any]:
        asked = json.loads(json.dumps(request))
        try:
            answer: dict[str, Any] = json.loads(json.dumps(getattr(found, do)(**asked)))
        except DiskFull:
            raise
        except ZooError as error:
            raise WorkerFailed(error.message, hint=error.hint, kind=type(error)) from error
        return answer

    monkeypatch.setattr(LocalProcess, "ask", ask)
    return found


def settings(shards: Path, **changes: Any) -> Experiment:
    return replace(TINY, data=f"wds:{shards}/*.tar", strategy="linear", **changes)


def computed(experiment: Experiment, plugins: Plugins, told: Silent | None = None) -> FeaturePass:
    return compute_features(experiment, plugins=plugins, progress=told or Silent())


def entries(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in (folder / "cache" / "store").glob("*/*.safetensors")}


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found, decode = [], image.decode

    def counting(*arguments: Any, **more: Any) -> Any:
        found.append(1)
        return decode(*arguments, **more)

    monkeypatch.setattr(decoding, "decode", counting)
    return found


@pytest.mark.usefixtures("worker")
def test_a_run_takes_its_features_from_a_pass_and_has_the_same_weights(
    shards: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, told = settings(shards, workers=1), Told()  # several would decode ahead
    found = computed(experiment, plugins)
    assert (found.shards, found.computed, found.kept) == (SHARDS, SHARDS * IMAGES, 0)
    decoded = count_decoded(monkeypatch)
    run = train(experiment, out=tmp_path / "kept", plugins=plugins, progress=told)
    assert len(decoded) <= 2, "only to see whether images are grey"
    assert not unsaid(" ".join(told.lines), "48 images", "4 shards", "kept")
    assert run.record["kept_features"]["shards"] == SHARDS
    assert run.record["kept_features"]["made"][0]["engine"] == "torch"
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "empty"))
    plain = train(experiment, out=tmp_path / "plain", plugins=plugins, progress=Silent())
    assert len(decoded) > SHARDS * IMAGES and "kept_features" not in plain.record
    for name in ("weights_sha256", "metrics", "data", "leaks"):
        assert run.record[name] == plain.record[name]


@pytest.mark.usefixtures("worker")
def test_after_a_kill_no_finished_shard_is_computed_again(
    shards: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, asked = ShardFeatures.compute, []

    def until_killed(self: ShardFeatures, file: str, *rest: Any) -> Any:
        asked.append(file)
        if len(asked) == 3:
            raise Killed
        return compute(self, file, *rest)

    monkeypatch.setattr(ShardFeatures, "compute", until_killed)
    with pytest.raises(Killed):
        computed(settings(shards), plugins)
    before = entries(tmp_path)
    found = computed(settings(shards), plugins)
    assert found.computed_shards == SHARDS - 2 and found.kept == 2 * IMAGES
    assert before.items() <= entries(tmp_path).items()
    assert computed(settings(shards), plugins).computed == 0


@pytest.mark.usefixtures("worker")
def test_another_split_computes_images_in_other_roles_alone(shards: Path, plugins: Plugins) -> None:
    computed(settings(shards), plugins)
    other = computed(settings(shards, split_seed=1), plugins)
    assert 0 < other.computed < SHARDS * IMAGES / 2
    assert computed(settings(shards), plugins).computed == 0, "what was added left the others in place"


@pytest.mark.usefixtures("worker")
def test_of_features_that_are_kept_in_part_a_run_takes_none(shards: Path, tmp_path: Path, plugins: Plugins) -> None:
    experiment, told = settings(shards), Told()
    computed(experiment, plugins)
    write_shard(shards / "3.tar", 3, lambda image: jpeg(image + 100))
    run = train(experiment, out=tmp_path / "run", plugins=plugins, progress=told)
    assert "kept_features" not in run.record
    assert not unsaid(" ".join(told.lines), "1 shard", "of 4", "zoo features")
    assert computed(experiment, plugins).computed_shards == 1


@pytest.mark.usefixtures("worker")
def test_folds_are_not_sent_to_a_pass_that_refuses_them(shards: Path, tmp_path: Path, plugins: Plugins) -> None:
    computed(settings(shards), plugins)
    for folds in (None, 2):
        told, asked = Told(), settings(shards, folds=folds, split_seed=3)
        train(asked, out=tmp_path / f"{folds}", plugins=plugins, progress=told)
        (line,) = {line for line in told.lines if "are not kept" in line}
        assert ("`zoo features`" in line) is (folds is None)


@pytest.mark.usefixtures("worker")
def test_a_store_that_cannot_be_written_is_named(
    shards: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with refused(ZooError, "cannot be written", "`ZOO_CACHE` to a folder"):
        computed(settings(shards), plugins)


@pytest.mark.usefixtures("worker")
def test_new_shards_alone_are_computed_where_splits_are_named(shards: Path, tmp_path: Path, plugins: Plugins) -> None:
    fewer = replace(settings(shards), data=f"wds:train={shards}/{{0..1}}.tar,val={shards}/3.tar")
    more = replace(fewer, data=f"wds:train={shards}/{{0..2}}.tar,val={shards}/3.tar")
    computed(fewer, plugins)
    assert computed(more, plugins).computed_shards == 1
    part = replace(fewer, data=f"wds:train={shards}/2.tar,val={shards}/3.tar")
    run = train(part, out=tmp_path / "run", plugins=plugins, progress=Silent())
    assert run.record["kept_features"]["shards"] == 2, "also of data that no pass was made for"


@pytest.mark.usefixtures("worker")
def test_images_that_cannot_be_used_are_named_and_left_out_of_a_run(
    shards: Path, tmp_path: Path, plugins: Plugins
) -> None:
    write_shard(shards / "1.tar", 1, lambda image: b"no image" if image == 13 else None)
    with tarfile.open(shards / "2.tar", "a") as archive:
        put(archive, "unlabelled.jpg", jpeg(99))
    whole = (shards / "3.tar").read_bytes()
    (shards / "3.tar").write_bytes(whole[: len(whole) // 2])
    told = Told()
    found = computed(settings(shards), plugins, told)
    reasons = {one.id: one.reason for one in found.bad}
    assert not unsaid(reasons["013.jpg"], "cannot be read")
    assert not unsaid(reasons["unlabelled.jpg"], "no label")
    assert any("cut short" in reason or "damaged after" in reason for reason in reasons.values())
    assert not unsaid("\n".join(told.lines), "013.jpg", "unlabelled.jpg")
    run = train(settings(shards), out=tmp_path / "run", plugins=plugins, progress=Silent())
    assert run.record["kept_features"]["shards"] == SHARDS
    assert {one["path"]: one["reason"] for one in run.record["bad_images"]} == reasons


@pytest.mark.usefixtures("worker")
def test_a_shard_that_changes_under_way_has_no_features_and_the_others_have(
    shards: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = ShardFeatures._chunk

    def while_it_is_written(self: ShardFeatures, use: str, file: str, *rest: Any) -> Any:
        if file.endswith("1.tar"):
            os.utime(file, ns=(1, 1))
        return chunk(self, use, file, *rest)

    told = Told()
    monkeypatch.setattr(ShardFeatures, "_chunk", while_it_is_written)
    with refused(ZooError, "1.tar", "has changed", "3 of 4 shards", "same command again"):
        compute_features(settings(shards), plugins=plugins, progress=told)
    monkeypatch.undo()


def test_a_full_disk_ends_the_pass_and_loses_nothing(
    shards: Path, plugins: Plugins, worker: TrialWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = write_entry, []

    def until_full(store: Store, key: Any, entry: Any) -> bool:
        written.append(key["shard"])
        if len(set(written)) > 2:
            store.failure = "no space left on device"
            return False
        return write(store, key, entry)

    monkeypatch.setattr(shard_features, "write_entry", until_full)
    with refused(DiskFull, "no space left", "2 of 4 shards", "same command again"):
        computed(settings(shards), plugins)
    monkeypatch.setattr(shard_features, "write_entry", write)
    worker._features = None  # as a new session has new workers
    assert computed(settings(shards), plugins).computed_shards == 2


@pytest.mark.usefixtures("worker")
def test_features_that_do_not_fit_into_the_store_are_not_begun(
    shards: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_BUDGET", "4K")
    with refused(ZooError, "48 images", "4 KiB", "ZOO_CACHE_BUDGET"):
        computed(settings(shards), plugins)
    monkeypatch.setenv("ZOO_CACHE_BUDGET", "0")
    with refused(ZooError, "cannot be kept", "ZOO_CACHE_BUDGET"):
        computed(settings(shards), plugins)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "partial:1"}, ("partial:1", "not solved")),
        ({"strategy": "linear", "epochs": 2}, ("linear", "not solved")),
        ({"cache": "off"}, ("--cache off", "leave it out")),
        ({"folds": 3}, ("--folds", "leave it out")),
        ({"data": "digits"}, ("digits", "wds:")),
    ],
)
def test_what_features_of_shards_are_not_for(
    shards: Path, plugins: Plugins, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ZooError) as caught:
        computed(replace(settings(shards), **changes), plugins)
    assert not unsaid(str(caught.value), *words)


@pytest.mark.usefixtures("worker")
def test_a_damaged_entry_is_computed_again(shards: Path, tmp_path: Path, plugins: Plugins) -> None:
    computed(settings(shards), plugins)
    files = sorted((tmp_path / "cache" / "store").glob("*/*.safetensors"))
    for file in files:
        data = bytearray(file.read_bytes())
        data[-3] ^= 0xFF
        file.write_bytes(data)
    assert computed(settings(shards), plugins).computed == SHARDS * IMAGES


@pytest.mark.usefixtures("worker")
def test_two_sessions_at_once_compute_every_shard_once(shards: Path, tmp_path: Path, plugins: Plugins) -> None:
    first = settings(shards)
    context = Context(plugins=plugins, progress=Silent(), store=Store(tmp_path / "cache" / "store"))
    classes = tuple(COLOURS)
    both = [ShardFeatures(first, classes, context) for _ in range(2)]
    requests = _requests(first, plugins)
    answers: list[dict[str, Any]] = []

    def session(worker: ShardFeatures) -> None:
        answers.extend(worker.compute(*request) for request in requests)

    threads = [threading.Thread(target=session, args=(one,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2 * SHARDS
    assert sum(one["computed"] for one in answers) == sum(one["kept"] for one in answers) == SHARDS * IMAGES


def _requests(experiment: Experiment, plugins: Plugins) -> list[tuple[Any, ...]]:
    """What the workers of a session are asked."""
    accepted = accept(experiment, plugins)
    parts = decode_requests(accepted.selection.images, accepted.roles, look_up(experiment, plugins).preprocess)
    engine = EngineChoice(name="torch", reason="", images_per_second={})
    return [
        (
            task.file,
            FileState.of(task.file),
            {use: Ranges(*(np.array(numbers) for numbers in one)) for use, one in task.uses().items()},
            engine,
        )
        for task in _tasks(parts, experiment.data)
    ]


@pytest.mark.usefixtures("worker")
def test_features_that_do_not_fit_into_memory_are_mapped(
    shards: Path, tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = settings(shards)
    computed(experiment, plugins)
    runs = [train(experiment, out=tmp_path / "memory", plugins=plugins, progress=Silent())]
    monkeypatch.setattr(decoding, "MEMORY_BUDGET", 1000)
    monkeypatch.setattr(solved_phase, "SCORED", 7)
    runs.append(train(experiment, out=tmp_path / "mapped", plugins=plugins, progress=Silent()))
    assert runs[0].record["weights_sha256"] == runs[1].record["weights_sha256"]
    losses = [run.history[-1]["train_loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert runs[0].history[-1]["train_accuracy"] == pytest.approx(runs[1].history[-1]["train_accuracy"])


class Engine(RemoteExecutor):
    """An engine that runs the function in this process, and loses one answer."""

    def __init__(self, plugins: Plugins, lost: str = "", **changes: Any) -> None:
        super().__init__(plugins=plugins)
        self.lost, self.changes = lost, changes

    def run_once(self, request: dict[str, Any]) -> dict[str, Any]:
        request = json.loads(json.dumps({**request, **self.changes}))
        if self.lost and request["features"]["file"].endswith(self.lost) and request["features"]["engine"]:
            raise TrialLost("its process or its machine is gone")
        return json.loads(json.dumps(carry_out(request)))  # type: ignore[no-any-return]

    def stop(self) -> None: ...


@pytest.mark.usefixtures("worker")
def test_shards_are_computed_on_other_machines(shards: Path, plugins: Plugins) -> None:
    with refused(ZooError, "2.tar", "gone", "3 of 4 shards"):
        compute_features(settings(shards), executor=Engine(plugins, "2.tar"), plugins=plugins, progress=Silent())
    found = compute_features(settings(shards), executor=Engine(plugins), plugins=plugins, progress=Silent())
    assert (found.computed_shards, found.kept) == (1, (SHARDS - 1) * IMAGES)
    with refused(ZooError, "worker", "torch", "0.1"):
        compute_features(
            settings(shards, split_seed=3),
            executor=Engine(plugins, versions={"torch": "0.1"}),
            plugins=plugins,
            progress=Silent(),
        )


@pytest.mark.usefixtures("worker")
def test_the_command(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", f"wds:{shards}/*.tar", "--backbone", "timm/test_resnet", "--weights", "none", "--device", "cpu"]
    words += ["--image-size", "32"]
    assert run_zoo(["features", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["computed"], found["shards"], found["engine"]) == (SHARDS * IMAGES, SHARDS, "torch")
    assert found["peak_memory"] > 0 and found["bytes"] > 0
    assert run_zoo(["features", *words]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == str(tmp_path / "cache" / "store")
    assert not unsaid(out.err, "4 shards", "48 images", "48 kept before")
    assert run_zoo(["features", *words, "--cpus-per-shard", "2"]) == UsageError.exit_code
    assert not unsaid(capsys.readouterr().err, "--cpus-per-shard", "--on")
    assert run_zoo(["train", *words, "--strategy", "linear", "--out", str(tmp_path / "run")]) == 0
    assert not unsaid(capsys.readouterr().err, "4 shards", "kept")


@pytest.mark.slow
def test_sigkill_of_a_session_with_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shards that are kept when the session dies none is computed again, and its workers die with it."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(30):
        write_shard(many / f"{number:02d}.tar", number)
    words = ["--data", f"wds:train={many}/{{00..24}}.tar,val={many}/{{25..29}}.tar", "--backbone", "timm/test_resnet"]
    words += ["--weights", "none", "--image-size", "160", "--device", "cpu", "--jobs", "2", "--threads", "1"]
    command = [sys.executable, "-m", "zoo_cli.main", "features", *words]
    session = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while session.poll() is None and len(entries(tmp_path)) < 8:
        time.sleep(0.02)
    workers = psutil.Process(session.pid).children()
    session.kill()
    session.wait()
    assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=20)[1]
    before = entries(tmp_path)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found, after = json.loads(done.stdout), entries(tmp_path)
    assert before.items() <= after.items()
    checks = len(after) - 30  # of how the network is split
    assert found["computed_shards"] == 30 - (len(before) - checks)
    assert found["kept"] == (len(before) - checks) * IMAGES
