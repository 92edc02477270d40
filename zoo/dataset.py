"""Datasets: labelled images, divided into the splits `train`, `val` and `test`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from zoo.errors import ZooError
from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")

LOCKED = "locked"  # as in `--data locked:DATA`
FOLD = "fold"  # as in `fold:2/5:DATA`, the data of one of the runs of `zoo train --folds 5`
FINAL = "final"  # as in `final:DATA`, the data of `zoo train --final`


class ImageSource(Protocol):
    """A reference to an image. Nothing is read before `open` is called.

    Two sources hold the same image if `open` gives the same bytes or equal arrays.
    """

    def open(self) -> BinaryIO | npt.NDArray[np.uint8]:
        """The encoded image as a stream that the caller closes, or decoded pixels `(H, W, 3)` uint8 RGB.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def __str__(self) -> str:
        """What messages call the image, such as its path."""
        ...


@dataclass(frozen=True)
class FileSource:
    """An image file."""

    path: Path

    def open(self) -> BinaryIO:
        stream = self.path.open("rb")
        if stream.seekable():
            return stream
        with stream:  # a pipe, as of `<(command)`: it is read once, and decoders move back and forth
            return io.BytesIO(stream.read())

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class BytesSource:
    """An encoded image that is not a file of its own: a member of an archive, a cell of a table, an object in a store.

    Attributes:
        name: What messages call the image.
        load: Reads its bytes. It may be called several times, and by several threads at once.
    """

    name: str
    load: Callable[[], bytes] = field(repr=False)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.load())

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Decoded pixels `(H, W, 3)` uint8 RGB in memory."""

    pixels: npt.NDArray[np.uint8] = field(repr=False)

    def open(self) -> npt.NDArray[np.uint8]:
        return self.pixels

    def __str__(self) -> str:
        return f"pixels in memory, {' x '.join(map(str, self.pixels.shape))}"


def as_source(value: ImageSource | Path | str | npt.NDArray[np.uint8]) -> ImageSource:
    """The source that reads a path or an array; a source is returned unchanged."""
    if isinstance(value, (str, Path)):
        return FileSource(Path(value))
    if hasattr(value, "open"):
        return value
    assert hasattr(value, "__array__"), f"an image's source is a path, an array or an object with `open`, not {value!r}"
    return ArraySource(value)


@dataclass(frozen=True, init=False)
class Sample:
    """One labelled image.

    Attributes:
        id: Unique in the dataset: the path below the data folder, with forward slashes.
        label: Name of its class.
        source: Where its bytes or pixels are. It is read only when the image is needed.
        group: What it shares with other images that must stay in one split, such as a patient, a camera or a video.
            None: it is in no group.
    """

    id: str
    label: str
    source: ImageSource = field(repr=False, compare=False)
    group: str | None = None

    def __init__(
        self,
        id: str,
        label: str,
        source: ImageSource | Path | str | npt.NDArray[np.uint8],
        group: str | None = None,
    ) -> None:
        """Make a sample. A path or an array is wrapped in a source that reads it."""
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "source", as_source(source))
        object.__setattr__(self, "group", group)


@dataclass(frozen=True, kw_only=True)
class Images:
    """An opened dataset.

    Attributes:
        name: What messages and reports call the data.
        classes: Names of the classes, sorted.
        splits: Samples of each split: `train`, and at least one of `val` and `test`. Data that a model is evaluated on
            may have any of them. A tuple or list of samples will do; where there are many, readers of zoo give
            `zoo.data.sample_columns.SampleColumns`, which makes a sample when it is asked for.
        rejected: Path and reason of each file that is not an image by its type. Damaged images are found later, when
            they are decoded.
        notes: Decisions taken while opening, for the user, such as how the data were split.
        drawn: Whether the splits were drawn at random, because the data came without any.
        files: SHA-256 of each file that says which images there are, such as a table, by its path. A run records them.
        elsewhere: Ids of images of the data that are in none of these splits, such as those of `test` where a fold
            is held out.
        whole: Whether these are the images of a final run: all that are not in `test` are in `train`, and no split is
            reported.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[Role, Sequence[Sample]]
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    drawn: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    whole: bool = False

    def __post_init__(self) -> None:
        """Check what every user of the images relies on.

        Raises:
            ZooError: a role is unknown, a split is empty or no sequence, or an id is repeated.
        """
        classes = set(self.classes)
        if not self.splits:
            raise ZooError(f"`{self.name}` has no split")
        if len(classes) < len(self.classes) or not all(isinstance(name, str) and name for name in classes):
            raise ZooError(f"`{self.name}` has classes that are not different names: {self.classes!r}")
        for role, samples in self.splits.items():
            if role not in ROLES:
                meant = next((known for known in ROLES if str(role).lower().startswith(known)), None)
                hint = f"did you mean `{meant}`?" if meant else f"the splits are {' '.join(ROLES)}"
                raise ZooError(f"`{self.name}` has an unknown split `{role}`", hint=hint)
            if not isinstance(samples, Sequence):
                kind = type(samples).__name__
                raise ZooError(f"split `{role}` of `{self.name}` is a {kind}, not a tuple of `zoo.Sample`")
            if not samples:
                raise ZooError(f"split `{role}` of `{self.name}` is empty", hint="leave it out")
        parts = list(self.splits.values())
        known_distinct = getattr(parts[0], "distinct", None)  # of `SampleColumns`, whose ids were compared once
        if known_distinct is None or not known_distinct(parts):
            self._check_ids()

    def _check_ids(self) -> None:
        """Check every sample, and that no id comes twice.

        Raises:
            ZooError: as above.
        """
        ids: set[str] = set()
        for role, samples in self.splits.items():
            for sample in samples:
                if not isinstance(sample, Sample) or not isinstance(sample.id, str) or not sample.id:
                    raise ZooError(f"split `{role}` of `{self.name}` holds {sample!r}, not a `zoo.Sample` with an id")
                if not isinstance(sample.label, str) or not isinstance(sample.group, (str, type(None))):
                    kept = "group" if isinstance(sample.label, str) else "label"
                    raise ZooError(f"image `{sample.id}` of `{self.name}` has a {kept} that is no text: {sample!r}")
                if sample.id in ids:
                    raise ZooError(f"`{self.name}` has two images with the id `{sample.id}`", hint="make ids unique")
                ids.add(sample.id)

    @property
    def reported(self) -> Role:
        """The split that a training run reports its metrics on: `val` if there is one, else `test`."""
        return "val" if "val" in self.splits else "test"

    @property
    def may_choose(self) -> bool:
        """Whether `val` may be used to choose, as in early stopping: only if `test` remains for the final report."""
        return "val" in self.splits and "test" in self.splits


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Images without labels, to be predicted or embedded.

    Attributes:
        name: What messages call the data.
        samples: The images, in the order of the data; each label is empty.
        rejected: Path or name, and reason, of each that cannot be read.
        notes: Decisions taken while opening, for the user.
    """

    name: str
    samples: Sequence[Sample]
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A kind of labelled images that a plugin registers; `--data NAME:ARGUMENT` opens it.

    Attributes:
        name: What is typed before the colon.
        summary: One line for `zoo list datasets`.
        open: `(argument, split_seed) -> Images`, as a callable or as `"module:function"`.
        with_group: `(argument, name) -> argument | None`: the argument of the same data with the groups of the column
            `name`, as `--group NAME` asks for; None where there is no such column. A callable or `"module:function"`.
            None: the data have no columns, so `--group` is a pattern.
        absolute: `(argument) -> argument` with its paths made absolute, so that a run finds its data from any folder.
            A callable or `"module:function"`. None: the argument contains no path.
        absolute_from: As `absolute`, but `(argument, base) -> argument` with the folder that relative paths begin at,
            for an argument that is more than one path. It is preferred where both are given.
        open_to_score: `(argument) -> Images` for evaluating a model, which needs less than training: one class, a few
            images or a test split alone will do. A callable or `"module:function"`. None: `open` serves for both.
        open_unlabelled: `(argument) -> Unlabelled` for predicting: labels are neither needed nor looked at. A callable
            or `"module:function"`. None: the images of all splits are predicted.
    """

    name: str
    summary: str
    open: str | Callable[[str, int], Images] = field(repr=False)
    absolute: str | Callable[[str], str] | None = field(repr=False, default=None)
    open_to_score: str | Callable[[str], Images] | None = field(repr=False, default=None)
    absolute_from: str | Callable[[str, Path], str] | None = field(repr=False, default=None)
    open_unlabelled: str | Callable[[str], Unlabelled] | None = field(repr=False, default=None)
    with_group: str | Callable[[str, str], str | None] | None = field(repr=False, default=None)


