"""Prediction: the most probable classes of photographs, by a run or by an exported file."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.data.decoding import BadFile, decode_all, default_workers
from zoo.data.image import SUFFIXES, BadImage, Pixels
from zoo.dataset import Sample
from zoo.errors import UsageError, ZooError
from zoo.inference.opening import find_exporter, open_model
from zoo.predictions import softmax
from zoo.predictor import Predictor
from zoo.preprocess import Preprocess
from zoo.target import load_target

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.runs.run import Run

# Images classified at once; one of 12 megapixels takes 36 MB of memory
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One photograph's classes, most probable first."""

    path: str
    top: tuple[tuple[str, float], ...]  # (class, probability)

    def to_json(self) -> dict[str, Any]:
        label, probability = self.top[0]
        top = [{"label": name, "probability": value} for name, value in self.top]
        return {"path": self.path, "label": label, "probability": probability, "top": top}


def find_photographs(paths: Iterable[str]) -> list[Path]:
    """Files, folders (at any depth) and globs, in order and without repeats.

    Raises:
        UsageError: a path that matches nothing.
        ZooError: a folder that may not be read.
    """
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text).expanduser()
        if not text.strip():
            raise UsageError("a photograph's path is empty", hint="`.` is the current folder")
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise ZooError(f"folder `{text}` may not be read", hint="`chmod u+rx` it, or copy the photographs")
        if path.is_dir():
            matches = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists():
            matches = [path]
        else:
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
            matches = [Path(name) for name in names if Path(name).is_file()]
        if not matches:
            what = "holds no photographs" if path.is_dir() else "matches no file"
            raise UsageError(f"`{text}` {what}", hint=f"photographs end in {' '.join(SUFFIXES)}")
        found.update(dict.fromkeys(matches))
    return list(found)


def predict(
    model: Path | str | Run,
    photographs: Sequence[Path | str],
    *,
    top: int = 1,
    device: str = "auto",
    workers: int | None = None,
    preprocess: Preprocess | None = None,
    classes: tuple[str, ...] | None = None,
    plugins: Plugins | None = None,
) -> tuple[list[Prediction], list[BadFile]]:
    """The `top` most probable classes of each photograph, in order, and the files that could not be decoded.

    `preprocess` and `classes` are of files that zoo did not write, which say neither.

    Raises:
        UsageError: the model is neither a run nor a file, or a run is told how to prepare photographs.
        ZooError: it cannot be opened.
    """
    from zoo.plugin import Plugins

    plugins = plugins or Plugins()
    if preprocess is not None:
        predictor = _foreign(model, device, preprocess, classes, plugins)
    elif classes is not None:
        raise UsageError(
            "`--classes` is of files that zoo did not write, together with `--preprocess`",
            hint="leave it out for a run or a file of zoo's: it names its classes itself",
        )
    else:
        predictor, _ = open_model(model, device, plugins)
    samples = [Sample(str(path), "", Path(path)) for path in photographs]
    found: list[Prediction] = []
    bad: list[BadFile] = []
    for sample, result in predict_all(predictor, samples, workers=workers or default_workers()):
        if isinstance(result, BadImage):
            bad.append(BadFile(sample.id, result.message))
            continue
        shares = softmax(result[None])[0]
        order = np.argsort(-shares, kind="stable")[:top]
        found.append(Prediction(path=sample.id, top=tuple((predictor.classes[i], float(shares[i])) for i in order)))
    return found, bad


def predict_all(
    predictor: Predictor,
    samples: Iterable[Sample],
    *,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[Sample, npt.NDArray[np.float32] | BadImage]]:
    """Decode and classify samples, in order: each with its logits `(classes,)`, or with why it cannot be decoded.

    Evaluation, prediction and the checks of an exported file all take this path. `workers` threads decode the images,
    which are classified in batches; `advance` is told the number of images classified.
    """
    pending: list[tuple[Sample, Pixels | BadImage]] = []

    def classified() -> Iterator[tuple[Sample, npt.NDArray[np.float32] | BadImage]]:
        images = [result for _, result in pending if not isinstance(result, BadImage)]
        rows = iter(predictor.logits(images) if images else ())
        advance(len(images))
        for sample, result in pending:
            yield sample, result if isinstance(result, BadImage) else next(rows)
        pending.clear()

    count = 0
    for sample, result in decode_all(samples, workers):
        pending.append((sample, result))
        count += not isinstance(result, BadImage)
        if count == BATCH:
            yield from classified()
            count = 0
    yield from classified()


def _foreign(
    model: Path | str | Run, device: str, preprocess: Preprocess, classes: tuple[str, ...] | None, plugins: Plugins
) -> Predictor:
    """A file of other making.

    Raises:
        UsageError: it is a run, or a format that cannot be told.
    """
    if not isinstance(model, (Path, str)) or Path(model).is_dir():
        raise UsageError("a run knows how its photographs are prepared", hint="leave `--preprocess` out")
    exporter = find_exporter(Path(model), plugins)
    if exporter.foreign is None:
        raise UsageError(f"`{exporter.name}` files of other making cannot be opened")
    found: Predictor = load_target(exporter.foreign)(Path(model), device, preprocess, classes)
    return found


def read_preprocess(text: str, plugins: Plugins) -> Preprocess:
    """What `--preprocess` means: JSON such as `{"resize": 256, "crop": 224}`, or the name of a backbone.

    Raises:
        UsageError: neither.
    """
    if not text.strip().startswith("{"):
        return plugins.backbones.find(text).value.preprocess
    default = Preprocess().to_json()
    try:
        given = json.loads(text)
        unknown = sorted(set(given) - set(default))
        if not unknown:
            return Preprocess.from_json({**default, **given})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"`--preprocess` cannot be read: {error}", hint=_EXAMPLE) from error
    raise UsageError(f"`--preprocess` knows no `{unknown[0]}`", hint=f"it knows {' '.join(default)}")


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        UsageError: the file cannot be read as text.
    """
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"classes `{file}` cannot be read: {error}", hint="UTF-8, a class a line") from error


_EXAMPLE = """pass '{"resize": 256, "crop": 224, "interpolation": "bicubic"}', or the name of a backbone"""
