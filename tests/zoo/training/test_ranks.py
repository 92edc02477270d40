"""Several ranks train what one process trains in as many parts, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock, Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import rank_worker
import torch
from messages import refused
from tests_support import TINY
from torch import nn
from torch.nn import functional

from zoo import Experiment, Plugins, Run, UsageError, ZooError, train
from zoo.progress import Silent
from zoo.system.processors import THREADS
from zoo.system.ranks import ALONE, LAUNCHED, Ranks, leads, share_processors
from zoo.training.cooperation import ranks_text, tell_ranks, times_of_parts
from zoo.training.final_run import Earlier
from zoo.training.part_gradients import gradients_of_ranks
from zoo.training.running_statistics import RunningStatistics
from zoo.training.step import cuts_of, is_out_of_memory
from zoo_cli.main import run as run_program


def words_of(experiment: Experiment, out: Path) -> list[str]:
    """The words of `zoo train` for an experiment."""
    words = ["train", "--out", str(out)]
    for name, value in experiment.to_json().items():
        if value != getattr(Experiment, name, None) and value != []:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def command(words: Sequence[str], size: int) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*run, "--nproc-per-node", str(size), rank_worker.__file__, *words]


def environment(**more: str) -> dict[str, str]:
    here = {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", THREADS: "1", **more}
    return os.environ | here | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(words: Sequence[str], size: int, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(words, size), env=environment(**more), capture_output=True, text=True, timeout=300, check=False
    )


def asked(data: Path, strategy: str, **settings: Any) -> Experiment:
    base = replace(TINY, data=str(data), precision="fp32", dropout=0.3)
    return replace(base, **{"strategy": strategy, "epochs": 2, **settings})


def digest(folder: Path) -> Any:
    return Run.open(folder).record["weights_sha256"]


def check_equal(experiment: Experiment, size: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    done = start(words_of(experiment, tmp_path / "ranks"), size)
    assert done.returncode == 0, done.stderr
    solved = experiment.epochs is None
    one = replace(experiment, accumulate=1 if solved else experiment.accumulate * size)
    train(one, out=tmp_path / "one")
    assert digest(tmp_path / "ranks") == digest(tmp_path / "one")
    record = Run.open(tmp_path / "ranks").record
    assert record["ranks"] == {"count": size, "exact": True} and record["experiment"]["accumulate"] == one.accumulate
    return done


def test_two_ranks_equal_one_process_in_two_parts(three_splits: Path, tmp_path: Path) -> None:
    """Average, mixing, dropout, early stopping and norms that train; batches of 8, the last one of 3 images."""
    experiment = asked(
        three_splits, "full,ema=0.9,mixup=0.4", epochs=3, early_stopping=1, norm="train", batch_size=7, fraction=0.95
    )
    done = check_equal(experiment, 2, tmp_path)
    assert done.stderr.count("val accuracy") == 1 and done.stdout == f"{tmp_path / 'ranks'}\n"
    assert "2 ranks" in done.stderr


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "strategy",
    ["full", "partial:1", "lora", "linear+full", "full,feature-pull", "linear", "full,stochnorm=0.5,bss=0.1"],
)
@pytest.mark.slow
def test_every_strategy_is_that_of_one_process(strategy: str, size: int, three_splits: Path, tmp_path: Path) -> None:
    if strategy == "full,feature-pull":
        strategy = "delta"
    experiment = asked(three_splits, strategy, epochs=None if strategy == "linear" else 2)
    check_equal(experiment if strategy != "linear" else replace(experiment, dropout=None), size, tmp_path)


@pytest.mark.slow
def test_all_reduce_is_close(three_splits: Path, tmp_path: Path) -> None:
    experiment = asked(three_splits, "full")
    done = start([*words_of(experiment, tmp_path / "ranks"), "--fast"], 4)
    assert done.returncode == 0, done.stderr
    one = train(replace(experiment, accumulate=4), out=tmp_path / "one")
    fast = Run.open(tmp_path / "ranks")
    assert fast.record["ranks"] == {"count": 4, "exact": False}
    for theirs, ours in zip(fast.history, one.history, strict=True):
        assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.slow
def test_a_rank_that_dies_ends_all_and_the_run_is_resumed(victim: int, three_splits: Path, tmp_path: Path) -> None:
    experiment = asked(three_splits, "full,ema=0.9,mixup=0.4", epochs=40, save_every=0.05)
    out = tmp_path / "ranks"
    group = subprocess.Popen(
        command(words_of(experiment, out), 2), env=environment(), stderr=subprocess.PIPE, text=True
    )
    while not (out / "checkpoint-previous.safetensors").is_file():
        assert group.poll() is None
        time.sleep(0.05)
    for process in psutil.Process(group.pid).children():
        if process.environ().get("RANK") == str(victim):
            process.send_signal(signal.SIGKILL)
    said = group.communicate(timeout=60)[1]
    assert group.returncode != 0 and said.count("\nError: ") == (victim == 1), said
    assert Run.open(out).status in ("failed", "interrupted", "running")
    shutil.copytree(out, tmp_path / "alone")
    resumed = start(["train", "--resume", str(out)], 2)
    assert resumed.returncode == 0, resumed.stderr
    assert run_program(["train", "--resume", str(tmp_path / "alone")]) == 0
    train(replace(experiment, accumulate=2), out=tmp_path / "one")
    assert digest(out) == digest(tmp_path / "one") == digest(tmp_path / "alone")


@pytest.mark.parametrize("what", ["torch", pytest.param("data", marks=pytest.mark.slow)])
def test_a_rank_with_other_data_or_versions_is_refused_by_name(
    what: str, three_splits: Path, two_splits: Path, tmp_path: Path
) -> None:
    done = start(
        words_of(asked(three_splits, "full"), tmp_path / "ranks"),
        2,
        RANK_WITH="torch" if what == "torch" else str(two_splits),
    )
    assert done.returncode != 0 and done.stderr.count("\nError: ") == 1, done.stderr
    assert "\nError: rank 1 does not have what rank 0 has: " in done.stderr
    assert ("torch is 1.0, on rank 0 2." if what == "torch" else "the data of `") in done.stderr
    assert not (tmp_path / "ranks").exists()


class Meeting:
    """Where ranks that are threads lay down what they have."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier, self.rows = Barrier(size, timeout=20), [None] * size


