"""The images that a model is scored on: which data and split, divided as for training, without what was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.data.decoding import BadFile
from zoo.data.division import Division, divided_like
from zoo.data.exclusion import match, read_exclusion
from zoo.data.image_content import content_digest
from zoo.data.leakage import digests
from zoo.data.opening import absolute, choose_split, open_images, open_to_score, open_unlabelled, spelt_as
from zoo.data.selection import excluded_of
from zoo.dataset import FOLD, Images, Sample, Unlabelled
from zoo.errors import UsageError, ZooError, counted
from zoo.predictor import Predictor, threshold_of

if TYPE_CHECKING:
    from zoo.plugin import Plugins
    from zoo.runs.run import Run

CHOOSING: Literal["val"] = "val"  # split whose images are there for choices
SAME = 8  # images whose contents are compared to recognise the data of a run in another place


def open_unknown(predictor: Predictor, model: object, spec: str, plugins: Plugins) -> Unlabelled:
    """The images of no class, for a model that can tell them.

    Raises:
        UsageError: the model has no threshold, or there are no such data.
        ZooError: there are no images in them.
    """
    if not spec:
        raise UsageError("`--unknown` is empty", hint="pass a folder of images that are of no class")
    if threshold_of(predictor) is None:
        shown = model.path if hasattr(model, "path") else model
        raise UsageError(
            f"`{shown}` has no threshold for unknown images, so `--unknown` cannot be scored",
            hint="train with `--unknown-rate 0.01`, and export that run",
        )
    found = open_unlabelled(spec, plugins)
    if not found.samples:
        raise ZooError(f"`{found.name}` has no images", hint="pass a folder of images that are of no class")
    return found


def open_scored(
    data: str, split: str | None, split_seed: int, run: Run | None, plugins: Plugins
) -> tuple[Images, str, Sequence[Sample]]:
    """The data, and the name and samples of the split to score.

    Data without splits are scored whole, unless they are the run's own, which must be split as they were for training,
    or a split is named.
    """
    of_run = run is not None and data == run.experiment.data

    def opened(open: Callable[..., Images], same: bool) -> Images:
        """The images; with the run's groups, if they are those of the run."""
        group = run.experiment.group if same and run is not None else None
        images = open(data, split_seed, plugins, of_run=of_run, group=group)
        known = [name for part in run.contents().values() for name in part] if run is not None else []
        return spelt_as(images, known, run.classes) if run is not None else images

    images = opened(open_to_score, of_run)
    same = of_run or (run is not None and _is_data_of(run, images, data, plugins))
    if run is not None and same and not of_run:
        if divides := _divides(run, data):
            data = divided_like(run.experiment.data, data, words=not run.is_final)
        if divides or run.experiment.group is not None:
            images = opened(open_to_score, True)
    if images.drawn:
        own = of_run
        if run is not None and same and not own:
            divided = opened(open_images, True)  # as for training
            own = not run.fitted() & {sample.id for sample in divided.splits.get(divided.reported, ())}
        if own or split not in (None, "all"):
            images = opened(open_images, same)
        elif split is None:
            name, samples = choose_split(images, "all")
            whole = f"`{data}` comes without splits, so it is scored whole: {counted(len(samples), 'image')}"
            return replace(images, notes=(*images.notes, whole)), name, samples
    elif split is None and images.reported not in images.splits:
        split = "all"
    return images, *choose_split(images, split)


def _divides(run: Run, data: str) -> bool:
    """Whether a run's data were divided by a table, or for folds, and the text of other data says nothing of it."""
    own, other = Division.of(run.experiment.data), Division.of(data)
    return (own.table is not None or FOLD in own.words) and other.table is None and not other.words


def without_left_out(
    images: Images, samples: Sequence[Sample], run: Run | None, exclude: Path | str | None
) -> tuple[Images, Sequence[Sample], dict[str, Any] | None]:
    """The images and samples without those that the run left out of them, and without those of a list.

    Also what is recorded of the list.

    Raises:
        ZooError: no image is left.
    """
    gone = excluded_of(run.record) & {sample.id for sample in samples} if run is not None else set()
    if gone:
        what = counted(len(gone), "image is", "images are")
        text = f"{what} left out, as in training (`--exclude` or `--on-leak drop`)"
        images = replace(images, notes=(*images.notes, text))
    recorded = None
    if exclude is not None:
        exclusion = read_exclusion(exclude)
        found, notes = match(images, exclusion)
        images = replace(images, notes=(*images.notes, *notes))
        recorded, gone = exclusion.to_json(found), gone | found
    kept = tuple(sample for sample in samples if sample.id not in gone)
    if not kept:
        raise ZooError(f"all images of `{images.name}` that would be scored are left out")
    return images, kept, recorded


def images_to_choose_on(images: Images, split: str, run: Run | None, exclude: Path | str | None) -> Sequence[Sample]:
    """The images that something may be chosen on before `split` is reported: those of `val` where that is `test`.

    There are none where the model was fitted on some of them, as that of a final run was.
    """
    samples = images.splits.get(CHOOSING, ())
    if split != "test" or not samples:
        return ()
    try:
        _, kept, _ = without_left_out(images, samples, run, exclude)
    except ZooError:  # all are left out
        return ()
    fitted = set(run.contents().get("fit", {}).values()) if run is not None else set()
    return () if fitted and any(digest in fitted for _, digest in digests(kept)) else kept


def _is_data_of(run: Run, images: Images, data: str, plugins: Plugins) -> bool:
    """Whether these are the data that a run was trained on, under another spelling or in another place."""
    if absolute(data, plugins) == run.experiment.data:
        return True
    fitted = run.fitted()
    found = {sample.id: sample for samples in images.splits.values() for sample in samples}
    if not fitted or not fitted <= set(found):
        return False
    splits = run.splits()
    digests = dict(zip(splits["roles"]["fit"], splits.get("sha256", {}).get("fit", ())))
    some = list(digests.items())[:SAME]
    try:
        return bool(some) and all(content_digest(found[name].source).hex() == digest for name, digest in some)
    except OSError:
        return False


def rejected_among(images: Images, samples: Sequence[Sample]) -> list[BadFile]:
    """Files that are no images, in the top folders of the samples that are scored."""
    tops = {sample.id.partition("/")[0] for sample in samples}
    return [BadFile(name, reason) for name, reason in images.rejected if name.partition("/")[0] in tops]
