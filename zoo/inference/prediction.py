"""Prediction: the most probable classes of images, by a run or an exported file."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.config.arguments import as_list
from zoo.data.decoding import BadFile, decode_all, default_workers
from zoo.data.folder_walk import is_clutter, is_photograph, is_readable, walk_files
from zoo.data.grey_levels import Levels
from zoo.data.image import SUFFIXES, BadImage, Pixels
from zoo.dataset import Sample
from zoo.errors import UsageError, ZooError, counted
from zoo.inference.opening import PREDICTOR, find_exporter, is_url, open_predictor
from zoo.predictions import not_finite, softmax
from zoo.predictor import Answers, Predictor, ask, threshold_of
from zoo.preprocess import FIT_SETTINGS, Preprocess, levels_of
from zoo.row import check_returned
from zoo.storage.paths import user_path
from zoo.target import load_target
from zoo.unknown import exceeds

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.runs.run import Run

# Images in a batch; an image of 12 megapixels takes 36 MB of memory
BATCH = 8
# Pixels from which on a batch is classified before it has so many images, so that large ones take no more memory
BATCH_PIXELS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The classes of one image.

    Attributes:
        top: pairs of class and probability, the most probable first.
        unknown_score: how strange the image is; None where the model was trained without `--unknown-rate`.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    unknown_score: float | None = None

    @property
    def unknown(self) -> bool | None:
        """Whether the image is called unknown, one of no class; None where the model has no such score."""
        return None if self.unknown_score is None else exceeds(self.unknown_score)

    def to_json(self) -> dict[str, Any]:
        label, probability = self.top[0]
        top = [{"label": name, "probability": value} for name, value in self.top]
        found = {"path": self.path, "label": label, "probability": probability, "top": top}
        if self.unknown_score is not None:
            found |= {"unknown": self.unknown, "unknown_score": self.unknown_score}
        return found


class ImageAnswer(NamedTuple):
    """Logits `(classes,)` of one image, and its score of strangeness; None where the model has none."""

    logits: npt.NDArray[np.float32]
    unknown: float | None


def find_photographs(paths: Iterable[str]) -> list[Path]:
    """Image files that `paths` name, in order; a file that is named twice comes twice.

    A path is a file, a folder (with all folders in it) or a glob pattern. What lies in a folder is found as it is for
    training; photographs of formats that cannot be read are among them, so that they are reported.

    Raises:
        UsageError: a path matches no file, or is a URL or `-`.
        ZooError: a folder cannot be read, for lack of permission.
    """
    found: list[Path] = []
    for text in paths:
        path = user_path(text)
        if is_url(text) or (text == "-" and not path.exists()):
            what = "a URL" if is_url(text) else "the standard input"
            raise UsageError(f"`{text}` is {what}, and photographs are read from files alone", hint="save it to a file")
        if not text.strip():
            raise UsageError("a photograph's path is empty", hint="`.` is the current folder")
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise ZooError(f"folder `{text}` may not be read", hint="`chmod u+rx` it, or copy the photographs")
        if path.is_dir():
            matches = sorted(file for file in walk_files(path) if is_photograph(file) and is_readable(file))
        elif path.exists():
            matches = [path]
        else:
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
            matches = [Path(name) for name in names if Path(name).is_file() and not _crosses_clutter(name, text)]
        if not matches:
            what = "holds no photographs" if path.is_dir() else "matches no file"
            raise UsageError(f"`{text}` {what}", hint=f"names of photographs end in {' '.join(SUFFIXES)}")
        found.extend(matches)
    return found


def _crosses_clutter(name: str, pattern: str) -> bool:
    """Whether a match of a pattern lies in a folder that systems create, and that the pattern does not name."""
    named = set(Path(pattern).parts)
    return any(is_clutter(Path(part)) for part in Path(name).parts[:-1] if part not in named)


def predict(
    model: Path | str | Run,
    photographs: Sequence[Path | str | Sample] | Path | str,
    *,
    top: int = 1,
    device: str = "auto",
    workers: int | None = None,
    levels: Levels | None = None,
    preprocess: Preprocess | None = None,
    classes: tuple[str, ...] | None = None,
    plugins: Plugins | None = None,
    remark: Callable[[str, str], None] = lambda path, text: None,
) -> tuple[list[Prediction], list[BadFile]]:
    """Classify images; returns their predictions, in order, and the files that could not be decoded.

    Args:
        model: a run, its folder, or an exported file.
        photographs: paths of image files, and folders of them; or one such path. Samples are taken as well, such as
            those of `zoo.data.opening.open_unlabelled`.
        top: number of classes in each prediction; all of them, where the model has fewer.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `rocm`, `xpu` or `mps`.
        workers: threads that decode images; None: chosen by the number of processors.
        levels: grey levels that become black and white, in images of more than 8 bits; None: those that the model was
            trained with.
        preprocess: how images are prepared; only for a file that zoo did not write.
        classes: the class names; only for a file that zoo did not write.
        plugins: loaded plugins; None: load those installed.
        remark: called with the path of an image that is classified though something is wrong with it, and what that is.

    Raises:
        UsageError: the model is neither a run nor an exported file, or `preprocess` or `classes` are given for a model
            that states them itself, or `levels` are not two numbers of which the first is lower.
        ZooError: the model cannot be opened.
    """
    found: list[Prediction] = []
    bad: list[BadFile] = []
    for one in predict_each(
        model,
        photographs,
        top=top,
        device=device,
        workers=workers,
        levels=levels,
        preprocess=preprocess,
        classes=classes,
        plugins=plugins,
        remark=remark,
    ):
        if isinstance(one, Prediction):
            found.append(one)
        else:
            bad.append(one)
    return found, bad


def predict_each(
    model: Path | str | Run,
    photographs: Sequence[Path | str | Sample] | Path | str,
    *,
    top: int = 1,
    device: str = "auto",
    workers: int | None = None,
    levels: Levels | None = None,
    preprocess: Preprocess | None = None,
    classes: tuple[str, ...] | None = None,
    plugins: Plugins | None = None,
    remark: Callable[[str, str], None] = lambda path, text: None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Prediction | BadFile]:
    """Classify images one batch after the other; yields one result for each path, in order. See `predict`.

    The model is opened at once; each batch is read when it is asked for. `note` is called, before the first result,
    with what was decided for all images.
    """
    from zoo.plugin import Plugins

    if top < 1:
        raise UsageError(f"`top={top}` is less than 1", hint="pass the number of classes to show")
    given = check_levels(levels)
    samples: list[Sample] = []
    for path in as_list(photographs):
        if isinstance(path, Sample):
            samples.append(path)
            continue
        found = find_photographs([str(path)]) if user_path(str(path)).is_dir() else [path]
        samples += [Sample(str(each), "", Path(each)) for each in found]
    plugins = plugins or Plugins()
    if preprocess is not None:
        predictor = _foreign(model, device, preprocess, classes, plugins)
    elif classes is not None:
        raise UsageError(
            "`--classes` is for files that zoo did not write, together with `--preprocess`",
            hint="leave it out: runs and files that zoo wrote name their classes themselves",
        )
    else:
        predictor = open_predictor(model, device, plugins)
    said = levels_text(given, predictor.preprocess.levels)
    if said is not None:
        note(said)
    if top > (count := len(predictor.classes)):
        note(f"`--top {top}`: the model has {counted(count, 'class', 'classes')}, and all of them are given")
    independent = bool(getattr(predictor, "independent", False))  # probabilities that do not sum to 1

    def results() -> Iterator[Prediction | BadFile]:
        told: Callable[[Sample, str], None] = lambda sample, text: remark(sample.id, text)
        count = workers or default_workers()
        for sample, result in predict_all(predictor, samples, workers=count, levels=given, remark=told):
            if isinstance(result, BadImage):
                yield BadFile(sample.id, result.message)
                continue
            logits = result.logits
            shares = 1 / (1 + np.exp(-logits.astype(np.float64))) if independent else softmax(logits[None])[0]
            order = np.argsort(-shares, kind="stable")[:top]
            best = tuple((predictor.classes[i], float(shares[i])) for i in order)
            yield Prediction(path=sample.id, top=best, unknown_score=result.unknown)

    return results()


def predict_all(
    predictor: Predictor,
    samples: Iterable[Sample],
    *,
    workers: int,
    levels: Levels | None = None,
    advance: Callable[[int], None] = lambda count: None,
    remark: Callable[[Sample, str], None] = lambda sample, text: None,
) -> Iterator[tuple[Sample, ImageAnswer | BadImage]]:
    """Decode and classify samples, in order; yields each with its answer or its decoding error.

    Evaluation, prediction and the checks of an exported file all use this function. Images are classified in batches.

    Args:
        predictor: classifies the images.
        samples: their labels are not used.
        workers: threads that decode images.
        levels: grey levels that become black and white; None: those of the model.
        advance: called with the number of images classified.
        remark: called, by any thread, with what was wrong with an image that is classified nevertheless.

    Raises:
        ZooError: the model gives a logit or a score that is not finite.
    """
    pending: list[tuple[Sample, Pixels | BadImage]] = []

    def classified() -> Iterator[tuple[Sample, ImageAnswer | BadImage]]:
        images = [result for _, result in pending if not isinstance(result, BadImage)]
        names = [sample.id for sample, result in pending if not isinstance(result, BadImage)]
        rows = _finite_answers(predictor, images, names) if images else iter(())
        advance(len(images))
        for sample, result in pending:
            yield sample, result if isinstance(result, BadImage) else next(rows)
        pending.clear()

    count = size = 0
    levels = predictor.preprocess.levels if levels is None else levels
    for sample, result in decode_all(samples, workers, levels=levels, remark=remark):
        pending.append((sample, result))
        if not isinstance(result, BadImage):
            count, size = count + 1, size + result.shape[0] * result.shape[1]
        del result
        if count == BATCH or size >= BATCH_PIXELS:
            yield from classified()
            count = size = 0
    yield from classified()


def _finite_answers(predictor: Predictor, images: Sequence[Pixels], names: Sequence[str]) -> Iterator[ImageAnswer]:
    """Answers for decoded images. NaN has no largest class, so it must not become a label, and is below no threshold.

    Raises:
        ZooError: one of them is not finite, or they have a wrong type or shape.
    """
    logits, scores = answers = ask(predictor, images)
    wanted = (len(images), len(predictor.classes))
    if not isinstance(logits, np.ndarray) or logits.shape != wanted or logits.dtype.kind != "f":
        kind = type(predictor)
        what = f"{logits.dtype} {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise ZooError(
            f"`{kind.__module__}:{kind.__qualname__}` gives logits that are {what}, not floats {wanted}, for "
            f"{counted(len(images), 'photograph')} and {counted(len(predictor.classes), 'class', 'classes')}",
            hint="the plugin must be mended; `zoo plugins` names its distribution",
        )
    broken = not_finite(logits, names, predictor.classes)
    if broken is not None:
        raise ZooError(
            f"the model is damaged, or its numbers overflow: {broken}",
            hint="`zoo verify FILE` finds damage of an exported file; fp16 overflows above 65504, so export in fp32",
        )
    check_scores(answers, threshold_of(predictor) is not None, names)
    return map(ImageAnswer, logits, [None] * len(images) if scores is None else scores.tolist())


def check_scores(answers: Answers, wanted: bool, names: Sequence[str]) -> None:
    """Check scores of strangeness: one finite number for each image where there should be any, and else none.

    Raises:
        ZooError: they are not.
    """
    scores = answers.unknown
    if scores is None and not wanted:
        return
    if scores is None or not wanted or scores.shape != (len(names),):
        what = "no scores" if scores is None else f"scores of the shape {scores.shape}"
        raise ZooError(
            f"the model gives {what} for {counted(len(names), 'photograph')}",
            hint="export the run again" if wanted else "a model without a threshold gives none",
        )
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise ZooError(
            f"the model is damaged, or its numbers overflow: `unknown` of `{names[broken[0]]}` is {scores[broken[0]]}",
            hint="`zoo verify FILE` finds damage of an exported file; fp16 overflows above 65504, so export in fp32",
        )


def check_levels(levels: Sequence[float] | None) -> Levels | None:
    """Check `--levels LOW HIGH`.

    Raises:
        UsageError: they are not two numbers of which the first is lower.
    """
    try:
        return levels_of(levels)
    except ValueError as error:
        raise UsageError(f"`--levels`: {error}", hint="such as `--levels 0 4095` for 12 bits") from error


def levels_text(given: Levels | None, own: Levels | None) -> str | None:
    """What is said of the grey levels: those given, or those of the model; None: those of each image's type."""
    if given is None and own is None:
        return None
    low, high = given or own or (0.0, 0.0)
    said = f"grey levels {low:,.6g} to {high:,.6g} become black to white, in images of more than 8 bits"
    if given is None:
        return f"{said}, as in training; `--levels LOW HIGH` changes it"
    if given == own:
        return f"{said}, as in training"
    before = "those of each image's type" if own is None else f"{own[0]:,.6g} to {own[1]:,.6g}"
    return f"{said}; the model was trained with {before}"


