"""`zoo label-next`: which images to label next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config.context import Context
from zoo.config.grammar import parse
from zoo.data.spreadsheet import csv_text
from zoo.dataset import FileSource
from zoo.embedding.extraction import Chunk, Extractor, run_of
from zoo.embedding.file import check_new
from zoo.embedding.selection import METHODS, Method, choose, margins_by, margins_of
from zoo.embedding.source import Source, open_data_of, open_source, path_of, warn_of_bad
from zoo.errors import UsageError, ZooError, counted
from zoo.networks.head import find_head
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize
from zoo.progress import Progress
from zoo.runs.run import Run
from zoo.solver import Task
from zoo.storage.files import write_bytes
from zoo.target import load_target

COLUMNS = ("path", "label", "rank", "predicted", "margin", "distance")


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """An image to label.

    Attributes:
        path: Its path; its id where it is no file of its own.
        rank: 1 for the first to label.
        predicted: The class that a head on the labelled images gives it. None: there is no head.
        margin: Probability of that class less that of the second. None: there is no head.
        distance: Cosine distance from the nearest image that is labelled or ranks before. None: there is none.
    """

    path: str
    rank: int
    predicted: str | None
    margin: float | None
    distance: float | None


def label_next(
    unlabelled: str,
    backbone: str | None = None,
    *,
    run: Run | Path | str | None = None,
    data: str | None = None,
    count: int = 20,
    out: Path | str | None = None,
    method: Method = "combined",
    weights: str | None = None,
    image_size: ImageSize | None = None,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> list[Suggestion]:
    """Choose which images to label next; `zoo.embedding.selection` describes how.

    Args:
        unlabelled: Images to choose from; their labels are not looked at.
        backbone: Name of the backbone whose features decide. None: the network is that of `run`.
        run: A run, or its folder: the features, and the probabilities that margins are of, are of its network.
        data: Images that are labelled; of those in splits, `train` is taken. None: those of `run`, or there are none.
        count: Number of images to choose.
        out: CSV to write, with the columns `COLUMNS`; `label` is empty, to be filled in. None: nothing is written.
        method: `combined`, `margin` or `k-centre`.
        weights: Weights of the backbone: `default`, `none`, a published tag, or a file. None: `default`.
        image_size: Size of the network's input in pixels, such as 224 or (160, 320). None: the backbone's own.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode images. None: one per core, at most 8.
        force: Whether an existing file is overwritten.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: a name is unknown, or the file exists already.
        ZooError: the data cannot be used, or no image is left to label.
    """
    context = Context.of(plugins, progress)
    progress = context.progress
    if count < 1:
        raise UsageError(f"`count={count}` is less than 1", hint="pass the number of images to label")
    if method not in METHODS:
        raise UsageError(f"there is no method `{method}`", hint=f"the methods are {' '.join(METHODS)}")
    if out is not None:
        check_new(Path(out), force=force)
    of = run_of(run, backbone=backbone, weights=weights, image_size=image_size)
    asked = open_source(unlabelled, context.plugins, progress, labelled=False)
    known = open_source(data, context.plugins, progress, labelled=True) if data is not None else None
    if known is None and of is not None:
        known = open_data_of(of, context.plugins, progress)
    extractor = Extractor(
        backbone, run=of, weights=weights, image_size=image_size, device=device, workers=workers, context=context
    )
    have = extractor.all(known.samples, "features of labelled images") if known is not None else None
    found = extractor.all(asked.samples, "features of unlabelled images")
    warn_of_bad([*asked.rejected, *found.bad], progress)
    if have is not None and known is not None:
        warn_of_bad([*known.rejected, *have.bad], progress)
    open_ones = _distinct(found, set(have.contents) if have is not None else set(), progress)
    if not len(open_ones):
        raise ZooError(f"`{asked.name}` has no image left to label", hint="every one is labelled, or cannot be read")
    if count > len(open_ones):
        progress.warn(
            f"{counted(len(open_ones), 'image')} can be labelled, fewer than the {count:,} that were asked for"
        )
        count = len(open_ones)
    rows = found.features[open_ones]
    fit = _fit_on(known, have, progress) if known is not None and have is not None else np.zeros(0, np.int64)
    others = have.features[fit] if have is not None else rows[:0]
    margins, predicted = None, None
    names: list[str] = []
    if known is not None and have is not None:
        labels = [known.samples[index].label for index in have.indices[fit]]
        names = sorted(set(labels))
        if of is not None and method != "k-centre":
            names = list(of.classes)
            margins, predicted = margins_by(find_head(extractor.network), rows)
        elif len(names) > 1 and method != "k-centre":
            place = np.array([names.index(label) for label in labels])
            margins, predicted = margins_of(_solver(extractor), others, place, rows)
    if margins is None and method != "k-centre":
        if names:
            progress.note("the labelled images have one class, so margins are not known: k-centre chooses alone")
        else:
            progress.note("no image is labelled, so margins are not known: the centres of clusters are chosen")
    chosen = choose(rows, others, count, margins=margins, method=method)
    suggestions = [
        Suggestion(
            path=path_of(asked.samples[found.indices[open_ones[index]]]),
            rank=rank + 1,
            predicted=names[predicted[index]] if predicted is not None else None,
            margin=float(margins[index]) if margins is not None else None,
            distance=None if math.isnan(far) else max(float(far), 0.0),
        )
        for rank, (index, far) in enumerate(zip(chosen.indices.tolist(), chosen.distances.tolist()))
    ]
    if not all(isinstance(sample.source, FileSource) for sample in asked.samples):
        progress.note("images that are no files of their own are named by their ids, which `csv:` does not find")
    if out is not None:
        write_bytes(Path(out), csv_text(COLUMNS, map(_cells, suggestions)).encode())
    return suggestions


def _distinct(found: Chunk, labelled: set[str], progress: Progress) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of images whose content is not labelled yet and did not come before."""
    seen = set(labelled)
    rows = []
    known = again = 0
    for row, content in enumerate(found.contents):
        if content not in seen:
            rows.append(row)
            seen.add(content)
        elif content in labelled:
            known += 1
        else:
            again += 1
    if known:
        what = counted(known, "unlabelled image is", "unlabelled images are")
        progress.note(f"{what} among the labelled ones, by their bytes, and left out")
    if again:
        progress.note(f"{counted(again, 'copy', 'copies')} of other unlabelled images, by their bytes, left out")
    return np.array(rows, np.int64)


def _fit_on(known: Source, have: Chunk, progress: Progress) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of the labelled images that decide: those of `train` where there are splits, else all."""
    train = np.array([known.splits[index] == "train" for index in have.indices], bool)
    if not train.any():
        return np.arange(len(train))
    if not train.all():
        progress.note("of the labelled images, those in `train` decide")
    return np.flatnonzero(train)


def _solver(extractor: Extractor) -> Callable[[Task], dict[str, Any]]:
    """The solver of the strategy `linear`, which is a plugin's."""
    phase = parse("linear,solver=lbfgs", extractor.context.plugins.strategies).phases(extractor.network.anatomy)[0]
    assert phase.solver is not None
    solve: Callable[[Task], dict[str, Any]] = load_target(phase.solver)
    return solve


def _cells(one: Suggestion) -> tuple[str, ...]:
    numbers = ("" if value is None else f"{value:.6f}" for value in (one.margin, one.distance))
    return (one.path, "", str(one.rank), one.predicted or "", *numbers)
