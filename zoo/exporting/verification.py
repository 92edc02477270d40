"""Verification of an exported file: by itself, and against its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, ZooError, counted
from zoo.exporter import Check, Exporter
from zoo.exporting.golden import Golden, check_golden
from zoo.exporting.parity import compare
from zoo.exporting.views import over_views, views_of
from zoo.inference.opening import checks_of, find_exporter, open_exported, open_on_runtime, recorded_by
from zoo.latency.measurement import reason_unavailable
from zoo.predictor import Predictor, UnknownPredictor
from zoo.row import check_returned
from zoo.runs.run import Run
from zoo.runtime import Runtime
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins


def verify(
    file: Path | str,
    *,
    data: str | None = None,
    split: str | None = None,
    device: str = "auto",
    runtime: str | None = None,
    plugins: Plugins | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[Check]:
    """Check an exported file: its integrity and its golden inputs; with `data`, also its predictions against its run's.

    The run is the one whose folder contains the file. The predictions of a final run are made anew: those in its folder
    may be of the run that its figures are of.

    Args:
        file: The exported file.
        data: Images to compare predictions on: a folder, or `NAME:ARGUMENT` of a dataset. None: none are compared.
        split: Split of `data`. None: the one that the run reports, or the data of a final run.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        runtime: Name of a runtime that must give the same predictions, too: of the golden inputs, and of the images of
            `data`. None: the engine that the format is meant for, alone.
        plugins: Loaded plugins. None: they are loaded.
        advance: Called with the numbers of images that are done and that there are.

    Raises:
        UsageError: the file or its format is unknown, the runtime is unknown or not for such files, or with `data` the
            file is not in its run's folder.
        ZooError: the file cannot be read at all, the runtime is absent, or the images are not those of the run.
    """
    from zoo.data.division import divided_like
    from zoo.evaluation.scoring import evaluate_opened, score_again
    from zoo.plugin import Plugins

    plugins = plugins or Plugins()
    path = Path(file)
    exporter = find_exporter(path, plugins)
    engine = None if runtime is None else _runtime_for(runtime, exporter, path, plugins)
    checks = checks_of(exporter, path, device if engine is None else exporter.devices[0])
    predictor: Predictor | None = None
    if engine is not None and all(check.passed for check in checks):
        predictor = open_on_runtime(engine, path, device)
        checks.append(_golden_on(engine, predictor, exporter, path))
    if data is None:
        if split is not None:
            raise UsageError("`--split` needs `--data`", hint="pass both, or neither")
        return checks
    skipped = next((check for check in checks if check.skipped), None)
    if not all(check.passed or check.skipped for check in checks):
        return [*checks, Check(name="photographs", passed=False, detail="not compared: the file failed other checks")]
    if skipped is not None:
        return [*checks, replace(skipped, name="photographs")]
    run = Run.open(path.parent) if (path.parent / "run.json").is_file() else None
    if run is None:
        raise UsageError(
            f"`{path}` is not in its run's folder, so there is no run to compare its predictions with",
            hint=f"`zoo evaluate {path} --data {data}` evaluates the file alone",
        )
    # of a final run, `data` may be of any split: only what divides the data themselves is the run's
    data = divided_like(run.experiment.data, data, words=not run.is_final)
    views = None if exporter.inspect is None else views_of(recorded_by(exporter, path))
    again = run.is_final or views is not None
    ours = score_again(over_views(run, views), data, split, plugins) if again else None
    ours_table = run.predictions(split) if ours is None else ours.predictions
    theirs = evaluate_opened(
        predictor or open_exported(exporter, path, device),
        path,
        data=data,
        split=ours_table.split,
        split_seed=run.experiment.split_seed,
        plugins=plugins,
        advance=advance,
    )
    if theirs.changed:
        raise ZooError(
            f"{counted(theirs.changed, 'photograph')} of `{data}` changed since the run was trained and evaluated, so"
            " predictions cannot be compared",
            hint="pass the run's own photographs",
        )
    plain: dict[str, Any] = {"name": "fp32"}
    made = plain if exporter.inspect is None else recorded_by(exporter, path).get("precision")
    if not isinstance(made, dict) or not isinstance(made.get("name"), str):
        raise ZooError(
            f"`inspect` of exporter `{exporter.name}` gives no `precision` with a `name` for `{path}`",
            hint="the plugin must be mended; `zoo plugins` names its distribution",
        )
    parity = compare(ours_table, theirs.predictions, precision=made["name"], max_drop=made.get("max_drop", 0.0))
    detail = str(parity) + "".join(f"\n  {flip}" for flip in parity.flips[:10])
    where = "" if engine is None else f" on {engine.name}"
    return [*checks, Check(name=f"photographs{where}", passed=parity.passed, detail=detail)]


def _runtime_for(name: str, exporter: Exporter, file: Path, plugins: Plugins) -> Runtime:
    """The runtime of a name, which can execute files of a format and check them.

    Raises:
        UsageError: there is none, or it cannot.
        ZooError: it is not available here.
    """
    runtime: Runtime = plugins.runtimes.find(name).value
    able = [entry.name for entry in plugins.runtimes if entry.value.accepts == exporter.name and entry.value.open]
    if exporter.golden is None or runtime.accepts != exporter.name or runtime.open is None:
        raise UsageError(
            f"runtime `{runtime.name}` cannot check `{file}`, a file of format `{exporter.name}`",
            hint=f"those that can are {' '.join(able)}" if able and exporter.golden else "leave out `--runtime`",
        )
    reason = reason_unavailable(runtime, runtime.devices[0])
    if reason is not None:
        raise ZooError(f"runtime `{runtime.name}` is not available: {reason}")
    return runtime


def _golden_on(runtime: Runtime, predictor: Predictor, exporter: Exporter, file: Path) -> Check:
    """Check that a runtime gives the golden logits that a file records."""
    assert exporter.golden is not None
    golden: Golden = load_target(exporter.golden)(file)
    check_returned(golden, Golden, exporter.golden, f"exporter `{exporter.name}`")
    name = f"golden inputs on {runtime.name}"
    try:
        found = check_golden(
            golden,
            predictor.classes,
            predictor.answers if isinstance(predictor, UnknownPredictor) else predictor.logits,
        )
    except ZooError as error:
        return Check(name=name, passed=False, detail=error.message)
    return replace(found, name=name, detail=f"{found.detail}, by {predictor.device}")


def inspect(file: Path | str, *, plugins: Plugins | None = None) -> dict[str, Any]:
    """The metadata of an exported file, as JSON values; `verify` checks whether the file matches them.

    Raises:
        UsageError: the file or its format is unknown, or files of this format cannot be inspected.
        ZooError: the file cannot be read.
    """
    from zoo.plugin import Plugins

    path = Path(file)
    return recorded_by(find_exporter(path, plugins or Plugins()), path)
