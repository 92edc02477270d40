"""Report: a study or a run as one HTML file that loads nothing from elsewhere, with its figures as JSON and CSV."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.advice.track_record import ADVICE_FILE
from zoo.errors import UsageError, ZooError, counted
from zoo.evaluation.evaluation import Evaluation, defined_metrics
from zoo.evaluation.unknown_images import false_alarms_interval
from zoo.plugin import Plugins
from zoo.predictions import Predictions
from zoo.reports.gallery import gallery
from zoo.reports.generalization import gap
from zoo.reports.plots import (
    accuracy_against_latency,
    calibration,
    check_plots,
    depth_profile,
    fraction_curves,
    learning_curves,
)
from zoo.runs.looks import STUDY_FILE, TRIALS
from zoo.runs.run import RUN_FILE, Run
from zoo.runs.setting_differences import value_text
from zoo.storage.files import read_json, write_bytes, write_json
from zoo.storage.paths import output_path
from zoo.studies.learning_curve import points_by_images, where_transfer_pays
from zoo.studies.results import Results
from zoo.unknown import exceeds

if TYPE_CHECKING:
    pass

TEMPLATE = Path(__file__).with_name("report.html.j2")

# The loss that validation is scored by
CROSS_ENTROPY = "losses/cross-entropy"
CURVES = 8  # configurations in one plot
PAIRS = 8  # pairs of classes that are confused most
CELLS = 30  # most classes for which a confusion matrix is shown


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files of a report."""

    html: Path
    json: Path
    csv: Path

    def __fspath__(self) -> str:
        return str(self.html)


def report(
    of: Path | str | Run | Results,
    *,
    out: Path | str | None = None,
    photographs: bool = True,
    heat_maps: bool = False,
    plugins: Plugins | None = None,
) -> Report:
    """Write the report of a run or a study, with its figures as JSON and CSV beside it; an older report is replaced.

    Args:
        of: The run or the study, or its folder.
        out: The HTML file. None: `report.html` in the folder.
        photographs: Show the worst mistakes as small photographs. False: only their names.
        heat_maps: Show beside them which parts the wrong predictions rest on, by occlusion; the network is executed for
            it.
        plugins: Loaded plugins. None: they are loaded.

    Raises:
        UsageError: the folder is neither a run nor a study, `out` does not end in `.html`, or `heat_maps` are asked for
            without `photographs`.
        ZooError: the run, or every trial of the study, is unfinished, or a file cannot be written.
    """
    check_plots()
    if heat_maps and not photographs:
        raise UsageError("heat maps are of photographs", hint="leave out `--no-photographs` or `--heat-maps`")
    plugins = plugins or Plugins()
    if isinstance(of, (str, Path)):
        folder = Path(of)
        if (folder / STUDY_FILE).is_file():
            of = Results.open(folder)
        elif (folder / RUN_FILE).is_file():
            of = Run.open(folder)
        else:
            raise UsageError(f"`{folder}` is neither a run nor a study", hint="pass the folder that zoo made")
    target = output_path(out) if out is not None else of.path / "report.html"
    if target.suffix.lower() != ".html":
        raise UsageError(f"`{target}` does not end in `.html`", hint="pass `--out report.html`")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another `--out`")
    page, table = _study_page(of, plugins, heat_maps) if isinstance(of, Results) else _run_page(of, plugins, heat_maps)
    if not photographs:
        page["gallery"] = [{**one, "photograph": None, "heat_map": None} for one in page["gallery"]]
    found = Report(html=target, json=target.with_suffix(".json"), csv=target.with_suffix(".csv"))
    write_bytes(found.html, render(page).encode())
    write_json(found.json, {"schema": 1, **{key: value for key, value in page.items() if key not in _HTML_ONLY}})
    write_bytes(found.csv, table.encode())
    return found


# Parts of a page that are left out of the JSON
_HTML_ONLY = ("plots", "gallery")


def render(page: Mapping[str, Any]) -> str:
    """Fill the template with the values of a page."""
    from jinja2 import Environment, StrictUndefined, Undefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = lambda value: (
        "-" if value is None or isinstance(value, Undefined) else f"{value:.3f}"  # a metric that is not installed
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**page)


