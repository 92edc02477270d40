"""`folder:PATH`: images in class folders, with or without folders for the splits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from zoo import Images, Sample, UsageError, ZooError
from zoo.data.image import SUFFIXES
from zoo.data.splitting import split_stratified
from zoo.dataset import Role

# Usual names of split folders, and the role of each
SPLIT_FOLDERS: dict[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

# Files that operating systems create in folders; ignored without a warning
CLUTTER = ("thumbs.db", "desktop.ini")

LAYOUT = "a data folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or `CLASS/*.jpg`"


def absolute(argument: str) -> str:
    """The path of an existing folder made absolute; another text as it is."""
    folder = Path(argument).expanduser()
    return str(folder.resolve()) if argument and folder.is_dir() else argument


def open_folder(argument: str, split_seed: int) -> Images:
    """Open a folder of images; its layout decides whether it is split at random.

    Raises:
        UsageError: there is no such folder.
        ZooError: the folder has no images or only one class, or a class is missing from a split.
    """
    root = Path(argument).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"data folder `{argument}` {what}", hint=LAYOUT)
    try:
        return _open(root, argument, split_seed)
    except PermissionError as error:
        raise ZooError(
            f"`{error.filename}` cannot be read: permission denied", hint="check the permissions of the folder"
        ) from error


def _open(root: Path, argument: str, split_seed: int) -> Images:
    folders = _folders(root)
    roles: dict[Role, Path] = {}
    for folder in folders:
        role = SPLIT_FOLDERS.get(folder.name.lower())
        if role is None:
            continue
        if role in roles:
            raise ZooError(f"`{argument}` has two folders for {role}: `{roles[role].name}` and `{folder.name}`")
        roles[role] = folder
    if "train" not in roles and roles:
        names = " ".join(folder.name for folder in roles.values())
        raise ZooError(f"`{argument}` has {names} but no folder `train`", hint=LAYOUT)
    rejected: list[tuple[str, str]] = []
    _reject_loose(root, root, rejected)
    if roles:
        rejected += [
            (f"{folder.name}/", "is not a split folder, so it is ignored")
            for folder in folders
            if folder not in roles.values()
        ]
    if len(roles) >= 2:
        splits = {
            role: tuple(_samples(roles[role], root, rejected)) for role in ("train", "val", "test") if role in roles
        }
        notes: tuple[str, ...] = ()
    else:
        base = roles.get("train", root)
        samples = list(_samples(base, root, rejected))
        _check_classes(samples, argument)
        splits = split_stratified(samples, split_seed)
        notes = (f"split 70/15/15 into train, val and test, stratified, by split seed {split_seed}",)
    images = Images(
        name=f"folder:{argument}",
        classes=tuple(sorted({sample.label for sample in splits["train"]})),
        splits=splits,
        rejected=tuple(rejected),
        notes=notes,
    )
    _check_classes(images.splits["train"], argument)
    _check_splits(images, argument)
    return images


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_clutter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in CLUTTER


def _samples(base: Path, root: Path, rejected: list[tuple[str, str]]) -> Iterable[Sample]:
    """Yield every image in the class folders of `base`, at any depth; list other files in `rejected`."""
    if base != root:
        _reject_loose(base, root, rejected)
    for folder in _folders(base):
        before = len(rejected)
        found = 0
        for path in _walk(folder):
            name = path.relative_to(root).as_posix()
            if not name.isprintable():  # such as bytes that are not UTF-8, which neither JSON nor a terminal can show
                rejected.append((ascii(name), "its name cannot be printed"))
            elif not path.is_file():
                rejected.append((name, "is a broken link" if path.is_symlink() else "is not a regular file"))
            elif path.suffix.lower() in SUFFIXES:
                found += 1
                yield Sample(name, folder.name, path)
            else:
                rejected.append(
                    (name, f"its suffix `{path.suffix}` is not that of an image" if path.suffix else "has no suffix")
                )
        if found == 0:
            what = f"; the first other file is `{rejected[before][0]}`" if len(rejected) > before else ""
            raise ZooError(
                f"class folder `{folder.relative_to(root).as_posix()}` holds no photographs{what}",
                hint=f"photographs end in {' '.join(SUFFIXES)}; remove the folder if it is not a class",
            )


def _walk(folder: Path) -> Iterable[Path]:
    """Yield every file at any depth; follow links once, and skip hidden files and clutter.

    Raises:
        PermissionError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a loop of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not _is_clutter(Path(name)):
                yield Path(place, name)


def _reject_loose(folder: Path, root: Path, rejected: list[tuple[str, str]]) -> None:
    """List images beside the class folders in `rejected`; they belong to no class."""
    rejected += [
        (path.relative_to(root).as_posix(), "lies outside the class folders")
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in SUFFIXES and not _is_clutter(path)
    ]


def _check_classes(samples: Iterable[Sample], argument: str) -> None:
    names = sorted({sample.label for sample in samples})
    if not names:
        raise ZooError(f"`{argument}` holds no photographs in class folders", hint=LAYOUT)
    if len(names) == 1:
        raise ZooError(
            f"`{argument}` has one class only, `{names[0]}`", hint="classification needs at least two classes"
        )


def _check_splits(images: Images, argument: str) -> None:
    for role, samples in images.splits.items():
        found = {sample.label for sample in samples}
        for name in images.classes:
            if name not in found:
                raise ZooError(
                    f"class `{name}` is missing from `{role}` of `{argument}`",
                    hint="every class needs photographs in every split, in a folder of the same name",
                )
        for name in sorted(found - set(images.classes)):
            raise ZooError(
                f"class `{name}` of `{role}` is missing from `train` of `{argument}`",
                hint="every class needs photographs in every split, in a folder of the same name",
            )
