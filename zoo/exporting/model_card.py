"""Model card: what a run is, learnt and scored, as Markdown with the metadata that model hubs read.

Mitchell et al. 2019, "Model cards for model reporting". The metadata are those that Hugging Face documents
(https://huggingface.co/docs/hub/model-cards); saved as `README.md`, a card is the page of a model there. It names no
file and no folder of the machine that made the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config.references import with_short_teachers
from zoo.errors import UsageError, ZooError, counted
from zoo.evaluation.evaluation import Evaluation
from zoo.evaluation.statistics import grouped_interval, wilson_interval
from zoo.experiment import Experiment
from zoo.predictions import Predictions
from zoo.runs.run import Run
from zoo.runs.run_folder import check_not_own
from zoo.storage.files import json_text, write_bytes
from zoo.storage.paths import output_path

# Licences that Hugging Face knows by these names, of those that weights come with; others are `other`, with their name
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "openrail", "unknown"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
# Metrics of the card's metadata: their names there, and their arguments
HUB_METRICS = {
    "accuracy": ("accuracy", None),
    "f1_macro": ("f1", {"average": "macro"}),
    "roc_auc_macro": ("roc_auc", {"average": "macro"}),
    "mcc": ("matthews_correlation", None),
}
SHOWN = {
    "accuracy": "Accuracy",
    "recall_macro": "Recall, mean over classes (balanced accuracy)",
    "f1_macro": "F1, mean over classes",
    "top5": "Top-5 accuracy",
    "roc_auc_macro": "Area under the ROC curve, mean over classes",
    "pr_auc_macro": "Average precision, mean over classes",
    "kappa": "Cohen's kappa",
    "mcc": "Matthews correlation",
    "loss": "Log-loss (nats)",
    "ece": "Calibration error",
}
PATHS = ("data", "weights", "exclude")  # settings that may hold paths
MOST_CLASSES = 200  # rows of the table by class
FAULTS = (
    ("leaks", "image is in two roles or has two labels", "images are in two roles or have two labels"),
    ("shared_groups", "group of images is in two splits", "groups of images are in two splits"),
)
ROLES = {"fit": "trained on", "choose": "chosen on", "reported": "reported"}


def card(run: Run | Path | str) -> str:
    """The model card of a finished run, as Markdown with YAML metadata.

    Args:
        run: A run, or its folder.

    Raises:
        UsageError: the folder is not a run.
        ZooError: the run is not finished.
    """
    run = Run.open(run)
    if run.status != "finished":
        raise ZooError(
            f"run `{run.path}` is {run.status}, not finished", hint=f"`zoo train --resume {run.path}` continues it"
        )
    return _card(run, _predictions(run))


def card_of_file(run: Run, table: Predictions, figures: Mapping[str, Any]) -> str:
    """The model card of a file whose predictions are not those of its run.

    Args:
        run: The run that it is of.
        table: Predictions of the file.
        figures: Keys of a run's record that `table` changes: `metrics`, `undefined`, `accuracy_interval_95`.
    """
    return _card(Run(run.path, {**run.record, **figures}), table)


def _card(run: Run, table: Predictions | None) -> str:
    parts = [
        _metadata(run),
        _summary(run),
        _use(run),
        _data(run),
        _figures(run, table),
        _settings(run),
        _limits(run, table),
        _licence(run),
    ]
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    return text.encode(errors="replace").decode()  # a name of a file may hold bytes that are not UTF-8


def write_card(run: Run | Path | str, out: Path | str, *, force: bool = False) -> Path:
    """Write the model card of a run to a file, such as the `README.md` of a repository; returns its path.

    Raises:
        UsageError: the folder is not a run, the file exists and `force` is not given, or belongs to a run; or its
            folder does not exist.
        ZooError: the run is not finished, or the file cannot be written.
    """
    target = output_path(out)
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder", hint=f"pass the name of a file: `--out {target / 'README.md'}`")
    check_not_own(target)
    if target.exists() and not force:
        raise UsageError(f"`{target}` exists", hint="pass another `--out`, or `--force` to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another `--out`")
    write_bytes(target, card(run).encode())
    return target


def _metadata(run: Run) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    identifier, name = _license_of(run)
    data, split = _data_name(run), str(run.record.get("reported_split"))
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=re.sub(r"[^\w.-]+", "-", data).strip("-") or "images",
            dataset_name=data,
            dataset_split=split,
            metric_type=kind,
            metric_name=SHOWN[metric],
            metric_value=round(float(value), 6),
            metric_args=arguments,
        )
        for metric, (kind, arguments) in HUB_METRICS.items()
        if (value := run.metrics.get(metric)) is not None
    ]
    source = str((run.record.get("weights") or {}).get("source") or "")
    found = ModelCardData(
        license=identifier,
        license_name=name,
        library_name="backbone-zoo",
        pipeline_tag="image-classification",
        tags=["image-classification", "transfer-learning", "backbone-zoo", "onnx"],
        base_model=source if re.fullmatch(r"timm/[\w.-]+", source) else None,
        metrics=[metric for metric, _ in HUB_METRICS.values()] if results else None,
        model_name=_title(run) if results else None,
        eval_results=results or None,
    )
    return f"---\n{found.to_yaml().strip()}\n---"


def _license_of(run: Run) -> tuple[str | None, str | None]:
    """Identifier and name of the licence of the weights that training started from; None where there are none."""
    license = str((run.record.get("weights") or {}).get("license") or run.record.get("license") or "unknown")
    if license == "none":
        return None, None
    return (license.lower(), None) if license.lower() in LICENSES else ("other", license)


def _title(run: Run) -> str:
    return f"{str(run.record.get('backbone')).rpartition('/')[2]} for {_data_name(run)}"


def _data_name(run: Run) -> str:
    return Path(run.data_name.rpartition(":")[2]).name or "images"


def _summary(run: Run) -> str:
    classes, interval = run.classes, run.record.get("accuracy_interval_95")
    accuracy = run.metrics.get("accuracy")
    said = ""
    if accuracy is not None and interval:
        said = (
            f" Its accuracy on `{run.record.get('reported_split')}` is **{accuracy:.3f}** "
            f"(95 % interval {interval[0]:.3f} to {interval[1]:.3f})."
        )
    strategy = with_short_teachers(str(run.record.get("strategy")))
    made = "" if run.combined is None else f" It is {run.in_words}."
    return (
        f"# {_text(_title(run))}\n\nAn image classifier for {counted(len(classes), 'class', 'classes')}: the backbone "
        f"`{run.record.get('backbone')}`, fine-tuned by the strategy `{strategy}`.{made}{said}"
    )


def _use(run: Run) -> str:
    shape = "one probability for each class, in the order of the table below"
    temperature = run.record.get("temperature") or {}
    calibrated = "Probabilities are not calibrated."
    if temperature.get("fitted_on") is not None:
        calibrated = f"Probabilities are calibrated on held-out images, temperature {float(temperature['value']):.3g}."
    return f"""## Use