def study_page(results: Results, plugins: Plugins) -> str:
    """The report of a study's finished trials as HTML; nothing is written.

    Raises:
        ZooError: no trial is finished, or a file of the study is damaged.
    """
    return render(_study_page(results, plugins)[0])


def render_live(report: str, lines: Sequence[str], refresh: int | None, title: str) -> str:
    """A page that says how far a study is, above its report.

    Args:
        report: The report as HTML; empty: there is none yet.
        lines: How far the study is.
        refresh: Seconds after which a browser loads the page again. None: it does not.
        title: Title of the page where there is no report.
    """
    from markupsafe import escape

    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if not report:
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}<title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:0 auto;padding:1.2rem;"
            "overflow-wrap:anywhere}</style></head>"
            f"<body><h1>{escape(title)}</h1>{told}<p>No trial is finished yet.</p></body></html>"
        )
    found = report.replace("<head>", f"<head>{again}", 1)
    return found.replace("<main>", f'<main><section aria-label="progress">{told}</section>', 1)


def _run_page(run: Run, plugins: Plugins, heat_maps: bool = False) -> tuple[dict[str, Any], str]:
    """The page of a run, and its predictions as CSV.

    Raises:
        ZooError: the run is not finished.
    """
    if run.status != "finished":
        raise ZooError(
            f"run `{run.path}` is {run.status}, not finished", hint=f"`{_continuing_command(run.path)}` continues it"
        )
    history, record = run.history, run.record
    loss = record.get("loss", {}).get("name", CROSS_ENTROPY)
    trained, scored = ("", "") if loss == CROSS_ENTROPY else (f", {loss}", ", cross-entropy")
    curves = {
        f"train{trained}": [line["train_loss"] for line in history],
        f"validation{scored}": [line["choice_loss"] for line in history if "choice_loss" in line],
    }
    page = {
        "title": f"{record['backbone']} {record['strategy']}",
        "kind": "run",
        "verdict": _run_verdict(run),
        "notes": [],
        "board": None,
        "fractions": None,
        "mixed": None,
        "advice": None,
        "failures": [],
        "plots": {
            "latency": None,
            "fractions": None,
            "curves": learning_curves(curves),
            "depth": None,
            "similar": None,
        },
        "made": {
            "command": _command_of(run),
            "folder": run.path.name,
            "created": record.get("created"),
            "machine": record.get("machine") or record.get("device"),
            "versions": record.get("versions"),
            "settings": record["experiment"],
        },
        **_model_part(run, plugins, heat_maps),
    }
    return page, _predictions_csv(run.predictions())


def _continuing_command(run: Path) -> str:
    """The command that continues an unfinished run; for a trial, the one that continues its study."""
    of_study = run.resolve().parent.name == TRIALS and (run.resolve().parent.parent / STUDY_FILE).is_file()
    return f"zoo study {run.parent.parent}" if of_study else f"zoo train --resume {run}"


