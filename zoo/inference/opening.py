"""Opening a model: a run's folder or an exported file becomes a predictor."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError, ZooWarning
from zoo.exporter import Check, Exporter
from zoo.plugin import Plugins
from zoo.predictor import Predictor
from zoo.preprocess import Preprocess
from zoo.row import check_returned
from zoo.runs.run import RUN_FILE, Run
from zoo.runtime import DeviceName, Runtime
from zoo.target import load_target

# What every predictor has, whatever its class
PREDICTOR: dict[str, Any] = {
    "classes": tuple[str, ...],
    "preprocess": Preprocess,
    "device": str,
    "logits": Callable[..., Any],
}


def find_exporter(file: Path, plugins: Plugins) -> Exporter:
    """Find the exporter that reads a file, by the file's suffix.

    Raises:
        UsageError: there is no such file, or no exporter reads it.
    """
    if not file.exists():
        raise UsageError(f"there is no file `{file}`", hint="`zoo export RUN` makes one")
    for entry in plugins.exporters:
        if entry.value.suffix == file.suffix.lower():
            return entry.value
    suffixes = " ".join(entry.value.suffix for entry in plugins.exporters)
    raise UsageError(f"`{file}` is not an exported file", hint=f"known suffixes are {suffixes}")


def open_model(model: Path | str | Run, device: str, plugins: Plugins) -> tuple[Predictor, Run | None]:
    """Open a run (or its folder) or an exported file; returns its predictor, and the run that it belongs to, if any.

    An exported file belongs to the run in whose folder it lies. A `run.json` that this zoo cannot read is not that of
    the file's run: another program's, or one of a newer zoo. A warning says that it is passed over.

    Raises:
        UsageError: the path is neither a run nor an exported file.
        ZooError: the run has no weights, or the device is not available.
    """
    if isinstance(model, Run):
        return model.predictor(device, plugins), model
    if model == "" or is_run_folder(Path(model), plugins):
        run = Run.open(model)
        return run.predictor(device, plugins), run
    return open_predictor(model, device, plugins), run_of_file(Path(model))


def is_run_folder(path: Path, plugins: Plugins) -> bool:
    """Whether a path is that of a run's folder, and not of an exported file that is a folder."""
    if not path.is_dir():
        return False
    of_files = {entry.value.suffix for entry in plugins.exporters if entry.value.folder}
    return path.suffix.lower() not in of_files or (path / RUN_FILE).is_file()


def run_of_file(file: Path) -> Run | None:
    """The run in whose folder an exported file lies; None where there is none that can be read, see `open_model`."""
    beside = file.parent / RUN_FILE
    if not beside.is_file():
        return None
    try:
        return Run.open(beside.parent)
    except ZooError as error:
        warnings.warn(f"the file is opened without a run: {error.message}", ZooWarning, stacklevel=3)
        return None


def open_predictor(model: Path | str | Run, device: str, plugins: Plugins) -> Predictor:
    """Open a run (or its folder) or an exported file as `open_model` does, but ignore what lies beside a file.

    Raises:
        UsageError: the path is neither a run nor an exported file.
        ZooError: the run has no weights, or the device is not available.
    """
    if isinstance(model, Run):
        return model.predictor(device, plugins)
    if is_url(model):
        raise UsageError(f"`{model}` is a URL, and zoo downloads no models", hint="download it, and pass its path")
    path = Path(model)
    if model == "" or is_run_folder(path, plugins):
        return Run.open(model).predictor(device, plugins)
    if not path.exists():
        raise UsageError(
            f"there is no run or file `{path}`", hint="pass a folder that `zoo train` made, or an exported file"
        )
    return open_exported(find_exporter(path, plugins), path, device)


def open_exported(exporter: Exporter, file: Path, device: str) -> Predictor:
    """Open an exported file by its exporter.

    Raises:
        ZooError: it cannot be opened, or the exporter returns something other than a predictor.
    """
    predictor: Predictor = load_target(exporter.open)(file, device)
    check_returned(predictor, PREDICTOR, exporter.open, f"exporter `{exporter.name}`")
    return predictor


def open_on_runtime(runtime: Runtime, file: Path, device: str) -> Predictor:
    """Open an exported file by a runtime, on `auto` or one of the runtime's devices.

    Raises:
        UsageError: the runtime opens no files as predictors, or does not run on the device.
        ZooError: it cannot be opened, or the runtime returns something other than a predictor.
    """
    if runtime.open is None:
        raise UsageError(
            f"runtime `{runtime.name}` is for `zoo bench` alone, and cannot verify files",
            hint="leave out `--runtime` for the engine that the format is meant for",
        )
    kind = DeviceName.parse(device).kind
    if kind not in ("auto", *runtime.devices):
        raise UsageError(f"runtime `{runtime.name}` runs on {' '.join(runtime.devices)}, not on `{device}`")
    asked = runtime.devices[0] if kind == "auto" and len(runtime.devices) == 1 else device
    predictor: Predictor = load_target(runtime.open)(file, asked)
    check_returned(predictor, PREDICTOR, runtime.open, f"runtime `{runtime.name}`")
    return predictor


def checks_of(exporter: Exporter, file: Path, device: str) -> list[Check]:
    """What an exporter finds when it checks a file.

    Raises:
        ZooError: it cannot be read, or the exporter returns something other than checks.
    """
    found: list[Check] = load_target(exporter.verify)(file, device)
    check_returned(found, list[Check], exporter.verify, f"exporter `{exporter.name}`")
    return list(found)


def recorded_by(exporter: Exporter, file: Path) -> dict[str, Any]:
    """What a file records about itself.

    Raises:
        UsageError: files of this format cannot be inspected.
        ZooError: it cannot be read, or the exporter returns something other than a dict.
    """
    if exporter.inspect is None:
        raise UsageError(f"`{exporter.name}` files cannot be inspected", hint="`zoo verify` checks them")
    found: dict[str, Any] = load_target(exporter.inspect)(file)
    check_returned(found, dict, exporter.inspect, f"exporter `{exporter.name}`")
    return found


def is_url(text: object) -> bool:
    """Whether a text begins like a URL, such as `https://`."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None
