"""Final run: the configuration of a finished run, trained on all images that are not in the test split.

Nothing is chosen on held-out images, since there are none: epochs, learning rate and temperature are those of the
earlier run, and so are the figures. Its own accuracy can be measured on a locked test split alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from zoo.data.class_names import keys
from zoo.dataset import FINAL, Sample
from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.runs.kept_list import as_it_is_now
from zoo.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What a final run takes from the run that chose its configuration; `run.json` keeps it under `final`.

    Attributes:
        run: Its folder.
        id: Its id.
        epochs: Of each phase; 0 where it is solved. Phases of which no weights were kept are left out.
        temperature: That the earlier run found, or the geometric mean over its folds.
        reported_split: Split that its figures are of: `val`, `test` or `folds`.
        metrics: By name.
        accuracy_interval_95: Of its accuracy.
    """

    run: str
    id: str | None
    epochs: tuple[int, ...]
    temperature: float
    reported_split: str
    metrics: dict[str, Any]
    accuracy_interval_95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Earlier:
        """Read what `to_json` wrote."""
        low, high = data["accuracy_interval_95"]
        return cls(**{**data, "epochs": tuple(data["epochs"]), "accuracy_interval_95": (low, high)})


def final_experiment(run: Run) -> tuple[Experiment, Earlier]:
    """The experiment that trains a finished run's configuration on all images, and what is taken from the run.

    Raises:
        UsageError: the run is a final run, or a fold, or its rates followed a validation loss.
        ZooError: it is not finished, or its list of `--exclude` is gone.
    """
    run.check_is_trained("trained on all images")
    if run.status != "finished":
        raise ZooError(f"run `{run.path}` is {run.status}, not finished", hint=f"`zoo train --resume {run.path}`")
    asked = run.experiment
    if run.is_final:
        raise UsageError(f"run `{run.path}` is a final run already", hint="pass the run or the study that it is of")
    if asked.data.startswith("fold:"):
        raise UsageError(
            f"run `{run.path}` is one of several folds",
            hint=f"pass the run that they are of, `{run.path.parent.parent}`",
        )
    if run.record.get("schedule", {}).get("follows_validation", asked.schedule == "plateau"):
        raise UsageError(
            f"run `{run.path}` lowered its rate by the validation loss (`--schedule {asked.schedule}`), and a final "
            "run has none",
            hint="train with another schedule first",
        )
    if asked.unknown_rate is not None:
        raise UsageError(
            f"run `{run.path}` has a threshold for unknown images (`--unknown-rate`), which is set on the images of "
            "`val`: a final run is trained on these, so it can have none",
            hint="use the run itself, or train another without `--unknown-rate` first",
        )
    members = run.folds or [run]
    plans = [kept_epochs(member) for member in members]
    length = int(np.median([len(plan) for plan in plans]))
    epochs = tuple(
        round(float(np.median([plan[number] for plan in plans if len(plan) > number]))) for number in range(length)
    )
    rates = [float(member.record["lr"]) for member in members if member.record.get("lr")]
    temperatures = [float((member.record.get("temperature") or {}).get("value", 1.0)) for member in members]
    low, high = run.record["accuracy_interval_95"]
    experiment = replace(
        as_it_is_now(run),
        data=f"{FINAL}:{asked.data}",
        folds=None,
        early_stopping=None,
        keep="last",
        time_budget=None,
        lr=_middle(rates) if asked.lr == "find" and rates else asked.lr,
    )
    return experiment, Earlier(
        run=str(run.path),
        id=run.record.get("id"),
        epochs=epochs,
        temperature=_middle(temperatures),
        reported_split=str(run.record["reported_split"]),
        metrics=run.metrics,
        accuracy_interval_95=(float(low), float(high)),
    )


def changed_images(
    run: Run, samples: Sequence[Sample], contents: Sequence[str], left_out: Collection[str]
) -> str | None:
    """What is said where a final run's images are no longer those of the run that its figures are of; None: they are.

    Args:
        run: The earlier run.
        samples: That the final run trains on.
        contents: The SHA-256 of each.
        left_out: Ids that `--on-leak drop` leaves out of the final run.
    """
    known = run.contents()
    if not known or run.experiment.fraction != 1:
        return None
    scored = {} if run.record["reported_split"] == "test" else known.get("reported", {})
    before = {**known.get("fit", {}), **known.get("choose", {}), **scored}
    names = keys(list(before))
    was = dict(zip(names, before.values()))
    now = dict(zip(keys([sample.id for sample in samples]), contents))
    gone = set(was) - set(now) - set(keys(list(left_out)))
    counts = {
        "new": len(set(now) - set(was) - set(keys(list(run.record.get("dropped") or ())))),
        "gone": len(gone),
        "changed": sum(now[name] != was[name] for name in set(now) & set(was)),
    }
    if not any(counts.values()):
        return None
    parts = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return (
        f"the images are no longer those of run `{run.path}` ({parts}), such as after a change of the data or of the "
        "list of `--exclude`; the figures are of the images then"
    )


def kept_epochs(run: Run) -> list[int]:
    """Epochs of each phase after which the run kept its weights; 0 for a solved phase.

    With early stopping it is the best of each phase, with `--keep best` the best of all, and later phases are left out.
    """
    asked, lines = run.experiment, run.history
    found: list[int] = []
    best: tuple[float, int, int] | None = None  # loss, phase, epochs of the phase
    position = 0
    for number, phase in enumerate(run.record["phases"]):
        mine: list[dict[str, Any]] = []
        while position < len(lines) and lines[position].get("phase") == phase["name"]:
            mine.append(lines[position])
            position += 1
            if "solved" in mine[-1]:
                break
        losses = [float(line["choice_loss"]) if line.get("choice_loss") is not None else np.inf for line in mine]
        if phase.get("solver"):
            found.append(0)
        elif not mine and lines:
            break  # the time was up
        else:
            whole = len(mine) or int(phase["epochs"])
            stopped = asked.early_stopping is not None and losses and np.isfinite(min(losses))
            found.append(int(np.argmin(losses)) + 1 if stopped else whole)
        if losses and (best is None or min(losses) < best[0]):
            best = (min(losses), number, 0 if phase.get("solver") else int(np.argmin(losses)) + 1)
    if asked.keep == "best" and best is not None and np.isfinite(best[0]):
        return [*found[: best[1]], best[2]]
    return found


def _middle(values: Sequence[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(values))))