class ThreadRanks(Ranks):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Meeting, exact: bool) -> None:
        self.rank, self.size, self.exact, self._meeting = rank, meeting.size, exact, meeting

    def _all(self, value: Any) -> list[Any]:
        self._meeting.rows[self.rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.rows)
        self._meeting.barrier.wait()
        return found

    def tables(self, row: Sequence[float]) -> list[list[float]]:
        return self._all(list(row))

    def gather(self, flat: torch.Tensor) -> list[torch.Tensor]:
        return self._all(flat)

    def add_up(self, flat: torch.Tensor) -> None:
        flat.copy_(sum(one.clone() for one in self._all(flat.clone())))

    def take_over(self, tensors: Any, source: int = 0) -> None:
        for tensor in tensors:
            tensor.copy_(self._all(tensor.clone())[source])


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    model.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    return model.to(memory_format=torch.channels_last).train()


IMAGES = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
LABELS = torch.tensor([0, 1] * 5)


def part_step(model: nn.Module, parts: int, fails: bool = False) -> Any:
    def compute(part: int) -> tuple[float, int]:
        cut = cuts_of(10, parts)[part]
        loss = functional.cross_entropy(model(IMAGES[cut]), LABELS[cut], reduction="sum") / 10
        if fails:
            raise torch.OutOfMemoryError("out")
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), 1

    return compute


def as_threads(size: int, parts: int, exact: bool = True, failing: int = -1) -> list[Any]:
    """What each rank has at the end: loss, gradients and buffers, or the error."""
    meeting, found, lock = Meeting(size), [None] * size, Lock()
    models = [network() for _ in range(size)]

    def work(rank: int) -> None:
        model = models[rank]
        try:
            loss, _ = gradients_of_ranks(
                ThreadRanks(rank, meeting, exact),
                parts,
                part_step(model, parts, rank == failing),
                list(model.parameters()),
                RunningStatistics(model, kept=True),
                is_out_of_memory,
            )
            answer: Any = (loss, [one.grad for one in model.parameters()], list(model.buffers()))
        except torch.OutOfMemoryError:
            answer = list(model.buffers())
        with lock:
            found[rank] = answer

    threads = [Thread(target=work, args=(rank,)) for rank in range(size)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    return found


def by_one(parts: int) -> tuple[float, list[torch.Tensor | None], list[torch.Tensor]]:
    model, loss = network(), 0.0
    compute = part_step(model, parts)
    for part in range(parts):
        loss += compute(part)[0]
    return loss, [one.grad for one in model.parameters()], list(model.buffers())


def same(ours: Sequence[torch.Tensor | None], theirs: Sequence[torch.Tensor | None]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "parts"), [(2, 2), (3, 5), (4, 3), (2, 1), (3, 3)])
def test_gradients_and_statistics_of_ranks_are_those_of_one_process(size: int, parts: int) -> None:
    """Also where parts are no multiple of the ranks, and where a rank has no part at all."""
    loss, gradients, buffers = by_one(parts)
    for answer in as_threads(size, parts):
        assert answer[0] == loss and same(answer[1], gradients) and same(answer[2], buffers)
        assert [g.stride() for g in answer[1] if g is not None] == [g.stride() for g in gradients if g is not None]