def _study_page(results: Results, plugins: Plugins, heat_maps: bool = False) -> tuple[dict[str, Any], str]:
    """The page of a study, and its leaderboard as CSV.

    Raises:
        ZooError: no trial is finished, or a file of the study is damaged.
    """
    board, table = results.compare(plugins)
    rows = board["rows"]
    left = int(results.record.get("trials", 0)) - len(results.outcomes)
    unfinished = (
        [f"{left} of {results.record['trials']} trials {'has' if left == 1 else 'have'} no result yet"]
        if left > 0
        else []
    )
    chosen = next(row for row in rows if row["cheapest"])
    curves: dict[str, list[float]] = {}
    for row in rows:
        history = results.run(results.first(row["way"])).history
        losses = [line["choice_loss"] for line in history if "choice_loss" in line]
        if len(losses) > 1 and len(curves) < CURVES:
            curves[_short(row["way"])] = losses
    advice_file = results.path / ADVICE_FILE
    advice = read_json(advice_file) if advice_file.is_file() else None
    try:
        profiles = {_short(name): one["stages"] for name, one in advice["backbones"].items()} if advice else {}
    except (KeyError, TypeError, AttributeError) as error:
        raise ZooError(
            f"`{advice_file}` is damaged", hint=f"`zoo advise --study {results.path}` writes it again"
        ) from error
    by_images, untrained = points_by_images(results, board)
    page = {
        "title": f"study of {Path(str(results.record['data_name']).rpartition(':')[2]).name}",
        "kind": "study",
        "verdict": _study_verdict(board, chosen),
        "notes": [
            *unfinished,
            *(note for note in results.record.get("notes", []) if len(rows) == 1 or note != board["too_few"]),
            *board["notes"],
            *where_transfer_pays(by_images, untrained),
        ],
        "board": board,
        "fractions": by_images if len(results.study.fractions) > 1 else None,
        "mixed": board.get("ensemble"),
        "advice": advice,
        "failures": [one.to_json() for one in results.outcomes if not one.finished],
        "plots": {
            "latency": accuracy_against_latency(rows),
            "curves": learning_curves(curves),
            "fractions": fraction_curves({_short(name): points for name, points in by_images.items()}),
            "depth": depth_profile(profiles, "accuracy", "accuracy of a linear probe"),
            "similar": depth_profile(profiles, "distance", "distance from the pretraining data"),
        },
        "made": {
            "command": _command_of_study(results),
            "folder": results.path.name,
            "created": results.record.get("created"),
            "machine": results.record.get("machine"),
            "versions": results.record.get("versions"),
            "settings": results.record["study"],
        },
        **_model_part(_shown_run(results, str(chosen["way"])), plugins, heat_maps),
    }
    return page, table.to_csv()


def _shown_run(results: Results, way: str) -> Run:
    """The run of a configuration that is shown: of folds, the final run if it was scored on the locked split."""
    first = results.first(way)
    final = results.locked_run(first)
    scored = final is not None and (final.path / "predictions-test.safetensors").is_file()
    return final if final is not None and scored else results.run(first)


def _model_part(run: Run, plugins: Plugins, heat_maps: bool) -> dict[str, Any]:
    """The part of a page about one run's predictions, on the locked split where it was evaluated there."""
    test = run.path / "predictions-test.safetensors"
    table = run.predictions("test") if test.is_file() else run.predictions()
    shown = Evaluation(model=str(run.path), data=run.data_name, device="", predictions=table, metrics={})
    confusion = shown.confusion()
    pairs = [
        {"shows": table.classes[row], "taken_for": table.classes[column], "count": int(confusion[row, column])}
        for row, column in zip(*np.nonzero(confusion))
        if row != column
    ]
    metrics, undefined = defined_metrics(table, plugins)
    return {
        "model": {
            "name": f"{run.record['backbone']} {run.record['strategy']}, seed {run.experiment.seed}",
            "split": table.split,
            "images": len(table),
            "metrics": metrics,
            "undefined": undefined,
            "gap": gap(run, table.split, metrics),
            "interval": list(shown.interval()),
            "per_class": shown.per_class(),
            "classes": list(table.classes),
            "confusion": confusion.tolist() if len(table.classes) <= CELLS else None,
            "pairs": sorted(pairs, key=lambda pair: -pair["count"])[:PAIRS],
            "looks": run.looks(table.split),
            **_unknown_part(run, table),
            **_parent_part(run),
        },
        "gallery": gallery(run, table, plugins, heat_maps=heat_maps),
        "calibration": calibration(table),
    }


def _unknown_part(run: Run, table: Predictions) -> dict[str, Any]:
    """What a report says of unknown images: the threshold, false alarms on the split, and what `--unknown` found."""
    threshold = run.record.get("unknown")
    if threshold is None or table.unknown is None:
        return {}
    alarms = {"share": float(exceeds(table.unknown).mean()), "interval_95": list(false_alarms_interval(table))}
    scored = [line for line in run.looks_at_unknown() if line["split"] == table.split]
    return {"unknown": {"threshold": threshold, "false_alarms": alarms, "scored": scored}}


def _parent_part(run: Run) -> dict[str, Any]:
    """What a report says of the run that a run goes on from, and of what was forgotten, where that was measured."""
    before = run.record.get("from")
    return {} if before is None else {"from": before, "forgetting": run.record.get("forgetting")}


