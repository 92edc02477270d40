"""Latency measurement: slots, processes, outcomes; with fake runtimes that need neither torch nor onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from messages import unsaid

from zoo.errors import UsageError, ZooError
from zoo.latency.interleaving import WORKER
from zoo.latency.measurement import bench, device_for, usable_cores
from zoo.latency.plot import accuracy_of, check_plot, draw
from zoo.latency.report import LEAST_FLOOR, LatencyReport, is_slower
from zoo.plugin import PluginCandidate, Plugins
from zoo.runtime import Runtime
from zoo.system.worker_process import WorkerFailed, WorkerProcess

# A plugin: sessions that sleep and write down when; each row misbehaves in another way
PRETEND = """
import os, signal, sys, threading, time
import zoo
from zoo.errors import ZooError
from zoo.runtime import Input

class Sleepy:
    notes = ("a note",)
    input = Input(dtype="float32", shape=(3, 4, 4))

    def __init__(self, work, seconds):
        self.work, self.seconds = work, seconds
        self.provider = "torch" if "torch" in sys.modules else "numpy"
        print("libraries print")
        self.log("loaded", time.monotonic())

    def log(self, *words):
        with (self.work.target / "log").open("a") as file:
            print(os.getpid(), *words, file=file)

    def prepare(self, batch):
        def call():
            start = time.monotonic()
            time.sleep(self.seconds * len(batch))
            self.log("called", start, time.monotonic())
        return call

class Spinning(Sleepy):
    def prepare(self, batch):
        def spin():
            while True:
                pass
        threading.Thread(target=spin, daemon=True).start()
        return lambda: None

class Dying(Sleepy):
    def prepare(self, batch):
        return lambda: os.kill(os.getpid(), signal.SIGKILL)

class Single(Sleepy):
    # is warmed up once in a folder, and never again
    def prepare(self, batch):
        if (self.work.target / "warmed").exists():
            raise MemoryError("no room for two")
        (self.work.target / "warmed").touch()
        return super().prepare(batch)

class Raising(Sleepy):
    def prepare(self, batch):
        calls = []
        def call():
            calls.append(1)
            if len(calls) > 2 and len(batch) > 1:
                raise ValueError("out of luck")
            time.sleep(0.001)
        return call

quick = lambda work: Sleepy(work, 0.001)
slow = lambda work: Sleepy(work, 0.002)
spinning = lambda work: Spinning(work, 0)
dying = lambda work: Dying(work, 0)
raising = lambda work: Raising(work, 0)
single = lambda work: Single(work, 0.0005)

def refusing(work):
    raise ZooError("this runtime refuses", hint="ask another")

class Wrong(Sleepy):
    def __init__(self, work, kind):
        super().__init__(work, 0.001)
        self.kind = kind
        if kind == "input":
            self.input = (3, 4, 4)

    def prepare(self, batch):
        return 7 if self.kind == "call" else super().prepare(batch)

wrong_session = lambda work: 5
wrong_input = lambda work: Wrong(work, "input")
wrong_call = lambda work: Wrong(work, "call")

def absent(device):
    return "nothing of the kind is here"

def broken(device):
    raise OSError("no such thing")

