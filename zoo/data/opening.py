"""Opening data: from the text of `--data` to labelled images and their splits."""

from __future__ import annotations

from pathlib import Path

from zoo.data.splitting import lock
from zoo.dataset import LOCKED, ROLES, Images, Sample
from zoo.errors import UsageError, ZooError, did_you_mean
from zoo.plugin import Plugins
from zoo.target import load_target


def absolute(spec: str, plugins: Plugins) -> str:
    """The text of `--data` with its paths made absolute, so that a run finds its data from any folder.

    A dataset knows which parts of its argument are paths (`Dataset.absolute`). URLs and names stay as they are.
    """
    name, colon, argument = spec.partition(":")
    if name == LOCKED and colon:
        return f"{LOCKED}:{absolute(argument, plugins)}"
    if name in plugins.datasets:
        resolve = plugins.datasets.find(name).value.absolute
        return f"{name}:{load_target(resolve)(argument)}" if colon and resolve is not None else spec
    if "://" in spec or not spec:
        return spec
    folder = Path(spec).expanduser()
    return str(folder.resolve()) if folder.is_dir() else spec


def open_images(spec: str, split_seed: int, plugins: Plugins, *, of_run: bool = False) -> Images:
    """Open `NAME:ARGUMENT`, `NAME`, or the bare path of a folder; `of_run` if a run asks for what it was trained on.

    `locked:DATA` are data whose last split nobody looks at by accident: see `zoo.data.splitting.lock`.

    Raises:
        UsageError: there is neither a dataset nor a folder of that name.
        ZooError: the same, where a run asks.
    """
    if not of_run:
        return _open_images(spec, split_seed, plugins)
    try:
        return _open_images(spec, split_seed, plugins)
    except UsageError as error:
        raise ZooError(
            f"the run was trained on `{spec}`, which cannot be opened: {error.message}",
            hint="pass `--data` with the place where the photographs are now",
        ) from error


def _open_images(spec: str, split_seed: int, plugins: Plugins) -> Images:
    if not spec.strip() or spec.strip() == "folder:":
        raise UsageError("`--data` is empty", hint="pass the path of a folder; `.` is the current one")
    name, colon, argument = spec.partition(":")
    if name == LOCKED and colon:
        return lock(_open_images(argument, split_seed, plugins), split_seed)
    datasets = plugins.datasets
    if name not in datasets:
        if not Path(spec).expanduser().exists() and "/" not in spec and "\\" not in spec and "." not in spec:
            known = [entry.name for entry in datasets]
            raise UsageError(
                f"`{spec}` is neither a folder here nor a dataset",
                hint=did_you_mean(name, known, "see `zoo list datasets`, or pass the path of a folder"),
            )
        name, argument = "folder", spec
    images: Images = load_target(datasets.find(name).value.open)(argument, split_seed)
    return images


def choose_split(images: Images, split: str | None) -> tuple[str, tuple[Sample, ...]]:
    """The samples of a split by role, of the reported one for None, or of `all`.

    Raises:
        UsageError: the data have no such split.
    """
    name = images.reported if split is None else split
    if name == "all":
        return name, tuple(sample for samples in images.splits.values() for sample in samples)
    for role in ROLES:
        if role == name and role in images.splits:
            return name, images.splits[role]
    known = " ".join([*images.splits, "all"])
    raise UsageError(f"`{images.name}` has no split `{name}`", hint=f"it has {known}")