def _foreign(
    model: Path | str | Run, device: str, preprocess: Preprocess, classes: tuple[str, ...] | None, plugins: Plugins
) -> Predictor:
    """The predictor for a file that zoo did not write.

    Raises:
        UsageError: the model is a run, or its exporter opens only files that zoo wrote.
    """
    if not isinstance(model, (Path, str)) or Path(model).is_dir():
        raise UsageError(
            "`--preprocess` is for files that zoo did not write",
            hint="leave it out: a run states how its photographs are prepared",
        )
    exporter = find_exporter(Path(model), plugins)
    if exporter.foreign is None:
        raise UsageError(f"`{exporter.name}` files that zoo did not write cannot be opened")
    if classes is not None:
        check_classes(classes)
    found: Predictor = load_target(exporter.foreign)(Path(model), device, preprocess, classes)
    check_returned(found, PREDICTOR, exporter.foreign, f"exporter `{exporter.name}`")
    return found


def read_preprocess(text: str, plugins: Plugins) -> Preprocess:
    """Read `--preprocess`: JSON such as `{"resize": 256, "crop": 224}`, or the name of a backbone.

    Raises:
        UsageError: the text is neither.
    """
    if not text.strip().startswith("{"):
        return plugins.backbones.find(text).value.preprocess
    default = Preprocess().to_json()
    try:
        given = json.loads(text)
        unknown = sorted(set(given) - {*default, "levels", "fill", "max_aspect"})
        if not unknown:
            if given.get("fit") == "pad":  # an image is resized to what it is padded to
                default["resize"] = given.get("crop", default["crop"])
            fit = {**default, **given}["fit"]
            stored = {setting: name for name, setting in FIT_SETTINGS.items()}  # `crop` is stored as `shorter`
            return Preprocess.from_json({**default, **given, "fit": stored.get(fit, fit)})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"`--preprocess` cannot be read: {error}", hint=_EXAMPLE) from error
    raise UsageError(f"`--preprocess` has no key `{unknown[0]}`", hint=f"its keys are {' '.join(default)}")


def read_classes(file: Path) -> tuple[str, ...]:
    """Read class names from a text file with one name per line; editors may begin and end it with what is no name.

    Raises:
        UsageError: the file cannot be read as text, a line is empty, or a name occurs twice.
    """
    try:
        names = file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"classes `{file}` cannot be read: {error}", hint="pass a UTF-8 text file with one class name per line"
        ) from error
    names = [name.removesuffix("\r") for name in names]
    if "" in names:
        raise UsageError(
            f"line {names.index('') + 1} of classes `{file}` is empty", hint="write one class name per line"
        )
    return check_classes(tuple(names))


def check_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that class names are unique.

    Raises:
        UsageError: one occurs twice.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"class `{twice}` occurs twice in `--classes`", hint="class names must be unique")
    return names


_EXAMPLE = """pass '{"resize": 256, "crop": 224, "interpolation": "bicubic"}', or the name of a backbone"""
