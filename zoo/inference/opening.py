"""Opening a model: a run's folder, or an exported file by its suffix, as a predictor."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import UsageError
from zoo.exporter import Exporter
from zoo.plugin import Plugins
from zoo.predictor import Predictor
from zoo.runs.run import Run
from zoo.target import load_target


def find_exporter(file: Path, plugins: Plugins) -> Exporter:
    """The exporter that reads a file, by its suffix.

    Raises:
        UsageError: none does, or there is no such file.
    """
    if not file.exists():
        raise UsageError(f"there is no file `{file}`", hint="`zoo export RUN` makes one")
    for entry in plugins.exporters:
        if entry.value.suffix == file.suffix.lower():
            return entry.value
    suffixes = " ".join(entry.value.suffix for entry in plugins.exporters)
    raise UsageError(f"`{file}` is no exported file", hint=f"known suffixes are {suffixes}")


def open_model(model: Path | str | Run, device: str, plugins: Plugins) -> tuple[Predictor, Run | None]:
    """A predictor for a run (its folder, or opened) or for an exported file; with the run it belongs to, if any.

    Raises:
        UsageError: the path is neither.
    """
    if isinstance(model, Run):
        return model.predictor(device, plugins), model
    path = Path(model)
    if path.is_dir() or model == "":
        run = Run.open(model)
        return run.predictor(device, plugins), run
    if not path.exists():
        raise UsageError(f"there is no run or file `{path}`", hint="a run is a folder that `zoo train` made")
    predictor: Predictor = load_target(find_exporter(path, plugins).open)(path, device)
    beside = path.parent / "run.json"
    return predictor, Run.open(path.parent) if beside.is_file() else None
