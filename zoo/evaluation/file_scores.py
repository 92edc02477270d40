"""File scores: an exported file scored on the images that a run was reported on, to compare the two.

Classes are matched by name. Images of classes that the file does not know are left out, since it could only be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.decoding import default_workers
from zoo.errors import UsageError, ZooError
from zoo.evaluation.reported_images import open_reported, rows_of, rows_of_classes
from zoo.evaluation.scoring import score
from zoo.inference.opening import open_model
from zoo.predictions import Predictions
from zoo.runs.parent import ClassMatch
from zoo.runs.run import Run

if TYPE_CHECKING:
    from zoo.plugin import Plugins


@dataclass(frozen=True, kw_only=True)
class FileScores:
    """An exported file and a run on the same images.

    Attributes:
        file: The file.
        predictions: Of the file, in the order of `of_run`.
        of_run: Of the run, for the same images.
        lacks: Classes of the run that the file does not know.
        more: Classes that the file alone knows.
        left_out: Number of images of the run that are of classes in `lacks`.
        trained_on: Number of the images that the file's run was fitted on. None: unknown, since it lies in no run.
    """

    file: str
    predictions: Predictions
    of_run: Predictions
    lacks: tuple[str, ...]
    more: tuple[str, ...]
    left_out: int
    trained_on: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "images": len(self.predictions),
            "lacks": list(self.lacks),
            "more": list(self.more),
            "left_out": self.left_out,
            "trained_on": self.trained_on,
        }

    def notes(self) -> tuple[str, ...]:
        """What differs between the two, in words."""
        found = []
        if self.lacks:
            found.append(
                f"`{self.file}` does not know {_named(self.lacks)}: {self.left_out:,} of "
                f"{self.left_out + len(self.predictions):,} images are left out"
            )
        if self.more:
            found.append(f"`{self.file}` also knows {_named(self.more)}, of which there is no image")
        if self.trained_on:
            found.append(
                f"`{self.file}` was trained on {self.trained_on:,} of these {len(self.predictions):,} images, so its "
                "accuracy on new images is lower"
            )
        return tuple(found)


def is_exported_file(model: Run | Path | str) -> bool:
    """Whether a model is given as a file, and not as a run or its folder; the file may be missing."""
    if isinstance(model, Run) or model == "" or Path(model).is_dir():
        return False
    return Path(model).is_file() or Path(model).suffix != ""


def score_file(
    file: Path | str, run: Run, *, table: Predictions | None = None, device: str = "auto", plugins: Plugins
) -> FileScores:
    """Score an exported file on the images of a run's predictions.

    Args:
        file: The file.
        run: The run that it is compared with.
        table: Predictions of the run. None: those of the split that it reports.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        plugins: Loaded plugins.

    Raises:
        UsageError: it is no exported file.
        ZooError: the images are gone or have changed, or the file knows none of their classes.
    """
    table = run.predictions() if table is None else table
    predictor, owner = open_model(file, device, plugins)
    match = ClassMatch.of(predictor.classes, table.classes)
    if not match.kept:
        raise ZooError(
            f"`{file}` has no class of run `{run.path}`, so the two cannot be compared",
            hint=f"its classes are {' '.join(predictor.classes[:20])}; classes are matched by name",
        )
    found = open_reported(run, table, plugins)
    for names, what in ((found.changed, "has changed"), (found.gone, "is gone, or cannot be read,")):
        if names:
            more = f" ({len(names):,} such images)" if len(names) > 1 else ""
            raise ZooError(
                f"`{names[0]}` {what} since run `{run.path}` was scored on it{more}, so `{file}` cannot be compared",
                hint="restore the photographs, or score both with `zoo evaluate MODEL --data DATA`",
            )
    held = rows_of_classes(table, match.kept)
    samples = [sample for sample in found.samples if held[found.rows[sample.id]]]
    if not samples:
        raise ZooError(f"no image of run `{run.path}` is of a class that `{file}` knows")
    theirs, bad = score(predictor, samples, table.split, workers=default_workers())
    if bad:
        raise ZooError(f"`{bad[0].id}` cannot be read as an image any more: {bad[0].reason}")
    fitted = set() if owner is None else set(owner.contents().get("fit", {}).values())
    return FileScores(
        file=str(file),
        predictions=theirs,
        of_run=rows_of(table, [found.rows[name] for name in theirs.ids]),
        lacks=match.new,
        more=match.dropped,
        left_out=int((~held).sum()),
        trained_on=sum(found.contents[name] in fitted for name in theirs.ids) if fitted else None,
    )


def no_run(files: list[str]) -> UsageError:
    """The error for models among which there is no run."""
    named = " and ".join(f"`{file}`" for file in files)
    return UsageError(
        f"{named} can be compared only with a run, on whose images files are scored",
        hint="pass a run, too; `zoo evaluate FILE --data DATA` scores a file on any images",
    )


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
