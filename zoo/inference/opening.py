"""Opening a model: a run's folder or an exported file becomes a predictor."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import UsageError
from zoo.exporter import Exporter
from zoo.plugin import Plugins
from zoo.predictor import Predictor
from zoo.runs.run import Run
from zoo.target import load_target


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

    An exported file belongs to the run in whose folder it lies.

    Raises:
        UsageError: the path is neither a run nor an exported file.
        ZooError: the run has no weights, or the device is not available.
    """
    if isinstance(model, Run):
        return model.predictor(device, plugins), model
    path = Path(model)
    if path.is_dir() or model == "":
        run = Run.open(model)
        return run.predictor(device, plugins), run
    if not path.exists():
        raise UsageError(
            f"there is no run or file `{path}`", hint="pass a folder that `zoo train` made, or an exported file"
        )
    predictor: Predictor = load_target(find_exporter(path, plugins).open)(path, device)
    beside = path.parent / "run.json"
    return predictor, Run.open(path.parent) if beside.is_file() else None