def test_all_reduce_gives_the_sum_up_to_rounding() -> None:
    loss, gradients, buffers = by_one(5)
    for answer in as_threads(3, 5, exact=False):
        assert answer[0] == loss and same(answer[2], buffers)
        for ours, theirs in zip(answer[1], gradients, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or theirs is None or torch.allclose(ours, theirs, atol=1e-6)


def test_memory_that_runs_out_on_one_rank_is_told_to_all_and_leaves_no_trace() -> None:
    for buffers in as_threads(3, 3, failing=1):
        assert same(buffers, list(network().buffers()))


@pytest.mark.parametrize(("begun", "ranks", "text"), [
    ({"count": 2, "exact": True}, 1, "begun with 2 ranks, continued with 1: a batch still has 2 parts; the weights are "
     "the same"),
    ({"count": 2, "exact": True}, 3, "begun with 2 ranks, continued with 3: a batch still has 2 parts, so 1 of the "
     "ranks have nothing to do; the weights are the same"),
    ({"count": 2, "exact": False}, 1, "begun with 2 ranks, continued with 1: a batch still has 2 parts; gradients are "
     "added up in another order, so the weights differ by rounding"),
    ({"count": 2, "exact": True}, 2, None),
])  # fmt: skip
def test_other_ranks_than_a_run_began_with_are_told(begun: dict[str, Any], ranks: int, text: str | None) -> None:
    class Told(Silent):
        said: str | None = None

        def note(self, text: str) -> None:
            self.said = text

        warn = note

    told, here = Told(), Ranks()
    here.size = ranks
    tell_ranks(Run(Path("r"), {"ranks": begun, "experiment": replace(TINY, accumulate=2).to_json()}), here, told)
    assert told.said == text


@pytest.mark.parametrize(("parts", "ranks", "new", "final"), [(1, 2, 2, 2), (2, 2, 2, 1), (3, 2, 2, 1), (2, 3, 3, 3)])
def test_a_final_run_keeps_the_parts_of_its_run_where_they_are_enough(
    parts: int, ranks: int, new: int, final: int
) -> None:
    here, experiment = Ranks(), replace(TINY, accumulate=parts)
    here.size = ranks
    earlier = Earlier(
        run="r", id="i", epochs=(1,), temperature=1.0, reported_split="val", metrics={}, accuracy_interval_95=(0, 1)
    )
    assert times_of_parts(experiment, here, None) == new and times_of_parts(experiment, here, earlier) == final


@pytest.mark.parametrize(
    ("parts", "threads", "text"),
    [(2, 1, "2 ranks with 1 thread each: a batch has 1 part (`"), (4, 3, "2 ranks with 3 threads each: a batch has 1")],
)
def test_the_ranks_are_told_the_parts_that_a_batch_has(
    parts: int, threads: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    here = Ranks()
    here.size = 2
    job: Any = SimpleNamespace(
        context=SimpleNamespace(ranks=here),
        experiment=replace(TINY, accumulate=parts, batch_size=1),
        phases=SimpleNamespace(phases=[SimpleNamespace(solver=None)]),
    )
    assert ranks_text(job).startswith(text)


def test_torchruns_one_thread_becomes_a_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.system.ranks.usable_cpus", lambda: 6)
    monkeypatch.setattr("zoo.system.ranks.use_threads", lambda count: monkeypatch.setenv(THREADS, str(count)))
    monkeypatch.setenv(THREADS, "1")
    share_processors()
    assert os.environ[THREADS] == "1" and leads()
    monkeypatch.setenv(LAUNCHED, "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    share_processors()
    assert os.environ[THREADS] == "3" and not leads()


def test_other_commands_and_folds_are_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(["train", "--data", "x", "--backbone", "y", "--strategy", "full", "--fast"]) == 2
    assert "`--fast` is about several processes, and this is one" in capsys.readouterr().err
    monkeypatch.setenv(LAUNCHED, "x")
    monkeypatch.setenv("RANK", "0")
    assert run_program(["list"]) == 2
    assert "`zoo list` runs in one process, and torchrun has started this one" in capsys.readouterr().err
    several = Ranks()
    several.size = 2
    with pytest.raises(ZooError, match="`--folds` trains one network after another"):
        train(replace(TINY, folds=2), ranks=several)
    assert ALONE.size == 1 and ALONE.first(lambda: 3) == 3


def test_compiling_is_refused_under_torchrun(two_splits: Path, tmp_path: Path, plugins: Plugins) -> None:
    with refused(UsageError, "--compile", "torchrun"):
        train(
            replace(TINY, data=str(two_splits), compile=True),
            out=tmp_path / "run",
            plugins=plugins,
            ranks=ThreadRanks(0, Meeting(2), True),
        )
    assert not (tmp_path / "run").exists()
