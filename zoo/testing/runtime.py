"""The laws of runtimes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.errors import ZooError, type_and_first_line
from zoo.exporter import ExportSpec
from zoo.latency.worker import make_batch
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.runtime import Input, Runtime, Workload
from zoo.system.fresh_import import frameworks_after
from zoo.system.worker_process import WorkerFailed, WorkerProcess
from zoo.target import load_target
from zoo.testing.exporter import SIZE, small_network
from zoo.testing.law import ROUNDING, NotChecked, Violation, require

WORKER = "zoo.testing.runtime_worker:RuntimeWorker"
BATCH = 3


def check_runtime(runtime: str, *, plugins: Plugins | None = None) -> None:
    """Check a runtime on a small network, in a process of its own, as `zoo bench` has it.

    It accepts runs, or the files of an exporter. `available` gives a reason or None for each of its devices, and
    imports no framework. Its session takes normalised pixels of the network's size and names its provider. A call
    leaves its input as it was, and gives the network's logits `(N, classes)`, the same at each call and by each caller,
    and for an image alone as in a batch.

    Args:
        runtime: Its name.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        NotChecked: it is not available here, or not on the CPU, or nothing can be made here that it accepts.
        UsageError: there is no such runtime.
    """
    plugins = plugins or Plugins()
    row = plugins.runtimes.find(runtime).value
    require(
        row.accepts == "run" or row.accepts in plugins.exporters,
        f"`{row.name}` accepts `{row.accepts}`, which is neither `run` nor the name of an exporter",
    )
    _check_available(row)
    if "cpu" not in row.devices:
        raise NotChecked(f"it runs on {' '.join(row.devices)}, and the CPU is where it would be checked")
    missing = load_target(row.available)("cpu")
    if missing is not None:
        raise NotChecked(f"it is not available here: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        target, model, size = _subject(row, plugins, Path(folder))
        _check_session(row, target, model, size)


def _check_available(row: Runtime) -> None:
    available = load_target(row.available)
    for device in row.devices:
        told = available(device)
        require(
            told is None or isinstance(told, str),
            f"`{row.name}`: `available` returns {told!r} for `{device}`",
            hint="return None if it can run there, else the reason why not",
        )
    name = row.available
    if not isinstance(name, str):
        name = f"{available.__module__}:{getattr(available, '__qualname__', '<lambda>')}"
    if "<" in name:  # a function inside another one, as in a test
        return
    frameworks = frameworks_after(name, row.devices[0], call=True)
    require(
        frameworks == [],
        f"`{row.name}`: `available` imports {' and '.join(frameworks)} in the main process",
        hint="ask `importlib.util.find_spec` whether a package is installed",
    )


def _subject(row: Runtime, plugins: Plugins, folder: Path) -> tuple[Path, nn.Module, tuple[int, int]]:
    """What the runtime loads, the network in it, and the height and width of its input."""
    if row.accepts == "run":
        return _small_run(plugins, folder)
    exporter = plugins.exporters.find(row.accepts).value
    model, preprocess = small_network(), Preprocess(resize=SIZE, crop=SIZE)
    file = folder / f"model{exporter.suffix}"
    spec = ExportSpec(
        model=model,
        preprocess=preprocess,
        classes=("a", "b", "c"),
        metadata={},
        file=file,
        preprocessing=exporter.preprocessing[0],
    )
    try:
        load_target(exporter.write)(spec)
    except (ZooError, ImportError) as error:
        why = error.message if isinstance(error, ZooError) else type_and_first_line(error)
        raise NotChecked(f"`{exporter.name}` writes no file here: {why}") from error
    return file, model, (SIZE, SIZE)


def _small_run(plugins: Plugins, folder: Path) -> tuple[Path, nn.Module, tuple[int, int]]:
    """A finished run on two images."""
    from PIL import Image

    from zoo.experiment import Experiment
    from zoo.progress import LogProgress
    from zoo.training.entry import train

    for split in ("train", "val"):
        for number, label in enumerate("abc"):
            place = folder / "photos" / split / label
            place.mkdir(parents=True)
            Image.new("RGB", (SIZE, SIZE), (80 * number, 90, 20)).save(place / f"{split}.png")
    experiment = Experiment(
        data=str(folder / "photos"),
        backbone="timm/test_resnet",
        strategy="full",
        weights="none",
        epochs=1,
        batch_size=4,
        image_size=SIZE,
        device="cpu",
        precision="fp32",
    )
    run = train(experiment, out=folder / "run", plugins=plugins, progress=LogProgress())
    return run.path, run.load_network().model.eval(), run.preprocess.input_size


def _check_session(row: Runtime, target: Path, model: nn.Module, size: tuple[int, int]) -> None:
    work = Workload(target=target, device="cpu", threads=1)
    with WorkerProcess(WORKER, threads=1) as worker:
        opened = _asked(
            row, "load", lambda: worker.ask("load", target=row.load, workload={**vars(work), "target": str(target)})
        )
        given = Input(dtype=opened["dtype"], shape=tuple(opened["shape"]), fixed_batch=opened["fixed_batch"])
        require(
            given.dtype == "float32" and given.shape == (3, *size),
            f"`{row.name}`: its session takes {given}, and the network takes float32 (N, 3, {size[0]}, {size[1]})",
        )
        require(opened["provider"].strip() != "", f"`{row.name}`: its session names no provider")
        count = given.fixed_batch or BATCH
        answer = _asked(row, "call", lambda: worker.ask("call", count=count))
        wanted = _logits(model, make_batch(given, count))
        _check_answers(row, answer, wanted)
        for place, logits in enumerate(answer["alone"]):
            _check_close(
                row, logits, answer["first"][place : place + 1], "logits of an image alone and in a batch differ"
            )


def _check_answers(row: Runtime, answer: dict[str, Any], wanted: npt.NDArray[np.float32]) -> None:
    require(
        answer["first"] is not None,
        f"`{row.name}`: a call returns a `{answer['returned']}`, which holds no array of logits",
        hint="return the outputs of the call: an array `(N, classes)`, or several of which it is the first",
    )
    require(not answer["changed"], f"`{row.name}`: a call changes its input")
    shape = np.shape(answer["first"])
    require(
        shape == wanted.shape, f"`{row.name}`: {len(wanted)} images give {shape}, and the network gives {wanted.shape}"
    )
    _check_close(row, answer["first"], wanted, "its logits differ from the network's")
    _check_close(row, answer["again"], answer["first"], "its logits differ from call to call")
    _check_close(row, answer["other"], answer["first"], "its logits differ from caller to caller")


def _check_close(row: Runtime, found: Any, wanted: Any, what: str) -> None:
    one, other = np.array(found, np.float32), np.array(wanted, np.float32)
    require(one.shape == other.shape, f"`{row.name}`: {what}: shapes {one.shape} and {other.shape}")
    apart = float(np.abs(one - other).max())
    require(apart <= ROUNDING * max(1.0, float(np.abs(other).max())), f"`{row.name}`: {what} by {apart:.2g}")


def _asked(row: Runtime, what: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except WorkerFailed as failure:
        raise Violation(f"`{row.name}`: its {what} fails: {failure.reason}", hint=failure.hint) from failure


@torch.no_grad()
def _logits(model: nn.Module, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = model(torch.from_numpy(batch)).numpy()
    return found
