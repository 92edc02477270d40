"""How many processors a process may use, and threads that the user asked for."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from messages import refused

from zoo import Plugins, Run, UsageError
from zoo.system import processors
from zoo.system.processors import asked_threads, usable_cpus
from zoo_cli.main import run

COMMANDS = ("train", "study", "evaluate", "predict", "embed", "similar", "label-next", "doctor", "advise")
TWO, ONE, SWAPPED = "0::/outer/inner\n", "4:memory:/outer\n3:cpu,cpuacct:/outer/inner\n0::/\n", "4:cpuacct,cpu:/outer\n"


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight processors, with its control groups in a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "CGROUPS", tmp_path)
    for folder in ("outer/inner", "cpu,cpuacct/outer/inner"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (None, {}, 8),  # no control groups
        (TWO, {}, 8),
        (TWO, {"outer/inner/cpu.max": "max 100000\n"}, 8),
        (TWO, {"outer/inner/cpu.max": "200000 100000\n"}, 2),
        (TWO, {"outer/inner/cpu.max": "150000 100000\n"}, 2),
        (TWO, {"outer/inner/cpu.max": "50000 100000\n"}, 1),
        (TWO, {"outer/inner/cpu.max": "max 100000\n", "outer/cpu.max": "300000 100000\n"}, 3),
        (TWO, {"cpu.max": "9900000 100000\n"}, 8),
        (TWO, {"outer/inner/cpu.max": "nonsense"}, 8),
        (
            ONE,
            {
                "cpu,cpuacct/outer/inner/cpu.cfs_quota_us": "400000\n",
                "cpu,cpuacct/outer/inner/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            ONE,
            {"cpu,cpuacct/outer/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/outer/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        (SWAPPED, {"cpu/outer/cpu.cfs_quota_us": "300000\n", "cpu/outer/cpu.cfs_period_us": "100000\n"}, 3),
        ("\n", {}, 8),
        ("nonsense\n" + TWO, {"outer/inner/cpu.max": "200000 100000\n"}, 2),
        ("0::/outer/inner/caf\udce9\n", {"outer/inner/cpu.max": "200000 100000\n"}, 2),  # a name in Latin-1
        (TWO, {"outer/inner/cpu.max": "inf 100000\n"}, 8),
        (TWO, {"outer/inner/cpu.max": "100000 0\n"}, 8),
    ],
)
def test_quotas_of_containers_count(eight: Path, membership: str | None, files: dict[str, str], expected: int) -> None:
    if membership is not None:
        (eight / "cgroup").write_bytes(os.fsencode(membership))
    for name, text in files.items():
        (eight / name).parent.mkdir(parents=True, exist_ok=True)
        (eight / name).write_text(text)
    assert usable_cpus() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("3", 3),
        ("4,2", 4),
        (" 2 ", 2),
        ("0", None),
        ("00", None),
        ("many", None),
        ("0004096", 4096),
    ],
)
def test_threads_are_what_openmp_reads(monkeypatch: pytest.MonkeyPatch, text: str | None, expected: int | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert asked_threads() == expected


@pytest.mark.parametrize("text", ["4097", "99999999999,2", "9" * 5000])
def test_more_threads_than_a_run_can_record_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with refused(UsageError, "OMP_NUM_THREADS", "4,096"):
        asked_threads()


def test_training_computes_with_the_threads_asked_for(two_splits: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(two_splits), "--backbone", "timm/test_resnet", "--strategy", "linear"]
    words += ["--weights", "none", "--image-size", "32", "--device", "cpu", "--threads", "3"]
    command = [sys.executable, "-m", "zoo_cli.main", *words, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    assert Run.open(tmp_path / "run").record["device"]["threads"] == 3


def test_a_quota_limits_torch_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from zoo.system import device

    chosen: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(device, "usable_cpus", lambda: 2)
    monkeypatch.setattr(device, "fit_threads", functools.cache(device.fit_threads.__wrapped__))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for _ in range(2):  # once in a process
        device.choose_device("cpu")
    assert chosen == [2]
    device.fit_threads.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    device.choose_device("cpu")
    assert chosen == [2, 5]


def test_a_file_is_computed_with_the_threads_asked_for(
    monkeypatch: pytest.MonkeyPatch, exported_run: Path, plugins: Plugins
) -> None:
    from zoo_onnx.session import open_session

    file = str(exported_run / "model.onnx")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert open_session(file, "cpu", file).get_session_options().intra_op_num_threads == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert open_session(file, "cpu", file).get_session_options().intra_op_num_threads == 0  # its own choice
    monkeypatch.setattr("zoo_onnx.session.usable_cpus", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert open_session(file, "cpu", file).get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_are_an_option_where_much_is_computed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "--threads" in capsys.readouterr().out
    for count in ("0", "4097"):
        assert run([command, "--threads", count]) == 2
        assert "--threads" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_threads(
    exported_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processors, "use_threads", lambda count: None)  # they would stay with this process
    assert run(["train", "--resume", str(exported_run), "--threads", "2"]) == 2
    assert "`--threads` cannot be changed with `--resume`" in capsys.readouterr().err


def test_threads_reach_torch_and_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    processors.use_threads(3)
    assert chosen == [3] and os.environ["OMP_NUM_THREADS"] == "3"