```sh
zoo predict model.onnx photograph.jpg
```

`zoo export` writes `model.onnx`, which prepares images itself: it takes `(N, H, W, 3)` uint8, RGB and upright, and
returns {shape}. {calibrated}"""


def _data(run: Run) -> str:
    rows = [
        (what, f"{record['images']:,}", f"`{str(record['sha256'])[:16]}`")
        for role, what in ROLES.items()
        if isinstance(record := (run.record.get("data") or {}).get(role), dict)
    ]
    lines = [f"## Data\n\n`{_code(_data_name(run))}`, split with seed {run.experiment.split_seed}."]
    if rows:
        lines.append(_table(("images", "number", "SHA-256 of their contents"), rows))
    left_out = (
        ("could not be read", len(run.record.get("bad_images") or ())),
        ("are used though something is wrong with them", len(run.record.get("doubtful_images") or ())),
        ("were left out by a list", len((run.record.get("exclude") or {}).get("images", ()))),
    )
    lines += [f"{counted(number, 'image')} {what}." for what, number in left_out if number]
    return "\n\n".join(lines)


def _figures(run: Run, table: Predictions | None) -> str:
    undefined = run.record.get("undefined") or {}
    rows = []
    for name, shown in SHOWN.items():
        if name not in run.metrics:
            continue
        value, interval = run.metrics[name], run.record.get("accuracy_interval_95")
        why = f"undefined: {undefined[name]}" if name in undefined else "-"
        extra = f" ({interval[0]:.3f} to {interval[1]:.3f})" if name == "accuracy" and interval else ""
        rows.append((shown, why if value is None else f"{value:.4f}{extra}"))
    lines = [f"## Figures\n\nOn `{run.record.get('reported_split')}`, which was not trained on; intervals are of 95 %."]
    if rows:
        lines.append(_table(("figure", "value"), rows))
    if table is not None:
        lines.append(_by_class(run, table))
    else:
        lines.append("Classes: " + ", ".join(_text(name) for name in run.classes) + ".")
    return "\n\n".join(lines)


def _by_class(run: Run, table: Predictions) -> str:
    evaluation = Evaluation(model="", data="", device="", predictions=table, metrics={})
    rows = []
    for index, row in enumerate(evaluation.per_class()[:MOST_CLASSES]):
        among = table.labels == index
        right = table.correct[among]
        recall = "-"
        if len(right):
            groups = table.group_numbers
            low, high = (
                wilson_interval(int(right.sum()), len(right))
                if groups is None
                else grouped_interval(right, groups[among])
            )
            recall = f"{row['recall']:.3f} ({low:.3f} to {high:.3f})"
        area = "-" if row["roc_auc"] is None else f"{row['roc_auc']:.3f}"
        rows.append((_text(row["class"]), str(row["images"]), f"{row['precision']:.3f}", recall, area))
    text = _table(("class", "images", "precision", "recall", "ROC AUC"), rows)
    more = len(table.classes) - MOST_CLASSES
    return text if more <= 0 else f"{text}\n\nAnd {counted(more, 'class', 'classes')} more."


def _predictions(run: Run) -> Predictions | None:
    """The stored predictions of the reported split; None where there are none, as those of a final run."""
    try:
        return run.predictions()
    except ZooError:
        return None


def _settings(run: Run) -> str:
    asked = run.experiment
    rows = []
    for field in fields(Experiment):
        value = getattr(asked, field.name)
        if value == field.default and field.name not in ("seed", "split_seed"):
            continue
        if field.name in PATHS and isinstance(value, str):
            value = _data_name(run) if field.name == "data" else Path(value).name
        if field.name == "strategy":
            value = with_short_teachers(value)
        rows.append((f"`{field.name}`", f"`{_code(value if isinstance(value, str) else json_text(value))}`"))
    versions = run.record.get("versions") or {}
    whose = "" if run.combined is None else " of one of the runs that it was made of"
    text = f"## Settings\n\nThose{whose} that differ from their default, and the seeds.\n\n" + _table(
        ("setting", "value"), rows
    )
    if versions:
        text += "\n\nMade with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    return text


def _limits(run: Run, table: Predictions | None) -> str:
    lines = []
    unknown = run.record.get("unknown")
    if unknown:
        lines.append(
            f"Images of no class are told with a rate of false alarms of {unknown['rate']:g}; those below the "
            "threshold get one of the classes."
        )
    else:
        lines.append("An image that shows none of the classes gets one of them, often with a high probability.")
    lines.append(
        "Figures hold for images like those of the data: the same sources, devices and shares of classes. They were "
        "not measured on others, nor by groups of people."
    )
    if table is not None:
        counts = np.bincount(table.labels, minlength=len(table.classes))
        few = int(counts.min())
        some = [name for name, count in zip(table.classes, counts) if count == few]
        lines.append(
            f"The class with the fewest reported images is {_text(some[0])}"
            + (f" ({counted(len(some) - 1, 'other')} with as few)" if len(some) > 1 else "")
            + f": {few or 'none, so nothing is known of it'}."
        )
    if "soup" in run.record and run.record["soup"].get("chosen_on") == run.record.get("reported_split"):
        lines.append("The reported images decided which runs were taken, too, so the figures are optimistic.")
    if run.record.get("chosen_on") == run.record.get("reported_split") and run.experiment.chooses:
        lines.append("The epoch was chosen on the reported images, so the figures are optimistic.")
    elif (run.record.get("temperature") or {}).get("fitted_on") == "choose" and (
        run.record.get("chosen_on") == run.record.get("reported_split")
    ):
        lines.append(
            "The temperature was fitted on the reported images, so log-loss and calibration error are optimistic."
        )
    if run.is_final:
        lines.append(
            "The figures are those of an earlier run with the same settings; this one was trained on more images."
        )
    for key, one, several in FAULTS:
        if found := run.record.get(key):
            lines.append(f"{counted(len(found), one, several)}, so the figures are optimistic.")
    if not (run.record.get("fitted") or {"learnt": True}).get("learnt", True):
        lines.append("The network is not significantly better than guessing on its own training images.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(run: Run) -> str:
    weights = run.record.get("weights") or {}
    source = str(weights.get("source") or "")
    if weights.get("tag") == "file":
        source = Path(source).name
    if weights.get("tag") == "none":
        return "## Licence\n\nThe network was trained from random weights; its licence is for its author to choose."
    said = str(weights.get("license") or run.record.get("license") or "unknown")
    return (
        f"## Licence\n\nThe weights that training started from (`{_code(source or str(weights.get('tag')))}`) have the "
        f"licence {_text(said)}, which binds this model, too, as that of the data may."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _text(name: str) -> str:
    """A name as Markdown that shows it and nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", " ".join(name.split()))


def _code(name: str) -> str:
    """A name for a span of code in a cell of a table, where a backtick or a bar would end it."""
    return " ".join(name.split()).replace("`", "'").replace("|", "\\|")
