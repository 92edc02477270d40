"""`torchvision:CIFAR10,root=data`: datasets of torchvision whose targets are classes."""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind, resolved_argument
from zoo.data.labelled_rows import LabelledRows
from zoo.data.split_words import SPLIT_WORDS, role_of
from zoo.errors import did_you_mean, quoted

OPTIONS: dict[str, Kind] = {"root": "path", "download": "text"}
TRAINED_ON = ("trainval", "train-standard")  # words of single datasets for what is trained on
SAVE = "save it as class folders"
EXAMPLE = "such as `torchvision:CIFAR10,root=data`"


def absolute(argument: Argument, options: dict[str, Kind], base: Any) -> Argument:
    """The argument with an absolute root; the name of the dataset is no path."""
    return replace(resolved_argument(argument, options, base), files=argument.files)


@dataclass(frozen=True, eq=False)
class Item:
    """An image of a dataset, decoded by torchvision when it is needed."""

    part: Any
    number: int
    name: str

    def open(self) -> npt.NDArray[np.uint8]:
        """The pixels `(H, W, 3)` uint8 RGB."""
        image, _ = self.part[self.number]
        return np.asarray(image.convert("RGB"), np.uint8)

    def __str__(self) -> str:
        return self.name


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the images of every split.

    Raises:
        UsageError: torchvision has no such dataset, or it is not in `root`.
        ZooError: it has no classes.
    """
    if len(argument.files) != 1 or "root" not in argument.options:
        raise UsageError("`torchvision:` takes the name of a dataset, and its folder as `root`", hint=EXAMPLE)
    if argument.get("download") not in (None, "yes", "no"):
        raise UsageError(f"`download={argument.get('download')}` is neither `yes` nor `no`")
    name = argument.files[0]
    for word, part in _parts(name, argument.options["root"], argument.get("download") == "yes"):
        classes = getattr(part, "classes", None) or getattr(part, "categories", None)
        targets = next(
            (
                found
                for each in ("targets", "labels", "_labels", "y")
                if (found := getattr(part, each, None)) is not None
            ),
            None,
        )
        for number in range(len(part)):
            found = targets[number] if targets is not None else part[number][1]
            try:
                target = operator.index(found)  # an integer of Python, numpy or torch
            except (TypeError, ValueError, RuntimeError) as error:
                raise ZooError(
                    f"`torchvision:{name}` has targets that are {type(found).__name__}, not classes"
                ) from error
            called = classes[target] if classes and 0 <= target < len(classes) else target
            label = ", ".join(called) if isinstance(called, tuple) else str(called)  # several names of one class
            image = f"{word or 'image'}/{number:08d}"
            rows.add(image, label, Item(part, number, f"torchvision:{name}/{image}"), split=word)


def _parts(name: str, root: str, download: bool) -> list[tuple[str | None, Any]]:
    """Each split of a dataset with its role; None: it comes without splits."""
    import torchvision.datasets

    kind: Any = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        hint = did_you_mean(name, torchvision.datasets.__all__, "see torchvision's documentation for the names")
        raise UsageError(f"torchvision has no dataset `{name}`", hint=hint)
    known = inspect.signature(kind).parameters
    options: dict[str, Any] = {"root": root}
    if "download" in known:
        options["download"] = download
    try:
        if "train" in known:
            make: Any = kind
            return [("train", make(train=True, **options)), ("test", make(train=False, **options))]
        if "split" in known:
            return _by_split(kind, options)
        whole: Any = kind(**options)
        if len(whole) and {"targets", "labels", "y", "classes", "categories", "num_classes"} & vars(whole).keys():
            return [(None, whole)]
    except (TypeError, NotImplementedError) as error:  # other arguments, or a base class, which has no images
        raise UsageError(f"`torchvision:{name}` cannot be opened: {quoted(error)}", hint=SAVE) from error
    except _NoSplit as error:
        raise ZooError(f"`torchvision:{name}` has no splits that are known: {quoted(error)}", hint=SAVE) from error
    except Exception as error:  # of a download, or of files that are not there
        hint = "check the network, or put its files into `root`"
        if not download:
            hint = "`download=yes` fetches it" if "download" in known else "put its files into `root`"
        raise UsageError(f"`torchvision:{name}` cannot be opened: {quoted(error)}", hint=hint) from error
    raise ZooError(f"`torchvision:{name}` is not known to have one class an image", hint=SAVE)


class _NoSplit(ValueError):
    """A dataset has none of the splits that are asked for."""


def _by_split(kind: Any, options: dict[str, Any]) -> list[tuple[str | None, Any]]:
    """Each split that the dataset takes: it refuses the words that it does not know."""
    found: dict[str, tuple[str | None, Any]] = {}
    error: Exception = ValueError("it knows no split")
    for word in (*SPLIT_WORDS, *TRAINED_ON):
        role = role_of(word) or "train"
        if role in found:
            continue
        try:
            found[role] = (role, kind(split=word, **options))
        except ValueError as refusal:
            error = refusal
    if not found:
        raise _NoSplit(str(error)) from error
    return list(found.values())
