"""Survey: one pass over the images of a dataset, whatever is wrong with them; all checks work on what it gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
import numpy.typing as npt

from zoo.config.context import Context
from zoo.data.alignment import SIDE, Thumbnails
from zoo.data.decode_plan import SPARE, store_keys
from zoo.data.decoding import BadFile, DecodedImages, DecodeRequest, decode_part, default_workers, streamed_text
from zoo.data.image import Pixels, canvas
from zoo.data.image_file import open_image
from zoo.data.near_duplicates import thumbnail
from zoo.data.opening import open_images, open_to_score
from zoo.data.sample_columns import joined
from zoo.dataset import Images, Role, Sample
from zoo.errors import UsageError, ZooError
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess

# Suffixes by the format of a file; every other suffix is wrong for it
SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True)
class Survey:
    """What was gathered of the readable images, split after split.

    Attributes:
        images: The data.
        parts: By split, the decoded images.
        samples: `(N,)`, of all splits.
        splits: `(N,)`, the split of each.
        labels: `(N,)`, class indices.
        contents: `(N,)`, SHA-256 of the contents.
        thumbnails: `(N, 64, 64)`.
        sizes: `(N, 2)`, height and width of the files' images; 0 where unknown.
        wrong_suffix: Format of each file whose suffix is of another format, by its index.
        bad: Files that cannot be read.
        doubtful: Files that are read though something is wrong with them.
    """

    images: Images
    parts: dict[Role, DecodedImages]
    samples: Sequence[Sample]
    splits: tuple[Role, ...]
    labels: npt.NDArray[np.int64]
    contents: Sequence[str]
    thumbnails: Thumbnails
    sizes: npt.NDArray[np.int64]
    wrong_suffix: dict[int, str]
    bad: tuple[BadFile, ...]
    doubtful: tuple[BadFile, ...]
    seconds: float  # of processor, for thumbnails and headers


def open_anyhow(data: str, split_seed: int, plugins: Plugins, group: str | None = None) -> Images:
    """Open data as for training; if they cannot be trained on, as for scoring, with a note that says why.

    Raises:
        UsageError: there are no such data.
        ZooError: they hold no image at all.
    """
    try:
        return open_images(data, split_seed, plugins, group=group)
    except UsageError:
        raise
    except ZooError as error:
        try:
            images = open_to_score(data, split_seed, plugins)
        except ZooError:
            raise error from None
        note = f"these data cannot be trained on: {error.message}"
        return Images(**{**vars(images), "notes": (*images.notes, note)})


def survey(images: Images, preprocess: Preprocess, workers: int | None, context: Context) -> Survey:
    """Decode every image once, to the canvas that training would use, and measure it.

    Args:
        images: The data.
        preprocess: Of the network whose features are computed from the same pixels.
        workers: Threads that decode. None: one per core, at most 8.
        context: Its store keeps the pixels, where a training run finds them.
    """

    def to_canvas(image: Pixels) -> Pixels:
        return canvas(image, preprocess)

    progress = context.progress
    progress.start("scan", sum(len(samples) for samples in images.splits.values()))
    parts: dict[Role, DecodedImages] = {}
    bad = [BadFile(name, reason) for name, reason in images.rejected]
    for role, samples in images.splits.items():
        request = DecodeRequest(
            samples, preprocess.canvas, to_canvas, SPARE * max(preprocess.canvas), preprocess.levels
        )
        parts[role], unusable = decode_part(
            request,
            images.classes,
            workers=workers or default_workers(),
            advance=progress.advance,
            store=context.store,
            key=store_keys({"fit": request}, preprocess)["fit"],
        )
        bad += unusable
    progress.stop()
    if (text := streamed_text(parts.values())) is not None:
        progress.note(text)
    samples = joined(part.samples for part in parts.values())
    began = process_time()
    grey = np.zeros((len(samples), SIDE, SIDE), np.uint8)
    clipped = np.zeros((len(samples), SIDE, SIDE), bool)
    pixels = (row for part in parts.values() for row in part.pixels)
    for index, image in enumerate(pixels):
        grey[index], clipped[index] = thumbnail(image)
    sizes, wrong = _headers(samples)
    return Survey(
        images=images,
        parts=parts,
        samples=samples,
        splits=tuple(role for role, part in parts.items() for _ in part.samples),
        labels=np.concatenate([part.labels for part in parts.values()]),
        contents=tuple(content for part in parts.values() for content in part.contents),
        thumbnails=Thumbnails(grey, clipped),
        sizes=sizes,
        wrong_suffix=wrong,
        bad=tuple(bad),
        doubtful=tuple(file for part in parts.values() for file in part.doubtful),
        seconds=process_time() - began,
    )


def _headers(samples: Sequence[Sample]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Height and width of each file's image, and the format of those whose suffix is of another; nothing is decoded."""
    sizes = np.zeros((len(samples), 2), np.int64)
    wrong: dict[int, str] = {}
    for index, sample in enumerate(samples):
        try:
            opened = sample.source.open()
            if isinstance(opened, np.ndarray):
                sizes[index] = opened.shape[:2]
                continue
            with opened:
                image = open_image(opened)
                sizes[index] = image.height, image.width
                kind = str(image.format)
        except Exception:  # it was decoded a moment ago: it has changed, or was repaired
            continue
        name = sample.id.rpartition("/")[2]
        suffix = f".{name.rpartition('.')[2]}".lower() if "." in name else ""
        known = SUFFIXES_OF.get(kind, ())
        if suffix and known and suffix not in known and any(suffix in one for one in SUFFIXES_OF.values()):
            wrong[index] = kind
    return sizes, wrong