def _run_verdict(run: Run) -> str:
    interval = run.record.get("accuracy_interval_95") or [None, None]
    accuracy = run.metrics.get("accuracy")
    figure = "-" if accuracy is None else f"{accuracy:.3f}"  # a metric that failed
    return f"accuracy {figure} on `{run.record['reported_split']}` (95 % {interval[0]:.3f} to {interval[1]:.3f})"


def _study_verdict(board: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    count, rows, name = len(board["winners"]), len(board["rows"]), chosen["way"]
    data = f"on {counted(board['rows'][0]['images'], 'photograph')} of {board['split']}"
    if rows == 1:
        text = f"Only one configuration has finished trials: {name}, {data}."
    elif count == 1:
        text = f"{name} is the only winner: each other configuration is significantly worse than another, {data}."
    else:
        text = (
            f"{count} of {rows} configurations are winners: none is significantly worse than another, {data}. "
            f"{_untold(board)} The cheapest of them is {name}."
        )
    caution = board["comparison"].get("caution") if rows > 1 else None
    if caution:
        text += f" {caution[0].upper()}{caution[1:]}."
    if board["too_few"] and rows > 1:
        text += f" But {board['too_few']}."
    if chosen["test"]:
        low, high = chosen["test"]["interval"]
        accuracy = chosen["test"]["accuracy"]
        text += f" Its accuracy on the locked split is {accuracy:.3f} (95 % {low:.3f} to {high:.3f})."
    return text


def _untold(board: Mapping[str, Any]) -> str:
    """What could not be told of the winners: which is the most accurate, and what it would take."""
    first, *others = board["winners"]
    pairs = [
        one
        for one in board["comparison"]["pairs"]
        if one["better"] == first and one["worse"] in others and one["needed"]
    ]
    if not pairs:
        return "Which of them is the most accurate could not be told: they are equally accurate here."
    pair = min(pairs, key=lambda one: (one["needed"], one["worse"]))
    return (
        f"Which of them is the most accurate could not be told: the clearest difference, {pair['difference']:.3f} "
        f"between {first} and {pair['worse']}, would take about {counted(pair['needed'], 'photograph')} to show."
    )


def _short(name: str) -> str:
    """The name of a configuration or a backbone, without its provider."""
    return name.partition("/")[2] or name


def _command_of(run: Run) -> str:
    """The command that trains the same run."""
    from zoo.experiment import Experiment

    words = ["zoo", "train"]
    for name, field in Experiment.__dataclass_fields__.items():
        value = getattr(run.experiment, name)
        if value != field.default and value is not None:
            words += _option(name, value)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    """A setting as it is typed: `--levels 0 4095`."""
    from zoo.experiment import option_of

    text = value_text(name, value)
    values = text.split() if isinstance(value, (list, tuple)) else [text]
    return [option_of(name), *([] if value is True else values)]


def _command_of_study(results: Results) -> str:
    """The command that begins the same study."""

    asked = results.study
    words = ["zoo", "study", "--data", asked.data]
    for option, values in (
        ("backbone", asked.backbones),
        ("strategy", asked.strategies),
        ("seed", asked.seeds),
        ("fraction", asked.fractions if asked.fractions != (1.0,) else ()),
        ("license", asked.licenses),
    ):
        words += [word for value in values for word in (f"--{option}", str(value))]
    for backbone, strategy in asked.also:
        words += ["--also", backbone, strategy]
    if asked.max_latency is not None:
        words += ["--max-latency", f"{asked.max_latency * 1000:g}ms"]
    if asked.max_size is not None:
        words += ["--max-size", str(asked.max_size)]
    if asked.search:
        words += ["--search", str(asked.search)]
    words += [] if asked.test else ["--no-test"]
    for name, value in asked.settings.items():
        words += _option(name, value)
    return shlex.join(words)


def _predictions_csv(table: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photograph", "shows", "predicted", *table.classes])
    for index, name in enumerate(table.ids):
        shares = [f"{value:.6f}" for value in table.probabilities[index]]
        writer.writerow([name, table.classes[table.labels[index]], table.classes[table.predicted[index]], *shares])
    return text.getvalue()
