"""`zoo embed`: features of any source, written to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.config.context import Context
from zoo.data.decoding import BadFile
from zoo.embedding.extraction import Extractor, Origin, run_of
from zoo.embedding.file import check_output, open_writer, rows_of
from zoo.embedding.source import open_source, warn_of_bad
from zoo.errors import ZooError
from zoo.experiment import Cache, Engine
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize
from zoo.progress import Progress
from zoo.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What `embed` wrote.

    Attributes:
        file: The file.
        images: Number of images in it.
        origin: What the features come from.
        bad: Images that are left out, and why.
    """

    file: Path
    images: int
    origin: Origin
    bad: tuple[BadFile, ...]


def embed(
    data: str,
    out: Path | str,
    backbone: str | None = None,
    *,
    run: Run | Path | str | None = None,
    labels: bool = True,
    weights: str | None = None,
    image_size: ImageSize | None = None,
    levels: tuple[float, float] | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: Cache = "auto",
    engine: Engine = "auto",
    force: bool = False,
    plugins: Plugins | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """Write the features of images by a frozen backbone to a file, with ids, labels, splits, groups and digests.

    Images are read one after the other, so that memory does not grow with their pixels.

    Args:
        data: Images, as `--data` of `zoo train` takes them.
        out: The file, `.parquet` or `.npz`; `zoo.embedding.file` describes both.
        backbone: Name of the backbone. None: the network is that of `run`.
        run: A run, or its folder, whose network and preprocessing are taken.
        labels: Whether labels and splits are read; without them, images need none.
        weights: Weights of the backbone: `default`, `none`, a published tag, or a file. None: `default`.
        image_size: Size of the network's input in pixels, such as 224 or (160, 320). None: the backbone's own.
        levels: Grey levels that become black and white. None: those of each image's type.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: Threads that decode images. None: one per core, at most 8.
        cache: Whether features are kept for later: `off`: they are not.
        engine: What computes the features, as `--engine` of `zoo train`.
        force: Whether an existing file is overwritten.
        plugins: Loaded plugins. None: they are loaded.
        progress: Receives reports. None: the logger `zoo`.

    Raises:
        UsageError: a name is unknown, or the file exists already.
        ZooError: the data cannot be used, no image can be decoded, or the file cannot be written.
    """
    context = Context.of(plugins, progress)
    file = check_output(out, force=force)
    of = run_of(run, backbone=backbone, weights=weights, image_size=image_size, levels=levels)
    hint = "`--no-labels` embeds images without labels"
    source = open_source(data, context.plugins, context.progress, labelled=labels, option=hint)
    extractor = Extractor(
        backbone,
        run=of,
        weights=weights,
        image_size=image_size,
        levels=levels,
        device=device,
        workers=workers,
        cache=cache,
        engine=engine,
        context=context,
    )
    bad = list(source.rejected)
    count = 0
    writer = open_writer(file, extractor.origin)
    try:
        for chunk in extractor.chunks(source.samples, f"features of {extractor.origin.backbone}"):
            bad += chunk.bad
            count += len(chunk.features)
            if len(chunk.features):
                some = [source.samples[index] for index in chunk.indices]
                writer.add(
                    rows_of(
                        chunk.features,
                        ids=[one.id for one in some],
                        labels=[one.label for one in some],
                        splits=[source.splits[index] for index in chunk.indices],
                        groups=[one.group or "" for one in some],
                        contents=chunk.contents,
                    )
                )
        warn_of_bad(bad, context.progress)
        if not count:
            raise ZooError(f"none of the images of `{source.name}` can be read", hint="the reasons are printed above")
        writer.finish()
    finally:
        writer.drop()
    return Embedded(file=file, images=count, origin=extractor.origin, bad=tuple(bad))
