"""`zoo similar`: the images whose features are most similar, by the cosine of the angle between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config.context import Context
from zoo.data.decoding import BadFile
from zoo.dataset import Sample
from zoo.embedding.extraction import Chunk, Extractor, run_of
from zoo.embedding.file import FeatureFile, Rows, rows_of
from zoo.embedding.selection import normalised
from zoo.embedding.source import Source, open_data_of, open_source, warn_of_bad
from zoo.errors import UsageError, ZooError
from zoo.inference.prediction import find_photographs
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize
from zoo.progress import Progress
from zoo.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Match:
    """An image that is similar to another.

    Attributes:
        id: Its id in the data.
        label: Its class; empty: not known.
        similarity: Cosine similarity, at most 1.
        same: Whether it has the same bytes.
    """

    id: str
    label: str
    similarity: float
    same: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """The most similar images to one, the most similar first."""

    path: str
    matches: tuple[Match, ...]

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "matches": [vars(one) for one in self.matches]}


def similar(
    images: Sequence[str],
    *,
    features: Path | str | None = None,
    data: str | None = None,
    run: Run | Path | str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    image_size: ImageSize | None = None,
    top: int = 5,
    device: str = "auto",
    workers: int | None = None,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> tuple[list[Found], list[BadFile]]:
    """Find the most similar images to each of `images`; also those of them that cannot be read.

    Args:
        images: Paths of image files, folders or patterns.
        features: File of `zoo embed` to search in. Its backbone, weights and preprocessing are taken.
        data: Images to search in, in place of `features`; labels are not needed.
        run: A run, or its folder, whose network and preprocessing are taken; and its data, without `features` and
            `data`.
        backbone: Name of the backbone. None: that of `features`.
        weights: Weights of the backbone. None: those of `features`, or the default.
        image_size: Pixels. None: that of `features`, or the backbone's own.
        top: Number of images to find.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode images. None: one per core, at most 8.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: the file holds features of another backbone, other weights or another preprocessing, or an argument
            is missing.
        ZooError: a file is damaged, or none of the images can be read.
    """
    if features is not None and data is not None:
        raise UsageError("`--features` and `--data` are both given", hint="leave one of them out")
    if features is None and data is None and run is None:
        raise UsageError(
            "neither `--features`, `--data` nor `--run` is given",
            hint="pass `--features FILE` of `zoo embed`, `--data DATA`, or `--run RUN`",
        )
    if top < 1:
        raise UsageError(f"`top={top}` is less than 1", hint="pass the number of images to find")
    context = Context.of(plugins, progress)
    file = FeatureFile.open(features) if features is not None else None
    of = None
    if file is None or run is not None:
        of = run_of(run, backbone=backbone, weights=weights, image_size=image_size)
    elif file.origin.run and backbone is None and weights is None and image_size is None:
        of = run_of(_known_run(file), backbone=None, weights=None, image_size=None)
    queries = [Sample(str(path), "", path) for path in find_photographs(images)]
    levels = None
    if file is not None and of is None:
        own = file.origin
        backbone = backbone or own.backbone
        if (other := context.plugins.backbones.find(backbone).qualified) != own.backbone:
            raise UsageError(
                f"`{file.path}` holds features of `{own.backbone}`, not of `{other}`",
                hint="write it again with `zoo embed`, or leave `--backbone` out",
            )
        weights = weights or own.weights
        image_size = image_size or own.image_size
        levels = own.preprocess.get("levels")
    extractor = Extractor(
        backbone,
        run=of,
        weights=weights,
        image_size=image_size,
        levels=tuple(levels) if levels else None,
        device=device,
        workers=workers,
        context=context,
    )
    if file is not None:
        file.check_origin(extractor.origin)
    asked = extractor.all(queries, "images to compare")
    if not len(asked.features):
        warn_of_bad(list(asked.bad), context.progress)
        raise ZooError("none of the images can be read", hint="the reasons are printed above")
    if file is not None:
        rows = file.rows()
    elif data is not None:
        rows = _rows_of(open_source(data, context.plugins, context.progress, labelled=False), extractor, context)
    else:
        assert of is not None
        rows = _rows_of(open_data_of(of, context.plugins, context.progress), extractor, context)
    best = _search(asked, rows, top)
    return [Found(path=queries[index].id, matches=tuple(one)) for index, one in zip(asked.indices, best)], list(
        asked.bad
    )


def _known_run(file: FeatureFile) -> str:
    """The folder of the run whose network computed a file's features.

    Raises:
        ZooError: it is gone.
    """
    if not Path(file.origin.run).is_dir():
        raise ZooError(
            f"run `{file.origin.run}`, whose network computed the features of `{file.path}`, is gone",
            hint="pass `--run` with its new place",
        )
    return file.origin.run


def _rows_of(source: Source, extractor: Extractor, context: Context) -> Iterator[Rows]:
    bad = list(source.rejected)
    for chunk in extractor.chunks(source.samples, f"features of {extractor.origin.backbone}"):
        bad += chunk.bad
        ids = [source.samples[index].id for index in chunk.indices]
        labels = [source.samples[index].label for index in chunk.indices]
        empty = [""] * len(ids)
        yield rows_of(chunk.features, ids, labels, empty, empty, chunk.contents)
    warn_of_bad(bad, context.progress)


def _search(asked: Chunk, rows: Iterator[Rows], top: int) -> list[list[Match]]:
    """The best matches of each image that is asked for; only these are kept while rows are read."""
    wanted = normalised(asked.features)
    best: list[list[Match]] = [[] for _ in wanted]
    for part in rows:
        if not len(part):
            continue
        cosines = np.clip(wanted @ normalised(part.features).T, -1, 1)
        for number, content in enumerate(asked.contents):
            same = {index for index, other in enumerate(part.texts["content"]) if other == content}
            nearest = np.argsort(-cosines[number], kind="stable")[:top].tolist()
            best[number] += [
                Match(
                    id=part.texts["id"][index],
                    label=part.texts["label"][index],
                    similarity=1.0 if index in same else float(cosines[number, index]),
                    same=index in same,
                )
                for index in dict.fromkeys([*sorted(same), *nearest])
            ]
            best[number] = sorted(best[number], key=lambda one: (not one.same, -one.similarity))[:top]
    return best
