"""The laws of datasets."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from zoo.catalogue import Entry
from zoo.data.image import BadImage, decode
from zoo.data.opening import MEND, absolute, call_dataset, open_images, open_to_score, open_unlabelled
from zoo.dataset import Dataset, Images, Sample
from zoo.errors import UsageError, ZooError, type_and_first_line
from zoo.plugin import Plugins
from zoo.target import load_target
from zoo.testing.law import NotChecked, Violation, require

SEEDS = (0, 1)
READ = 8  # images of each split that are decoded
NOWHERE = "no-such-thing-of-the-check-of-zoo"


def check_dataset(dataset: str, *, plugins: Plugins | None = None) -> None:
    """Check a dataset.

    What is not there is a `zoo.ZooError`, or an `OSError` of the system. The images have distinct ids, labels that are
    classes, and sorted classes; they can be trained on and scored. The same argument and seed give the same splits in
    the same order. Another seed loses no image, and changes no split unless the dataset says that its splits are
    `drawn`. An image can be read more than once, with the same bytes, and some images of each split can be decoded. The
    argument that `absolute` gives opens the same images from another folder.

    Args:
        dataset: Its text, as `--data` takes it, such as `table:labels.csv`. The name alone stands for the argument ``;
            where that names no images, what needs images is not checked.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        NotChecked: the dataset needs an argument.
        UsageError: there is no such dataset, or its argument is wrong.
    """
    plugins = plugins or Plugins()
    name, colon, _ = dataset.partition(":")
    entry = plugins.datasets.find(name)
    _check_missing(entry)
    try:
        first = open_images(dataset, SEEDS[0], plugins)
    except (UsageError, OSError) as error:
        if colon:
            raise
        why = error.message if isinstance(error, UsageError) else type_and_first_line(error)
        raise NotChecked(
            f"it needs an argument: {why}", hint=f"pass data that it opens, such as `--data {entry.name}:ARGUMENT`"
        ) from error
    except ZooError as error:
        raise Violation(f"`{name}`: {error.message}", hint=error.hint) from error
    _check_images(name, first)
    again, other = (open_images(dataset, seed, plugins) for seed in SEEDS)
    require(
        _ids(first) == _ids(again),
        f"`{name}`: the same argument and split seed give other images, or in another order",
        hint="sort what you list, and draw by `random.Random(split_seed)`",
    )
    one, two = (sorted((sample.id, sample.label) for sample in _all(images)) for images in (first, other))
    require(one == two, f"`{name}`: another split seed gives other images, not only other splits")
    require(
        first.drawn or _ids(first) == _ids(other),
        f"`{name}`: its splits follow the split seed, but it does not say that they are drawn",
        hint="pass `drawn=True` to `zoo.Images`",
    )
    for role, samples in first.splits.items():
        _check_readable(name, role, samples)
    scored, unlabelled = open_to_score(dataset, SEEDS[0], plugins), open_unlabelled(dataset, plugins)
    known = {sample.id for sample in _all(first)}
    require(
        known <= {sample.id for sample in _all(scored)},
        f"`{name}`: `open_to_score` leaves out images that `open` finds",
    )
    require(
        known <= {sample.id for sample in unlabelled.samples},
        f"`{name}`: `open_unlabelled` leaves out images that `open` finds",
    )
    _check_absolute(name, dataset, first, plugins)


def _check_missing(entry: Entry[Dataset]) -> None:
    """Check the error for an argument that names nothing; a dataset without an argument may open all the same."""
    row = entry.value
    for what in ("open", "open_to_score", "open_unlabelled", "absolute", "absolute_from", "with_group"):
        function = getattr(row, what)
        if function is not None:
            load_target(function)
    try:
        with tempfile.TemporaryDirectory() as folder:
            call_dataset(entry, row.open, f"{folder}/{NOWHERE}", SEEDS[0])
    except OSError:
        return
    except ZooError as error:
        require(
            error.hint != MEND,
            f"`{row.name}`: an argument that names nothing: {error.message}",
            hint="raise `zoo.UsageError` with a message and a hint",
        )


def _check_images(name: str, images: Images) -> None:
    require(
        list(images.classes) == sorted(images.classes),
        f"`{name}`: its classes are not sorted: {' '.join(images.classes[:5])}",
        hint="pass `classes=tuple(sorted(...))`",
    )
    roles = set(images.splits)
    require(
        "train" in roles and bool(roles & {"val", "test"}),
        f"`{name}` has no split but {' '.join(sorted(roles))}; training needs `train`, and `val` or `test`",
    )
    lost = sorted(set(images.classes) - {sample.label for sample in images.splits["train"]})
    require(lost == [], f"`{name}`: class `{lost[0] if lost else ''}` has no image in `train`")


def _ids(images: Images) -> Mapping[str, Sequence[tuple[str, str]]]:
    return {role: [(sample.id, sample.label) for sample in samples] for role, samples in images.splits.items()}


def _all(images: Images) -> list[Sample]:
    return [sample for samples in images.splits.values() for sample in samples]


def _check_readable(name: str, role: str, samples: Sequence[Sample]) -> None:
    """Check that images can be read, and read again: some that lie evenly in the split."""
    wrong = ""
    read = 0
    for place in sorted({int(one) for one in np.linspace(0, len(samples) - 1, READ)}):
        source = samples[place].source
        try:
            pixels, again = decode(source), decode(source)
        except BadImage as error:
            wrong = error.message
            continue
        read += 1
        require(
            np.array_equal(pixels, again),
            f"`{name}`: image `{samples[place].id}` has other pixels when it is read again",
            hint="`open` gives a new stream each time that it is called",
        )
    require(read > 0, f"`{name}`: none of the images of `{role}` that were tried can be decoded: {wrong}")


def _check_absolute(name: str, dataset: str, images: Images, plugins: Plugins) -> None:
    """Check that a run would find its data from any folder."""
    text = absolute(dataset, plugins)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            found = open_images(text, SEEDS[0], plugins)
        except (ZooError, OSError) as error:
            raise Violation(
                f"`{name}`: `{text}` opens no images from another folder, where a run would look for it",
                hint="register `absolute`, which makes the paths of an argument absolute",
            ) from error
        require(
            _ids(found) == _ids(images) and absolute(text, plugins) == text,
            f"`{name}`: `{text}` is another argument, or opens other images, in another folder",
            hint="`absolute` gives an absolute path, and leaves such a path as it is",
        )
