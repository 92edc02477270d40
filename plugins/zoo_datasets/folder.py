"""`folder:PATH`: images in class folders, with or without folders for the splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoo import Images, Sample, UsageError, ZooError
from zoo.data.class_names import folded
from zoo.data.data_argument import is_url
from zoo.data.folder_walk import is_clutter, is_photograph, subfolders, walk_files
from zoo.data.image_formats import SUFFIXES
from zoo.data.labelled_rows import case_notes, check_splits, listed, same_spelling
from zoo.data.sample_columns import Below, Place, SampleColumns, SampleTable, label_counts
from zoo.data.split_words import SPLIT_WORDS
from zoo.data.splitting import split_stratified
from zoo.dataset import ROLES, Role, Unlabelled
from zoo.storage.paths import user_path
from zoo_datasets.class_folders import READINGS, ClassFolders, Reading
from zoo_datasets.member_tree import Member
from zoo_datasets.remote import remote_tree

LAYOUT = "a data folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or `CLASS/*.jpg`"


def absolute(argument: str) -> str:
    """The path of an existing folder made absolute; another text as it is."""
    folder = user_path(argument)
    return str(folder.resolve()) if argument and folder.is_dir() else argument


def open_leaf(argument: str, split_seed: int) -> Images:
    """As `open_folder`, but the lowest folder that an image lies in is its class, not the highest."""
    return open_folder(argument, split_seed, "leaf")


def open_top(argument: str, split_seed: int) -> Images:
    """As `open_folder`, but every folder is a class, also one whose name is that of a split."""
    return open_folder(argument, split_seed, "top")


def score_leaf(argument: str) -> Images:
    """As `open_to_score`, but the lowest folder that an image lies in is its class."""
    return open_to_score(argument, "leaf")


def score_top(argument: str) -> Images:
    """As `open_to_score`, but every folder is a class."""
    return open_to_score(argument, "top")


def open_folder(argument: str, split_seed: int, reading: Reading = "plain") -> Images:
    """Open a folder of images to train on; its layout decides whether it is split at random.

    A `test/` without the classes of `train/` is left out with a note.

    Args:
        argument: The path.
        split_seed: Seed of the split, for a folder without split folders.
        reading: Which folders are classes, see `READINGS`.

    Raises:
        UsageError: there is no such folder.
        ZooError: the folder has no images or only one class, or a class is missing from a split.
    """
    if is_url(argument):
        return open_remote(argument, split_seed, reading)
    return open_tree(_root(argument), f"{READINGS[reading]}:{argument}", argument, split_seed, reading)


def open_tree(
    root: Path | Member,
    name: str,
    argument: str,
    split_seed: int,
    reading: Reading = "plain",
    rejected: Sequence[tuple[str, str]] = (),
) -> Images:
    """Open class folders to train on, in a folder or in an archive.

    Args:
        root: The folder with the class or split folders.
        name: What reports call the data.
        argument: What messages call the data.
        split_seed: Seed of the split, for data without split folders.
        reading: Which folders are classes, see `READINGS`.
        rejected: Name and reason of each file that is not read already.

    Raises:
        ZooError: there are no images or only one class, or a class is missing from a split.
    """
    found = ClassFolders(root, reading)
    found.rejected += rejected
    roles = _roles(root, argument, reading)
    if "train" not in roles and roles:
        names = " ".join(f"`{folder.name}`" for folder in roles.values())
        raise ZooError(
            f"`{argument}` has {names} but no folder `train`",
            hint=f"{LAYOUT}; if {names} is a class, pass `--classes-from top`",
        )
    if (odd := _class_named_as_split(roles)) is not None:
        raise ZooError(
            f"`{argument}` has a folder `{odd}` with photographs but without class folders",
            hint=f"{LAYOUT}; if `{odd}` is a class, pass `--classes-from top`",
        )
    found.look_beside(roles)
    _refuse_split_of_another_name(roles, root, argument)
    notes: list[str] = []
    parts: dict[Role, Path | Member] = roles or {"train": root}
    read = {role: found.samples(parts[role], may_be_empty=role == "test") for role in ROLES if role in parts}
    splits = same_spelling(read, notes)
    _leave_out_unlabelled(splits, parts, found, notes)
    drawn = set(splits) == {"train"}
    if drawn:
        _check_classes(splits["train"], argument, root)
        splits = split_stratified(splits["train"], split_seed)
        notes.append(f"split 70/15/15 into train, val and test, stratified, by split seed {split_seed}")
    images = Images(
        name=name,
        classes=tuple(sorted(label_counts(splits["train"]))),
        splits=splits,
        rejected=tuple(found.rejected),
        notes=(*notes, *case_notes(splits["train"], "merge their folders"), *found.nested_notes()),
        drawn=drawn,
    )
    _check_classes(images.splits["train"], argument, root)
    check_splits(images, argument, _EVERY_CLASS)
    return images


def open_to_score(argument: str, reading: Reading = "plain") -> Images:
    """Open a folder of images to evaluate a model on: any split folders, or class folders alone, of any size.

    Args:
        argument: The path.
        reading: Which folders are classes, see `READINGS`.

    Raises:
        UsageError: there is no such folder.
        ZooError: no photographs lie in class folders.
    """
    if is_url(argument):
        return score_remote(argument, reading)
    return score_tree(_root(argument), f"{READINGS[reading]}:{argument}", argument, reading)


def score_tree(
    root: Path | Member,
    name: str,
    argument: str,
    reading: Reading = "plain",
    rejected: Sequence[tuple[str, str]] = (),
) -> Images:
    """Open class folders to evaluate a model on, in a folder or in an archive; takes what `open_tree` does.

    Raises:
        ZooError: no photographs lie in class folders.
    """
    found = ClassFolders(root, reading)
    found.rejected += rejected
    roles = _roles(root, argument, reading)
    found.look_beside(roles)
    parts: dict[Role, Path | Member] = roles or {"test": root}
    read = {role: found.samples(parts[role], may_be_empty=True) for role in ROLES if role in parts}
    notes: list[str] = []
    splits = same_spelling({role: samples for role, samples in read.items() if samples}, notes)
    if not splits:
        raise ZooError(
            f"`{argument}` holds no photographs in class folders",
            hint=f"{LAYOUT}; `zoo predict` classifies photographs without labels",
        )
    return Images(
        name=name,
        classes=tuple(sorted({label for samples in splits.values() for label in label_counts(samples)})),
        splits=splits,
        rejected=tuple(found.rejected),
        notes=(*notes, *found.nested_notes()),
        drawn=not roles or set(roles) == {"train"},
    )


def open_remote(url: str, split_seed: int, reading: Reading) -> Images:
    """Open class folders behind a URL to train on, such as `s3://bucket/photos`; needs the extra `remote`."""
    tree = remote_tree(url)
    return open_tree(tree.root, f"{READINGS[reading]}:{url}", url, split_seed, reading)


def score_remote(url: str, reading: Reading) -> Images:
    """Open class folders behind a URL to evaluate a model on."""
    tree = remote_tree(url)
    return score_tree(tree.root, f"{READINGS[reading]}:{url}", url, reading)


def open_unlabelled(argument: str) -> Unlabelled:
    """Open the photographs of a folder or URL to predict, wherever they lie in it."""
    root = remote_tree(argument).root if is_url(argument) else _root(argument)
    files = (path for path in walk_files(root) if is_photograph(path))
    table, place = SampleTable(), Place(Below(root))
    for path in files:
        table.add(path.relative_to(root).as_posix(), "", place)
    samples = SampleColumns(table)
    if not samples:
        raise ZooError(f"`{argument}` holds no photographs", hint=f"their names end in {' '.join(SUFFIXES)}")
    return Unlabelled(name=f"folder:{argument}", samples=samples)


def _root(argument: str) -> Path:
    if not argument.strip():
        raise UsageError("`--data` is empty", hint="pass the path of a folder; `.` is the current one")
    root = user_path(argument)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"data folder `{argument}` {what}", hint=LAYOUT)
    return root


def _class_named_as_split(roles: Mapping[Role, Path | Member]) -> str | None:
    """The name of a `train/` or `val/` that holds photographs and no folders, as that of a class does."""
    for role, folder in roles.items():
        loose = any(is_photograph(child) and not is_clutter(child) for child in folder.iterdir())
        if role != "test" and loose and not subfolders(folder):
            return folder.name
    return None


def _refuse_split_of_another_name(roles: Mapping[Role, Path | Member], root: Path | Member, argument: str) -> None:
    """Refuse data without `val` that have another folder of the same classes: its name may be a slip.

    Left out, it would be no validation, and training would report on the test split instead.

    Raises:
        ZooError: there is such a folder.
    """
    if "train" not in roles or "val" in roles:
        return
    classes = {folded(folder.name) for folder in subfolders(roles["train"])}
    for folder in subfolders(root):
        if folder not in roles.values() and classes & {folded(lower.name) for lower in subfolders(folder)}:
            raise ZooError(
                f"`{argument}` has no folder `val`, but `{folder.name}`, which holds classes of `train`",
                hint="rename it to `val` or `test` if it is a split, or move it elsewhere",
            )


def _roles(root: Path | Member, argument: str, reading: Reading) -> dict[Role, Path | Member]:
    """The split folders of a data folder, by role; none where every folder is a class.

    Raises:
        ZooError: two folders are for one role.
    """
    roles: dict[Role, Path | Member] = {}
    for folder in subfolders(root) if reading != "top" else ():
        role = SPLIT_WORDS.get(folder.name.lower())
        if role is None:
            continue
        if role in roles:
            raise ZooError(f"`{argument}` has two folders for {role}: `{roles[role].name}` and `{folder.name}`")
        roles[role] = folder
    return roles


def _leave_out_unlabelled(
    splits: dict[Role, Sequence[Sample]], roles: Mapping[Role, Path | Member], found: ClassFolders, notes: list[str]
) -> None:
    """Drop a `test/` that has no class of `train/`: it may be there to be predicted, and training does not need it."""
    if "test" not in splits:
        return
    labels = set(label_counts(splits["test"]))
    if labels & set(label_counts(splits["train"])):
        return
    name = roles["test"].name
    del splits["test"]
    found.rejected[:] = [one for one in found.rejected if not one[0].startswith(f"{name}/")]
    what = f"its folders are {listed(labels)}, none of them a class of `train`" if labels else "it has no class folders"
    notes.append(f"`{name}/` is left out: {what}; `zoo predict` classifies photographs without labels")


def _check_classes(samples: Iterable[Sample], argument: str, root: Path | Member) -> None:
    names = sorted(label_counts(samples))
    if not names:
        raise ZooError(f"`{argument}` holds no photographs in class folders", hint=LAYOUT)
    if len(names) == 1:
        hint = "classification needs at least two classes"
        lower = subfolders(root / names[0]) if (root / names[0]).is_dir() else []
        if lower:
            folders = listed(folder.name for folder in lower)
            splits = any(folder.name.lower() in SPLIT_WORDS for folder in lower)
            what = f"it holds the splits {folders}:" if splits else f"if its folders {folders} are the classes,"
            hint = f"{what} pass `--data {Path(argument) / names[0]}`"
        raise ZooError(f"`{argument}` has one class only, `{names[0]}`", hint=hint)


_EVERY_CLASS = "every class needs photographs in every split, in a folder of the same name"
