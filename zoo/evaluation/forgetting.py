"""Forgetting: how much worse a run that goes on from another (`--from`) is at what that one could do.

The images that the parent was reported on are classified again by the run. Both may answer the classes that both have,
so that the difference is what was forgotten, and not that there are more classes to choose from; that is told beside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.decoding import default_workers
from zoo.errors import UsageError, ZooError
from zoo.evaluation.reported_images import answers_among, open_reported, rows_of, rows_of_classes
from zoo.evaluation.scoring import score
from zoo.evaluation.statistics import mcnemar_test, paired_difference_interval, paired_group_interval, sign_flip_test
from zoo.runs.looks import note_look
from zoo.runs.parent import ClassMatch
from zoo.runs.run import Run

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """The accuracy of a run and of its parent on the images that the parent was reported on.

    Attributes:
        run: Folder of the run.
        parent: Folder of the run that it goes on from.
        split: Of the parent's data.
        images: Number of images that are scored.
        classes: Classes of both, among which both answer.
        before: Accuracy of the parent, from 0 to 1.
        after: Accuracy of the run.
        after_all_classes: Accuracy of the run where it may answer all of its classes, new ones too.
        change: `after` less `before`.
        interval: The 95 % interval of `change`, over the same images.
        p_value: Two-sided, that the two do not differ.
        dropped: Images of classes that the run does not have; they are not scored.
        changed: Images with another content than when the parent was scored; they are not scored.
        gone: Images that are no longer there; they are not scored.
        trained_on: Number of the scored images that the run was fitted on, so that less seems forgotten. None: unknown.
    """

    run: str
    parent: str
    split: str
    images: int
    classes: tuple[str, ...]
    before: float
    after: float
    after_all_classes: float
    change: float
    interval: tuple[float, float]
    p_value: float
    dropped: int
    changed: int
    gone: int
    trained_on: int | None

    def to_json(self) -> dict[str, Any]:
        """JSON values; `run.json` keeps them under `forgetting`."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("run", "interval")},
            "classes": list(self.classes),
            "interval_95": list(self.interval),
        }


def measure_forgetting(
    run: Run | Path | str,
    *,
    split: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    plugins: Plugins | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Forgetting:
    """Measure how much a run has forgotten of what the run could do that it goes on from; `run.json` keeps it.

    Args:
        run: The run or its folder.
        split: Of the parent's data, of which the parent has predictions. None: the one that it reports.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode images. None: chosen by the number of processors.
        plugins: Loaded plugins. None: load those installed.
        advance: Called with the number of images classified so far, and the number of all images.

    Raises:
        UsageError: it is not a run, or goes on from none.
        ZooError: the parent or its images are gone, or no class is of both.
    """
    from zoo.plugin import Plugins

    plugins = plugins or Plugins()
    run = Run.open(run)
    parent = _parent_of(run)
    if run.status != "finished":
        raise ZooError(f"run `{run.path}` is {run.status}, not finished", hint=f"`zoo train --resume {run.path}`")
    if parent.is_final and split in (None, parent.record["reported_split"]):
        raise UsageError(
            f"run `{parent.path}`, which `{run.path}` goes on from, was trained on all images that are not in `test`, "
            "and its figures are those of another run",
            hint=f"`zoo evaluate {parent.path} --split test`, then pass `--split test`",
        )
    table = parent.predictions(split)
    match = ClassMatch.of(parent.classes, run.classes)
    if not match.kept:
        raise ZooError(f"run `{run.path}` has no class of run `{parent.path}`, so there is nothing to compare")
    found = open_reported(parent, table, plugins)
    of_classes = rows_of_classes(table, match.kept)
    samples = [sample for sample in found.samples if of_classes[found.rows[sample.id]]]
    if not samples:
        raise ZooError(
            f"no image that run `{parent.path}` was scored on is there, with a class of run `{run.path}`",
            hint="restore the photographs that it was trained with",
        )
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        advance(done, len(samples))

    after, bad = score(
        run.predictor(device, plugins), samples, table.split, workers=workers or default_workers(), advance=step
    )
    before = rows_of(table, [found.rows[name] for name in after.ids])
    was, now = answers_among(before, match.kept), answers_among(after, match.kept)
    groups = before.group_numbers
    interval = paired_difference_interval(now, was) if groups is None else paired_group_interval(now, was, groups)
    fitted = set(run.contents().get("fit", {}).values())
    contents = [found.contents[name] for name in after.ids]
    result = Forgetting(
        run=str(run.path),
        parent=str(parent.path),
        split=table.split,
        images=len(before),
        classes=match.kept,
        before=float(was.mean()),
        after=float(now.mean()),
        after_all_classes=float(after.correct.mean()),
        change=float(now.mean()) - float(was.mean()),
        interval=interval,
        p_value=mcnemar_test(now, was) if groups is None else sign_flip_test(now.astype(np.float64) - was, groups),
        dropped=int((~of_classes).sum()),
        changed=len(found.changed),
        gone=len(found.gone) + len(bad),
        trained_on=sum(content in fitted for content in contents) if fitted else None,
    )
    run.update(forgetting=result.to_json())
    note_look(parent, table.split, contents, result.after)
    return result


def _parent_of(run: Run) -> Run:
    """The run that a run goes on from.

    Raises:
        UsageError: it goes on from none.
        ZooError: that run is gone, or another has taken its place.
    """
    recorded = run.record.get("from")
    if not isinstance(recorded, dict):
        raise UsageError(
            f"run `{run.path}` goes on from no other run, so it has forgotten nothing",
            hint="`zoo train --from RUN` goes on from a run",
        )
    try:
        parent = Run.open(recorded["run"])
    except ZooError as error:
        raise ZooError(
            f"the run that `{run.path}` goes on from is gone: {error.message}", hint="move its folder back"
        ) from error
    if parent.record.get("id") != recorded.get("id"):
        raise ZooError(
            f"`{parent.path}` is no longer the run that `{run.path}` goes on from: another was trained into its folder",
            hint="restore that run from a copy",
        )
    return parent