@zoo.hookimpl
def register_runtimes(register):
    for name in ("quick", "slow", "spinning", "dying", "raising", "single", "refusing", "absent", "broken"):
        available = (lambda device: None) if name not in ("absent", "broken") else globals()[name]
        register(zoo.Runtime(name=name, summary=name, accepts="run", devices=("cpu",), available=available,
                             load="pretend:" + name))
    for name in ("wrong_session", "wrong_input", "wrong_call", "wrong_answer"):
        available = (lambda device: None) if name != "wrong_answer" else lambda device: 3
        register(zoo.Runtime(name=name, summary=name, accepts="run", devices=("cpu",), available=available,
                             load="pretend:" + name))
    register(zoo.Runtime(name="gpu", summary="gpu", accepts="run", devices=("cuda",), available=absent, load="x:y"))
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pretend")
    (folder / "pretend.py").write_text(PRETEND)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        point = importlib.metadata.EntryPoint("pretend", "pretend", "zoo.plugins")
        yield Plugins([PluginCandidate("pretend", "backbone-zoo-pretend", "1", point)], environ={})
    sys.modules.pop("pretend", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def measure(folder: Path, plugins: Plugins, *runtimes: str, **options: Any) -> LatencyReport:
    options = {"batch_sizes": (1,), "seconds": 0.05, "noise_floor": False, **options}
    return bench([folder], runtimes=runtimes or None, device="cpu", plugins=plugins, **options)


def logged(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def gone(pids: set[int]) -> bool:
    """No process of these is left, not even as a zombie."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).ppid() == psutil.Process().pid for pid in pids)


def test_subjects_are_interleaved_and_never_run_concurrently(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "quick", "slow", batch_sizes=(2, 1), rounds=6)
    assert [outcome.status for outcome in report.outcomes] == ["measured", "measured"]
    calls = sorted((float(line[2]), float(line[3]), line[0]) for line in logged(folder) if line[1] == "called")
    assert len({pid for _, _, pid in calls}) == 2
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(calls))
    changes = sum(a[2] != b[2] for a, b in pairwise(calls))
    assert changes > 4  # loading and warming up alone would be two


def test_figures_of_known_calls(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "slow", "quick", batch_sizes=(1, 2), rounds=5)
    slow, quick = report.outcomes
    assert (slow.name, quick.name) == ("slow", "quick")  # as asked for, not as they came out
    assert quick.provider == "numpy" and quick.notes == ("a note",) and quick.input == "float32 (N, 3, 4, 4)"
    for outcome, seconds in ((slow, 0.002), (quick, 0.001)):
        assert [found.batch_size for found in outcome.measurements] == [1, 2]
        for found in outcome.measurements:
            assert found.call_seconds.shape[0] == 5 and found.calls == found.call_seconds.size
            assert found.call_seconds.min() >= seconds * found.batch_size  # a sleep is never shorter
            assert found.p50.low <= found.p50.value <= found.p50.high
            assert found.p50.value <= found.p90.value <= found.p99.value
            assert found.images_per_second.value <= 1 / seconds
            assert found.memory is not None and 2**20 < found.memory < 2**30
            assert any("p99 rests on" in note for note in found.notes) == (found.calls < 100)
    for fast, other in zip(quick.measurements, slow.measurements):
        winner = fast if fast.p50.value < other.p50.value else other
        assert winner.fastest and winner.ratio.value == 1
    assert report.others >= 0


def test_a_failing_subject_is_an_outcome(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "dying", "refusing", "quick", "raising", "absent", "broken", batch_sizes=(1, 2))
    outcomes = {outcome.name: outcome for outcome in report.outcomes}
    assert [outcome.name for outcome in report.measured] == ["quick"]
    assert "SIGKILL" in outcomes["dying"].reason and "libraries print" in outcomes["dying"].log
    assert (outcomes["refusing"].reason, outcomes["refusing"].hint) == ("this runtime refuses", "ask another")
    assert outcomes["raising"].reason == "ValueError: out of luck"
    assert "Traceback" in outcomes["raising"].log and outcomes["raising"].provider == "numpy"
    assert outcomes["absent"].reason == "nothing of the kind is here"
    assert outcomes["broken"].reason == "OSError: no such thing"
    assert all(outcome.status == "failed" for name, outcome in outcomes.items() if name != "quick")
    assert outcomes["quick"].measurements[0].fastest


def test_unavailable_runtimes_are_skipped_unless_named(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, seconds=0.01, rounds=1)  # one of them computes until it is killed
    status = Counter(outcome.status for outcome in report.outcomes)
    assert status == {"measured": 5, "failed": 5, "unavailable": 3}  # `gpu` does not run on the CPU at all


def test_what_a_runtime_returns_is_checked(folder: Path, plugins: Plugins) -> None:
    names = ("wrong_session", "wrong_input", "wrong_call", "wrong_answer")
    report = measure(folder, plugins, *names, seconds=0.01, rounds=1)
    for outcome, word in zip(report.outcomes, ("`provider`", "`zoo.Input`", "a function", "`3`"), strict=True):
        assert outcome.status in ("failed", "unavailable")
        assert not unsaid(outcome.reason, "pretend:", word), outcome.reason


def test_threads_spinning_between_slots_are_noted(folder: Path, plugins: Plugins) -> None:
    (outcome,) = measure(folder, plugins, "spinning", rounds=1, seconds=0.01).outcomes
    assert any("kept computing between" in note for note in outcome.notes)


def test_report_is_json(folder: Path, plugins: Plugins) -> None:
    data = json.loads(json.dumps(measure(folder, plugins, "quick", "absent").to_json(), allow_nan=False))
    assert data["schema"] == 1 and data["threads"] == usable_cores() >= 1
    measured, failed = data["contenders"]
    assert measured["runtime"] == "pretend/quick" and failed["measurements"] == []
    (found,) = measured["measurements"]
    assert set(found["p50"]) == {"value", "low", "high"} and "call_seconds" not in found
    assert data["machine"]["processor"] and data["versions"]["torch"]


@pytest.mark.parametrize("moment", ["loading", "warming up", "round 2"])
def test_no_worker_outlives_an_interruption(folder: Path, plugins: Plugins, moment: str) -> None:
    def interrupt(line: str) -> None:
        if moment in line and (folder / "log").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(folder, plugins, "quick", "slow", on_progress=interrupt)
    pids = {int(line[0]) for line in logged(folder)}
    assert pids and gone(pids)


def test_no_worker_outlives_the_measurement(folder: Path, plugins: Plugins) -> None:
    measure(folder, plugins, "quick", "raising", "dying", batch_sizes=(1, 2))
    pids = {int(line[0]) for line in logged(folder)}
    assert len(pids) == 3 and gone(pids)


def test_a_worker_that_times_out_is_killed(folder: Path, plugins: Plugins) -> None:
    runtime = plugins.runtimes.find("slow").value
    with WorkerProcess(WORKER, threads=1) as worker:
        worker.ask("load", target=runtime.load, workload={"target": str(folder)})
        with pytest.raises(WorkerFailed, match=r"no answer within 0\.01 seconds"):
            worker.ask("warm", timeout=0.01, batch=1000, seconds=0.1)
    assert gone({int(line[0]) for line in logged(folder)})


def test_a_run_is_measured_with_its_exported_file(folder: Path, plugins: Plugins) -> None:
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no runtime executes `.*model\.onnx`"):
        measure(folder, plugins, "quick")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": (0,)}, "a batch size of `0` is less than 1"),
        ({"batch_sizes": ()}, "no batch size"),
        ({"threads": 0}, "threads of `0`"),
        ({"seconds": 0.0}, "`0.0` seconds"),
        ({"seconds": math.nan}, "`nan` seconds"),
        ({"rounds": 0}, "rounds of `0`"),
    ],
)
def test_invalid_numbers_are_usage_errors(
    folder: Path, plugins: Plugins, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        measure(folder, plugins, "quick", **options)


def test_invalid_names_are_usage_errors(folder: Path, plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown runtime `quik`") as caught:
        measure(folder, plugins, "quik")
    assert "did you mean `quick`" in str(caught.value)
    with pytest.raises(UsageError, match="runtime `gpu` does not run on `cpu`"):
        measure(folder, plugins, "gpu")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UsageError, match=r"no runtime that executes `.*model.onnx` runs on `xpu`") as caught:
        bench([tmp_path / "model.onnx"], device="xpu")
    assert "they run on cpu cuda" in str(caught.value)
    with pytest.raises(UsageError, match="unknown device `tpu`"):
        bench([folder], device="tpu", plugins=plugins)
    with pytest.raises(UsageError, match="nothing to measure"):
        bench([], plugins=plugins)
    with pytest.raises(UsageError, match="there is no run or file"):
        bench([tmp_path / "none"], plugins=plugins)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not a run"):
        bench([tmp_path / "empty"], plugins=plugins)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match="no runtime executes"):
        bench([tmp_path / "a.txt"], plugins=plugins)


def test_missing_cuda_is_an_error(folder: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.latency.measurement.cuda_devices", lambda: ())
    with pytest.raises(ZooError, match="this machine has no CUDA device") as caught:
        bench([folder], device="cuda", plugins=plugins)
    assert caught.value.exit_code == 1
    monkeypatch.setattr("zoo.latency.measurement.cuda_devices", lambda: ("A", "B"))
    with pytest.raises(ZooError, match="there are 2 CUDA devices"):
        bench([folder], device="cuda:2", plugins=plugins)


@pytest.mark.parametrize(
    ("devices", "present", "asked", "chosen"),
    [
        (("cpu", "cuda"), (), "auto", "cpu"),
        (("cpu", "cuda"), ("A",), "auto", "cuda"),
        (("cpu",), ("A",), "auto", "cpu"),
        (("cuda",), (), "auto", "cuda"),  # and then says that there is none
        (("cpu", "cuda"), ("A",), "cpu", "cpu"),
        (("cpu",), ("A",), "cuda:1", None),
        (("cuda",), ("A",), "cuda:1", "cuda:1"),
    ],
)
def test_device_of_a_runtime(
    devices: tuple[str, ...],
    present: tuple[str, ...],
    asked: str,
    chosen: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.latency.measurement.cuda_devices", lambda: present)
    row = Runtime(name="r", summary="r", accepts="run", devices=devices, available="a:b", load="a:b")
    assert device_for(row, asked) == chosen


def test_more_threads_than_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads are more than this machine's"):
        bench([tmp_path], threads=100_000)


PARENT = """
import sys
from pathlib import Path
from zoo.latency.interleaving import WORKER
from zoo.system.worker_process import WorkerProcess
from zoo.runtime import Runtime, Workload
sys.path.insert(0, sys.argv[1])
with WorkerProcess(WORKER, threads=1) as worker:
    worker.ask("load", target="stuck:load", workload={"target": sys.argv[1], "device": "cpu", "threads": 1})
"""
STUCK = """
import os, time
def load(work):
    (work.target / "pid.part").write_text(str(os.getpid()))
    (work.target / "pid.part").rename(work.target / "pid")
    time.sleep(120)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_worker_in_a_call_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while not _is_gone(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _is_gone(worker)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_noise_floor_is_measured_with_a_second_process(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "quick", "slow", noise_floor=True, rounds=5)
    assert [outcome.name for outcome in report.outcomes] == ["quick", "slow"]  # the twin is none of them
    assert len({line[0] for line in logged(folder)}) == 3 and report.noise_floor[1] >= 0
    quick, slow = (outcome.measurements[0] for outcome in report.outcomes)
    assert quick.fastest and not quick.told_apart
    assert slow.told_apart is is_slower(slow.call_seconds, quick.call_seconds, max(report.noise_floor[1], LEAST_FLOOR))
    assert report.to_json()["noise_floor"] == {"1": report.noise_floor[1]}
    assert measure(folder, plugins, "quick", noise_floor=True).noise_floor == {}  # nobody to be told apart from


def test_a_failing_second_process_affects_no_subject(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "single", "slow", noise_floor=True, rounds=5)
    assert [outcome.status for outcome in report.outcomes] == ["measured", "measured"] and report.noise_floor == {}


def test_callers_run_concurrently(folder: Path, plugins: Plugins) -> None:
    report = measure(folder, plugins, "quick", callers=3, rounds=5)
    spans = sorted((float(line[2]), float(line[3])) for line in logged(folder) if line[1] == "called")
    together = sum(after[0] < before[1] for before, after in pairwise(spans))
    assert together > len(spans) / 2
    found = report.outcomes[0].measurements[0]
    assert report.callers == 3 and found.calls % 3 == 0
    assert found.images_per_second.value > 1 / found.call_seconds.mean()  # overlapping calls all count
    with pytest.raises(UsageError, match="callers of `0`"):
        measure(folder, plugins, "quick", callers=0)


def test_plots(folder: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "run.json").write_text(json.dumps({"schema": 1, "status": "finished", "metrics": {"accuracy": 0.9}}))
    report = measure(folder, plugins, "quick", "slow", batch_sizes=(1, 2))
    assert accuracy_of(folder, plugins) == 0.9 and accuracy_of(tmp_path / "nothing.onnx", plugins) is None
    draw(report, tmp_path / "plot.svg", plugins)
    text = (tmp_path / "plot.svg").read_text()
    assert text.startswith("<?xml") and text.count('<g id="axes_') == 2
    with pytest.raises(UsageError, match=r"plot\.txt` does not end"):
        check_plot(tmp_path / "plot.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ZooError, match="matplotlib is not installed"):
        check_plot(tmp_path / "plot.svg")
