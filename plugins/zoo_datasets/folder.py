"""`folder:PATH`: images in class folders, with or without folders for the splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo import Images, Sample, UsageError, ZooError
from zoo.data.class_names import composed, folded
from zoo.data.folder_walk import is_clutter, is_photograph, subfolders, walk_files, why_unprintable, why_unusable
from zoo.data.image import SUFFIXES
from zoo.data.splitting import split_stratified
from zoo.dataset import ROLES, Role
from zoo.storage.paths import user_path

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

LAYOUT = "a data folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or `CLASS/*.jpg`"
SHOWN = 5  # names in a note


def absolute(argument: str) -> str:
    """The path of an existing folder made absolute; another text as it is."""
    folder = user_path(argument)
    return str(folder.resolve()) if argument and folder.is_dir() else argument


def open_folder(argument: str, split_seed: int) -> Images:
    """Open a folder of images to train on; its layout decides whether it is split at random.

    A `test/` without the classes of `train/` is left out with a note.

    Raises:
        UsageError: there is no such folder.
        ZooError: the folder has no images or only one class, or a class is missing from a split.
    """
    root = _root(argument)
    found = _Found(root)
    roles = _roles(root, argument)
    if "train" not in roles and roles:
        names = " ".join(folder.name for folder in roles.values())
        raise ZooError(f"`{argument}` has {names} but no folder `train`", hint=LAYOUT)
    found.look_beside(roles)
    notes: list[str] = []
    parts: dict[Role, Path] = roles or {"train": root}
    read = {role: found.samples(parts[role], may_be_empty=role == "test") for role in ROLES if role in parts}
    splits = _same_spelling(read, notes)
    _leave_out_unlabelled(splits, parts, found, notes)
    drawn = set(splits) == {"train"}
    if drawn:
        _check_classes(splits["train"], argument)
        splits = split_stratified(splits["train"], split_seed)
        notes.append(f"split 70/15/15 into train, val and test, stratified, by split seed {split_seed}")
    images = Images(
        name=f"folder:{argument}",
        classes=tuple(sorted({sample.label for sample in splits["train"]})),
        splits=splits,
        rejected=tuple(found.rejected),
        notes=(*notes, *_case_notes(splits["train"])),
        drawn=drawn,
    )
    _check_classes(images.splits["train"], argument)
    _check_splits(images, argument)
    return images


def open_to_score(argument: str) -> Images:
    """Open a folder of images to evaluate a model on: any split folders, or class folders alone, of any size.

    Raises:
        UsageError: there is no such folder.
        ZooError: no photographs lie in class folders.
    """
    root = _root(argument)
    found = _Found(root)
    roles = _roles(root, argument)
    found.look_beside(roles)
    parts: dict[Role, Path] = roles or {"test": root}
    read = {role: found.samples(parts[role], may_be_empty=True) for role in ROLES if role in parts}
    notes: list[str] = []
    splits = _same_spelling({role: samples for role, samples in read.items() if samples}, notes)
    if not splits:
        raise ZooError(
            f"`{argument}` holds no photographs in class folders",
            hint=f"{LAYOUT}; `zoo predict` classifies photographs without labels",
        )
    return Images(
        name=f"folder:{argument}",
        classes=tuple(sorted({sample.label for samples in splits.values() for sample in samples})),
        splits=splits,
        rejected=tuple(found.rejected),
        notes=tuple(notes),
        drawn=not roles or set(roles) == {"train"},
    )


def _root(argument: str) -> Path:
    root = user_path(argument)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"data folder `{argument}` {what}", hint=LAYOUT)
    return root


def _roles(root: Path, argument: str) -> dict[Role, Path]:
    """The split folders of a data folder, by role.

    Raises:
        ZooError: two folders are for one role.
    """
    roles: dict[Role, Path] = {}
    for folder in subfolders(root):
        role = SPLIT_FOLDERS.get(folder.name.lower())
        if role is None:
            continue
        if role in roles:
            raise ZooError(f"`{argument}` has two folders for {role}: `{roles[role].name}` and `{folder.name}`")
        roles[role] = folder
    return roles


@dataclass
class _Found:
    """What lies in a data folder: samples as they are asked for, and the path and reason of every other file."""

    root: Path
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def look_beside(self, roles: Mapping[Role, Path]) -> None:
        """Reject the photographs beside the folders, and the folders beside those of the splits."""
        self._reject_loose(self.root)
        if roles:
            self.rejected += [
                (f"{self._name(folder)}/", "is not a split folder, so it is ignored")
                for folder in subfolders(self.root)
                if folder not in roles.values()
            ]

    def samples(self, base: Path, *, may_be_empty: bool = False) -> tuple[Sample, ...]:
        """Every image in the class folders of `base`, at any depth; other files are rejected.

        Raises:
            ZooError: a class folder holds no photographs, and `may_be_empty` is not set.
        """
        if base != self.root:
            self._reject_loose(base)
        kept: list[Sample] = []
        for folder in subfolders(base):
            before, rejected = len(kept), len(self.rejected)
            for path in walk_files(folder):
                name = path.relative_to(self.root).as_posix()
                reason = why_unusable(path, name)
                if reason is None:
                    kept.append(Sample(name, folder.name, path))
                else:
                    self.rejected.append((name if why_unprintable(name) is None else ascii(name), reason))
            if len(kept) == before:
                self._empty(folder, self.rejected[rejected:], may_be_empty)
        return tuple(kept)

    def _empty(self, folder: Path, others: Sequence[tuple[str, str]], may_be: bool) -> None:
        name = self._name(folder)
        if may_be:
            self.rejected.append((f"{name}/", "holds no photographs"))
            return
        what = f"; the first other file, `{others[0][0]}`, {others[0][1]}" if others else ""
        raise ZooError(
            f"class folder `{name}` holds no photographs{what}",
            hint=f"photographs end in {' '.join(SUFFIXES)}; remove the folder if it is not a class",
        )

    def _reject_loose(self, folder: Path) -> None:
        """Reject the photographs beside the class folders: they belong to no class."""
        self.rejected += [
            (self._name(path), "lies outside the class folders")
            for path in sorted(folder.iterdir())
            if path.is_file() and is_photograph(path) and not is_clutter(path)
        ]

    def _name(self, path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        return name if why_unprintable(name) is None else ascii(name)


def _same_spelling(splits: Mapping[Role, Sequence[Sample]], notes: list[str]) -> dict[Role, tuple[Sample, ...]]:
    """Samples with labels that are equal where they are the same text in two Unicode forms.

    Linux and Windows write é as one character (NFC), macOS as two (NFD). The spelling that comes first is kept: of the
    training images, if there are any.
    """
    spelling: dict[str, str] = {}
    for samples in splits.values():
        for label in sorted({sample.label for sample in samples}):
            if spelling.setdefault(composed(label), label) != label:
                notes.append(f"class `{label}` comes in two Unicode forms (NFC and NFD), which are taken for one class")
    return {
        role: tuple(
            sample
            if (label := spelling[composed(sample.label)]) == sample.label
            else Sample(sample.id, label, sample.source)
            for sample in samples
        )
        for role, samples in splits.items()
    }


def _case_notes(samples: Iterable[Sample]) -> list[str]:
    """A note for classes that are told apart only by case or spaces."""
    alike: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        alike[folded(sample.label)].add(sample.label)
    return [
        f"classes {' '.join(f'`{name}`' for name in sorted(names))} differ only in case or spaces: if they are one "
        "class, merge their folders"
        for names in alike.values()
        if len(names) > 1
    ]


def _leave_out_unlabelled(
    splits: dict[Role, tuple[Sample, ...]], roles: Mapping[Role, Path], found: _Found, notes: list[str]
) -> None:
    """Drop a `test/` that has no class of `train/`: it may be there to be predicted, and training does not need it."""
    if "test" not in splits:
        return
    labels = {sample.label for sample in splits["test"]}
    if labels & {sample.label for sample in splits["train"]}:
        return
    name = roles["test"].name
    del splits["test"]
    found.rejected[:] = [one for one in found.rejected if not one[0].startswith(f"{name}/")]
    what = (
        f"its folders are {_listed(labels)}, none of them a class of `train`" if labels else "it has no class folders"
    )
    notes.append(f"`{name}/` is left out: {what}; `zoo predict` classifies photographs without labels")


def _listed(names: Iterable[str]) -> str:
    known = sorted(names)
    return " ".join(f"`{name}`" for name in known[:SHOWN]) + (" ..." if len(known) > SHOWN else "")


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
                    hint=_spelt_otherwise(name, found, role) or _EVERY_CLASS,
                )
        for name in sorted(found - set(images.classes)):
            raise ZooError(
                f"class `{name}` of `{role}` is missing from `train` of `{argument}`",
                hint=_spelt_otherwise(name, images.classes, "train") or _EVERY_CLASS,
            )


_EVERY_CLASS = "every class needs photographs in every split, in a folder of the same name"


def _spelt_otherwise(name: str, others: Iterable[str], role: Role) -> str | None:
    alike = [other for other in sorted(others) if folded(other) == folded(name)]
    return f"`{role}` has `{alike[0]}`: names of classes are compared by case and spaces" if alike else None
