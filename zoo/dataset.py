"""Dataset: labelled images with splits that have roles, and classes that have names."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from zoo.target import lazy_attributes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")

LOCKED = "locked"  # `locked:DATA`


class ImageSource(Protocol):
    """Where an image comes from. Nothing is read before `open` is called.

    Two sources whose `open` gives the same bytes, or equal arrays, hold the same image.
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
        return self.path.open("rb")

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class BytesSource:
    """An encoded image that is not a file of its own: a member of an archive, a cell of a table, an object in a store.

    `load` reads its bytes; it may be called several times, by several threads at once.
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
    """A path or an array as the source that reads it; a source as it is."""
    if isinstance(value, (str, Path)):
        return FileSource(Path(value))
    if hasattr(value, "open"):
        return value
    assert hasattr(value, "__array__"), f"an image's source is a path, an array, or has `open`; it is {value!r}"
    return ArraySource(value)


@dataclass(frozen=True, init=False)
class Sample:
    """One labelled image: what it shows, and where its bytes or pixels are.

    Attributes:
        id: unique in its dataset: the path below the data folder, with forward slashes.
        label: a class name.
        source: read only when the image is needed.
    """

    id: str
    label: str
    source: ImageSource = field(repr=False, compare=False)

    def __init__(self, id: str, label: str, source: ImageSource | Path | str | npt.NDArray[np.uint8]) -> None:
        """Make a sample; a path or an array is wrapped in a source that reads it."""
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "source", as_source(source))


@dataclass(frozen=True, kw_only=True)
class Images:
    """An opened dataset.

    `splits` holds `train` and at least one of `val` and `test`. `rejected` are files that are no photographs by
    their kind, with the reason; files that turn out to be broken are found by the scan.
    """

    name: str
    classes: tuple[str, ...]  # sorted
    splits: Mapping[Role, tuple[Sample, ...]]
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # what was decided while opening, for the user: how it was split

    @property
    def reported(self) -> Role:
        """The split whose figures a training run reports: `val` where there is one, else `test`."""
        return "val" if "val" in self.splits else "test"

    @property
    def may_choose(self) -> bool:
        """Whether anything may be chosen on `val`: only where a `test` split remains to be reported on."""
        return "val" in self.splits and "test" in self.splits


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A row of the catalogue: a source of labelled images, named `NAME:ARGUMENT` by `--data`.

    Attributes:
        open: `(argument, split_seed) -> Images`, as a callable or as `"module:function"`.
        absolute: `(argument) -> argument` with its paths made absolute, so that a run finds its data from any folder;
            None where the argument names no path.
    """

    name: str
    summary: str
    open: str | Callable[[str, int], Images] = field(repr=False)
    absolute: str | Callable[[str], str] | None = field(repr=False, default=None)


__getattr__ = lazy_attributes(
    __name__,
    {name: f"zoo.data.opening:{name}" for name in ("absolute", "choose_split", "open_images")},
)
