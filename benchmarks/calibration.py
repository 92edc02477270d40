"""Which calibration of probabilities helps on images that it was not fitted on?

    python benchmarks/calibration.py FEATURES.npz ... [--runs FOLDER] [--out FILE] [--kept FILE]

FEATURES are files of `zoo embed` with EfficientNet-Lite0 of `hymenoptera`, `sign_digits` and the folder that
`middle_set.py` makes; photographs of the last that are crops of one photograph stay together. For each seed of each
task, images are drawn to train on, to fit on (`val`) and to test on; heads are solved by `linear`, `svm` and `knn`, and
each calibration is fitted twice: on the held-out folds of the training images, as runs without images to choose on do
it, and on `val`. `--runs` adds trained runs: folders of `zoo train` whose data have train, val and test, scored on test
by `zoo evaluate`; their logits before the temperature are those stored, times the temperature.

Methods: `none`; `today`, the temperature with a prior around 1, taken only where its gain is beyond its error;
`map`, the same without that condition; `likelihood`, the temperature of the highest likelihood (Guo et al. 2017);
`vector` scaling, a factor and an offset for each class of the highest likelihood (the same); `isotonic`, one class
against the others, made to sum to 1 (Zadrozny and Elkan 2002), no share below 1 / (2 N), since a log-loss would be
infinite.

The rule, written before the first run. Differences are of the log-loss on test images, method minus `today`, paired by
run. Their mean over tasks (each the mean of its runs) has a 95 % interval by a bootstrap over draws of images (task and
seed), whose runs share their test images. A method qualifies if (1) that interval is below zero; (2) its mean
calibration error is at most 0.002 above that of `today`; (3) in no group of runs (task, head, fitted on what) its mean
log-loss is more than 0.005 above that of `none`; (4) it is folded into the last linear layer, as a temperature and
vector scaling are, or lowers the log-loss by 0.01 or more, which may pay for another kind of head. Of the methods that
qualify the one of the lowest mean log-loss is taken; if none does, `today` stays.

The second round (`--second`) was written after the first, and before any of its figures. In the first, `today` stayed,
and it had helped the heads of `knn`, which have no temperature, in every group or left them alone. So: other draws
(seeds 3, 4, 5), `knn` alone, `today` against `none`. `knn` gets the temperature if the interval of the difference of
the log-loss is below zero, the calibration error is not higher, and in no group the log-loss is more than 0.005 higher.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression
from torch import nn

from zoo.predictions import Predictions, softmax
from zoo.runs.run import Run
from zoo.solver import Task
from zoo.storage.files import json_text
from zoo.training import temperature_scaling
from zoo.training.held_out_folds import held_out, held_out_folds
from zoo_classical import svm
from zoo_strategies import logistic, neighbours

Floats = npt.NDArray[Any]
Calibration = Callable[[Floats], Floats]  # from logits (N, classes) to probabilities (N, classes)

SEEDS = (0, 1, 2)
SECOND = (3, 4, 5)
MOST_FOR_SVM = 600  # training images, since the search of `svm` takes minutes of more
RESAMPLES = 4000
BINS = 15


@dataclass(frozen=True)
class Drawing:
    """A task: of which data, how many classes of it, and images to train on and to fit on; the rest is test."""

    data: str
    classes: int
    train: int
    val: int

    def __str__(self) -> str:
        return f"{self.data}, {self.classes} classes, {self.train} + {self.val}"


TASKS = (
    Drawing("hymenoptera", 2, 60, 40),
    Drawing("hymenoptera", 2, 160, 60),
    Drawing("sign_digits", 10, 300, 100),
    Drawing("sign_digits", 10, 1000, 300),
    Drawing("sign_digits", 4, 200, 60),
    Drawing("middle", 12, 500, 150),
    Drawing("middle", 6, 300, 100),
    Drawing("middle", 12, 2000, 400),
)


@dataclass(frozen=True)
class Row:
    """One method in one run: its figures on test images."""

    task: str
    seed: int
    head: str
    fitted_on: str
    method: str
    fitted: int
    tested: int
    log_loss: float
    calibration_error: float
    accuracy: float
    temperature: float | None


def none(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    return softmax, 1.0


def scaled(temperature: float) -> tuple[Calibration, float | None]:
    return lambda logits: softmax(logits.astype(np.float64) / temperature), temperature


def today(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    return scaled(temperature_scaling.fit_temperature(logits, labels))


def most_probable(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    return scaled(math.exp(temperature_scaling._most_probable(logits, labels)))


def likelihood(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    def loss(exponent: float) -> float:
        return log_loss(softmax(logits.astype(np.float64) / math.exp(exponent)), labels)

    bounds = (math.log(temperature_scaling.LOWEST), math.log(temperature_scaling.HIGHEST))
    return scaled(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def vector(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    classes, rows = logits.shape[1], np.arange(len(labels))
    values = logits.astype(np.float64)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        factors, offsets = parameters[:classes], parameters[classes:]
        shares = softmax(values * factors + offsets)
        gradient = shares.copy()
        gradient[rows, labels] -= 1
        gradient /= len(labels)
        return log_loss(shares, labels), np.concatenate([(gradient * values).sum(0), gradient.sum(0)])

    start = np.concatenate([np.full(classes, 1 / (likelihood(logits, labels)[1] or 1)), np.zeros(classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 10)] * classes + [(-20, 20)] * classes).x
    return lambda some: softmax(some.astype(np.float64) * found[:classes] + found[classes:]), None


def isotonic(logits: Floats, labels: Floats) -> tuple[Calibration, float | None]:
    least = 1 / (2 * len(labels))
    fitted = softmax(logits)
    curves = [
        IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(fitted[:, one], labels == one)
        for one in range(fitted.shape[1])
    ]

    def apply(some: Floats) -> Floats:
        before = softmax(some)
        after = np.stack([curve.predict(before[:, one]) for one, curve in enumerate(curves)], axis=1)
        after = np.maximum(after, least)
        shares: Floats = after / after.sum(1, keepdims=True)
        return shares

    return apply, None


METHODS = {
    "none": none,
    "today": today,
    "map": most_probable,
    "likelihood": likelihood,
    "vector": vector,
    "isotonic": isotonic,
}
FOLDED = ("none", "today", "map", "likelihood", "vector")


def log_loss(shares: Floats, labels: Floats) -> float:
    chosen = shares[np.arange(len(labels)), labels]
    smallest = float(np.finfo(np.float64).eps)  # as the metric `loss`
    return float(-np.log(np.clip(chosen, smallest, 1 - smallest)).mean())


def calibration_error(shares: Floats, labels: Floats) -> float:
    confidence, right = shares.max(1), shares.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, right - confidence, BINS)).sum() / len(labels))


def measured(where: dict[str, Any], fit: tuple[Floats, Floats], test: tuple[Floats, Floats]) -> list[Row]:
    """Every method, fitted on logits and labels `fit`, on those of `test`."""
    rows = []
    for name, method in METHODS.items():
        apply, temperature = method(*fit)
        shares, labels = apply(test[0]), test[1]
        rows.append(
            Row(
                **where,
                method=name,
                fitted=len(fit[1]),
                tested=len(labels),
                log_loss=log_loss(shares, labels),
                calibration_error=calibration_error(shares, labels),
                accuracy=float((shares.argmax(1) == labels).mean()),
                temperature=temperature,
            )
        )
    return rows


def divided(task: Drawing, seed: int, table: dict[str, Any]) -> list[Floats]:
    """Rows to train on, to fit on and to test on. Those of one photograph are together."""
    generator = np.random.default_rng(seed)
    names = np.unique(table["label"])
    chosen = names if task.classes == len(names) else np.sort(generator.permutation(names)[: task.classes])
    rows = np.flatnonzero(np.isin(table["label"], chosen))
    groups = np.unique(table["group"][rows], return_inverse=True)[1]
    order = np.argsort(generator.permutation(groups.max() + 1)[groups], kind="stable")
    train, val, test = np.split(rows[order], [task.train, task.train + task.val])
    group = table["group"]
    val = val[~np.isin(group[val], group[train])]
    test = test[~np.isin(group[test], group[np.concatenate([train, val])])]
    return [train, val, test]


def solved(
    features: Floats, labels: Floats, groups: Floats, seed: int, only_knn: bool
) -> dict[str, tuple[nn.Module, Any]]:
    """Heads by name, with the held-out logits that the solver fits its temperature on, or None."""
    classes, width = int(labels.max()) + 1, features.shape[1]
    alone = None if len(np.unique(groups)) == len(groups) else np.unique(groups, return_inverse=True)[1]
    found: dict[str, tuple[nn.Module, Any]] = {}
    for name, module in (("linear", logistic), ("svm", svm)):
        if only_knn or (module is svm and len(labels) > MOST_FOR_SVM):
            continue
        seen: list[tuple[Floats, Floats]] = []

        def keep(logits: Floats, targets: Floats, seen: list[tuple[Floats, Floats]] = seen) -> float:
            seen.append((logits, targets))
            return 1.0

        head, usual = nn.Linear(width, classes), module.fit_temperature
        module.fit_temperature = keep  # type: ignore[attr-defined]
        try:
            module.solve(Task(head=head, features=features, labels=labels, classes=classes, seed=seed, groups=alone))
        finally:
            module.fit_temperature = usual  # type: ignore[attr-defined]
        found[name] = (head, seen[0])
    near = neighbours.NeighbourHead(width, classes, 20)
    neighbours.solve(Task(head=near, features=features, labels=labels, classes=classes, seed=seed))
    folds, _ = held_out_folds(labels, seed, alone)
    some, out = held_out(folds), np.zeros((len(labels), classes), np.float32)
    for fit, held in folds:
        part = neighbours.NeighbourHead(width, classes, 20)
        neighbours.solve(Task(head=part, features=features[fit], labels=labels[fit], classes=classes, seed=seed))
        out[held] = logits_of(part, features[held])
    found["knn"] = (near, (out[some], labels[some]))
    return found


def logits_of(head: nn.Module, features: Floats) -> Floats:
    with torch.no_grad():
        logits: Floats = head(torch.from_numpy(features)).numpy()
    return logits


def of_features(sources: list[Path], kept: Path | None, second: bool) -> list[Row]:
    """Rows of solved heads; those of each draw are kept in a file, from which a stopped comparison goes on."""
    rows: list[Row] = []
    if kept is not None and kept.is_file():
        rows = [Row(**json.loads(line)) for line in kept.read_text().splitlines()]
    done = {(row.task, row.seed) for row in rows}
    tables = {}
    for source in sources:
        with np.load(source, allow_pickle=False) as opened:
            table = {key: opened[key] for key in ("features", "label", "id")}
        crop = (
            np.isin(table["label"], ("ants", "bees")) if source.stem == "middle" else np.zeros(len(table["id"]), bool)
        )
        table["group"] = np.array(
            [str(name).rpartition("_")[0] if one else str(name) for name, one in zip(table["id"], crop)]
        )
        tables[source.stem] = table
    for task in TASKS:
        if task.data not in tables:
            continue
        table = tables[task.data]
        for seed in SECOND if second else SEEDS:
            if (str(task), seed) in done:
                continue
            before = len(rows)
            train, val, test = divided(task, seed, table)
            names, labels = np.unique(table["label"][train], return_inverse=True)
            number = {name: index for index, name in enumerate(names)}
            val_labels, test_labels = (np.array([number[one] for one in table["label"][part]]) for part in (val, test))
            features = table["features"]
            for head, (layer, folds) in solved(features[train], labels, table["group"][train], seed, second).items():
                tested = (logits_of(layer, features[test]), test_labels)
                where = {"task": str(task), "seed": seed, "head": head}
                rows += measured({**where, "fitted_on": "folds"}, folds, tested)
                rows += measured({**where, "fitted_on": "val"}, (logits_of(layer, features[val]), val_labels), tested)
            if kept is not None:
                with kept.open("a") as file:
                    file.writelines(json_text(asdict(row)) + "\n" for row in rows[before:])
            print(f"{task}, seed {seed}: {len(train)} + {len(val)} + {len(test)} images", flush=True)
    return rows


def of_runs(folder: Path) -> list[Row]:
    rows = []
    for path in sorted(folder.iterdir()):
        if not (path / "predictions-test.safetensors").is_file():
            continue
        run = Run.open(path)
        temperature = float(run.record["temperature"]["value"])
        val, test = run.predictions("val"), run.predictions("test")

        def raw(table: Predictions, temperature: float = temperature) -> tuple[Floats, Floats]:
            return table.logits * temperature, table.labels

        where = {"task": f"{Path(run.experiment.data).name} trained", "seed": run.experiment.seed}
        rows += measured({**where, "head": run.experiment.strategy, "fitted_on": "val"}, raw(val), raw(test))
    return rows


def judged(rows: list[Row]) -> dict[str, Any]:
    """Means, paired differences and the rule."""
    tasks = sorted({row.task for row in rows})
    draws = sorted({(row.task, row.seed) for row in rows})
    generator = np.random.default_rng(0)

    def means(method: str, key: str) -> Floats:
        """`(draws,)`: the mean over heads and fits of a draw."""
        return np.array(
            [
                np.mean([getattr(r, key) for r in rows if r.method == method and (r.task, r.seed) == one])
                for one in draws
            ]
        )

    of_task = np.array([tasks.index(task) for task, _ in draws])

    def over_tasks(values: Floats) -> float:
        return float(np.mean([values[of_task == number].mean() for number in range(len(tasks))]))

    found: dict[str, Any] = {}
    for method in METHODS:
        line: dict[str, Any] = {
            key: over_tasks(means(method, key)) for key in ("log_loss", "calibration_error", "accuracy")
        }
        for key in ("log_loss", "calibration_error"):
            values = means(method, key) - means("today", key)
            drawn = []
            for _ in range(RESAMPLES):
                some = np.concatenate(
                    [
                        generator.choice(np.flatnonzero(of_task == n), int((of_task == n).sum()))
                        for n in range(len(tasks))
                    ]
                )
                drawn.append(np.mean([values[some[of_task[some] == n]].mean() for n in range(len(tasks))]))
            low, high = np.percentile(drawn, (2.5, 97.5))
            line[f"{key}_minus_today"] = [over_tasks(values), float(low), float(high)]
        groups = {(r.task, r.head, r.fitted_on) for r in rows}
        worst = max(
            (
                np.mean([r.log_loss for r in rows if r.method == method and (r.task, r.head, r.fitted_on) == group])
                - np.mean([r.log_loss for r in rows if r.method == "none" and (r.task, r.head, r.fitted_on) == group]),
                group,
            )
            for group in groups
        )
        line["most_above_none"] = [float(worst[0]), " / ".join(worst[1])]
        line["qualifies"] = bool(
            line["log_loss_minus_today"][2] < 0
            and line["calibration_error_minus_today"][0] <= 0.002
            and worst[0] <= 0.005
            and (method in FOLDED or line["log_loss_minus_today"][0] <= -0.01)
        )
        found[method] = line
    good = [method for method in METHODS if found[method]["qualifies"]]
    taken = min(good, key=lambda method: found[method]["log_loss"]) if good else "today"
    return {"runs": len(rows) // len(METHODS), "draws": len(draws), "methods": found, "taken": taken}


def markdown(rows: list[Row], verdict: dict[str, Any]) -> str:
    lines = [
        "| method | log-loss | minus `today` (95 %) | calibration error | minus `today` (95 %) | accuracy | "
        "most above `none` | qualifies |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, line in verdict["methods"].items():
        (loss, low, high), (error, least, most) = line["log_loss_minus_today"], line["calibration_error_minus_today"]
        lines.append(
            f"| `{method}` | {line['log_loss']:.4f} | {loss:+.4f} ({low:+.4f} to {high:+.4f}) | "
            f"{line['calibration_error']:.4f} | {error:+.4f} ({least:+.4f} to {most:+.4f}) | "
            f"{line['accuracy']:.4f} | "
            f"{line['most_above_none'][0]:+.4f} ({line['most_above_none'][1]}) | "
            f"{'yes' if line['qualifies'] else 'no'} |"
        )
    lines += ["", f"Taken by the rule: `{verdict['taken']}`.", "", "Log-loss by group, the mean of its seeds:", ""]
    lines += [
        "| task | head | fitted on | " + " | ".join(f"`{m}`" for m in METHODS) + " |",
        "| --- " * (3 + len(METHODS)) + "|",
    ]
    for group in sorted({(r.task, r.head, r.fitted_on) for r in rows}):
        values = [
            np.mean([r.log_loss for r in rows if r.method == m and (r.task, r.head, r.fitted_on) == group])
            for m in METHODS
        ]
        lines.append(f"| {' | '.join(group)} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="*", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--second", action="store_true", help="the second round")
    parser.add_argument("--kept", type=Path, help="file with the rows that are found already")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = of_features(arguments.features, arguments.kept, arguments.second) + (
        of_runs(arguments.runs) if arguments.runs else []
    )
    verdict = judged(rows)
    if arguments.out:
        arguments.out.write_text(json_text({"verdict": verdict, "rows": [asdict(row) for row in rows]}))
    print(markdown(rows, verdict))
    print(json_text({key: verdict[key] for key in ("runs", "draws", "taken")}))


if __name__ == "__main__":
    main()