__getattr__ = lazy_attributes(
    __name__,
    {
        **{
            name: f"zoo.data.opening:{name}"
            for name in ("absolute", "choose_split", "open_images", "open_to_score", "open_unlabelled")
        },
        **{
            name: f"zoo.data.folder_walk:{name}" for name in ("is_clutter", "is_photograph", "subfolders", "walk_files")
        },
        **{
            name: f"zoo.data.folder_walk:{name}"
            for name in ("is_clutter", "is_photograph", "subfolders", "walk_files", "why_unprintable", "why_unusable")
        },
        **{name: f"zoo.data.class_names:{name}" for name in ("composed", "folded")},
        **{
            name: f"zoo.data.data_argument:{name}"
            for name in (
                "Argument",
                "Kind",
                "is_url",
                "matching_files",
                "parse_argument",
                "resolved_argument",
                "without_secret",
                "address_parts",
            )
        },
        **{
            name: f"zoo.data.labelled_rows:{name}"
            for name in (
                "LabelledRows",
                "ONE_LABEL",
                "case_notes",
                "check_splits",
                "is_missing",
                "listed",
                "same_spelling",
            )
        },
        **{
            name: f"zoo.data.sample_columns:{name}"
            for name in ("Below", "ByteRanges", "Place", "SampleColumns", "SampleTable", "Texts", "label_counts")
        },
        **{name: f"zoo.data.split_words:{name}" for name in ("SPLIT_WORDS", "role_in_name", "role_of")},
        **{
            name: f"zoo.data.table:{name}"
            for name in (
                "LABEL_NAMES",
                "LOOKED_AT",
                "PATH_NAMES",
                "SPLIT_NAMES",
                "Table",
                "cell_text",
                "decoded_text",
                "read_table",
            )
        },
        "FOREIGN_SUFFIXES": "zoo.data.image_formats:FOREIGN_SUFFIXES",
        "user_path": "zoo.storage.paths:user_path",
        "SUFFIXES": "zoo.data.image_formats:SUFFIXES",
        "split_stratified": "zoo.data.splitting:split_stratified",
    },
)
