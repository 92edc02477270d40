"""Opening data: from the text of `--data` to labelled images in splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.catalogue import Entry
from zoo.data.class_names import respelt
from zoo.data.data_argument import check_no_secret
from zoo.data.division import Division, parted
from zoo.data.folds import all_to_train, held_out_fold
from zoo.data.groups import has_groups, key_of, match_groups
from zoo.data.sample_columns import joined, label_counts, relabelled
from zoo.data.split_table import divided_by, split_table_of, with_split_table
from zoo.data.splitting import lock, split_stratified
from zoo.dataset import FINAL, FOLD, LOCKED, ROLES, Dataset, Images, Sample, Unlabelled
from zoo.errors import UsageError, ZooError, counted, did_you_mean, quoted
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.row import check_returned
from zoo.storage.paths import check_recordable, user_path
from zoo.target import load_target

SHOWN = 12  # names of classes in a note


def _divided(images: Images, before: str, seed: int) -> Images:
    """The images, divided as the words before the data say.

    Raises:
        ZooError: they cannot be divided so.
    """
    for word in reversed(re.findall(rf"{LOCKED}|{FINAL}|{FOLD}:\d+/\d+", before)):
        if word == LOCKED:
            images = lock(images, seed)
        elif word == FINAL:
            images = all_to_train(images)
        else:
            number, count = (int(digits) for digits in word.removeprefix(f"{FOLD}:").split("/"))
            if not 1 <= number <= count or count < 2:
                raise UsageError(f"`{word}` is not a fold", hint=f"such as `{FOLD}:2/5`, the second of five")
            images = held_out_fold(images, number, count, seed)
    return images


def _grouped(images: Images, group: str, seed: int) -> Images:
    """The images with the groups that the pattern `group` finds; splits that were drawn at random are drawn anew.

    Raises:
        UsageError: the pattern cannot be used.
        ZooError: the groups cannot be divided so that every class is in every split.
    """
    images = match_groups(images, group)
    if not images.drawn:
        return images
    return replace(images, splits=split_stratified(joined(images.splits.values()), seed))


def _groups_note(images: Images) -> tuple[str, ...]:
    """A line that says how many groups each split has, where there are any."""
    if not any(has_groups(part) for part in images.splits.values()):
        return ()
    samples = joined(images.splits.values())
    whole = len(samples)
    parts = ", ".join(
        f"{role} {len({key_of(one) for one in part}):,} ({len(part) / whole:.0%} of the images)"
        for role, part in images.splits.items()
    )
    kept = ", and no group is in two splits" if images.drawn else ""
    return (f"{counted(len({key_of(one) for one in samples}), 'group')}: {parts}{kept}",)


def absolute(spec: str, plugins: Plugins, base: Path | None = None) -> str:
    """The text of `--data` with its paths made absolute, so that a run finds its data from any folder.

    A dataset knows which parts of its argument are paths (`Dataset.absolute`). URLs and names are unchanged; the name
    of a dataset stands for it, whatever folders there are.

    Args:
        spec: The text.
        plugins: Loaded plugins.
        base: The folder that relative paths begin at. None: the current one.
    """
    base = Path() if base is None else base
    before, spec = parted(spec)
    if before:
        return before + absolute(spec, plugins, base)
    name, colon, argument = spec.partition(":")
    table, data = split_table_of(spec)
    if table is not None:
        return with_split_table(table, absolute(data, plugins, base), base)
    if name in plugins.datasets:
        dataset = plugins.datasets.find(name).value
        if colon and dataset.absolute_from is not None:
            found = load_target(dataset.absolute_from)(argument, base)
            check_returned(found, str, dataset.absolute_from, f"dataset `{name}`")
            return f"{name}:{found}"
        resolve = dataset.absolute
        if not colon or resolve is None:
            return spec
        beside = base / user_path(argument)
        here = beside.exists() or user_path(argument).exists()  # what is there from another folder is not meant
        found = load_target(resolve)(str(beside) if argument and here else argument)
        check_returned(found, str, resolve, f"dataset `{name}`")
        return f"{name}:{found}"
    if "://" in spec or not spec:
        return spec
    folder = base / user_path(spec)
    if not folder.exists() and user_path(spec).exists():
        return str(folder.absolute())  # what is there from another folder is not meant
    return str(folder.resolve()) if folder.is_dir() else spec


def open_images(
    spec: str, split_seed: int, plugins: Plugins, *, of_run: bool = False, group: str | None = None
) -> Images:
    """Open labelled images.

    Args:
        spec: `NAME:ARGUMENT` or `NAME` of a dataset, or the path of a folder. `locked:` before it locks the last split,
            so that it is evaluated only on request; see `zoo.data.splitting.lock`. `fold:I/K:` holds one of K folds
            out, `final:` trains on all that is not in `test`; see `zoo.data.folds`.
        split_seed: Seed of the split, where the data come without one.
        plugins: Loaded plugins.
        of_run: Whether these are the data that a run was trained on, for the message of an error.
        group: The column of the group of each image, where the data are a table; else a pattern, see
            `zoo.data.groups.match_groups`. None: groups are those of the data, if they have any.

    Raises:
        UsageError: there is neither a dataset nor a folder of that name.
        ZooError: the data cannot be used; or the same as above, with `of_run`.
    """
    try:
        return _open_images(spec, split_seed, plugins, group)
    except UsageError as error:
        if not of_run:
            raise
        raise _of_run(spec, error) from error


def _open_images(spec: str, split_seed: int, plugins: Plugins, group: str | None) -> Images:
    before, entry, argument = _dataset_of(spec, plugins)
    argument, group = _with_column(entry, argument, group)
    table, _ = split_table_of(parted(spec)[1])
    if table is not None:
        to_score = entry.value.open_to_score  # which needs no splits of the data's own
        found = (
            call_dataset(entry, to_score, argument) if to_score else call_dataset(entry, entry.value.open, argument, 0)
        )
        images = divided_by(found, table)
    else:
        images = call_dataset(entry, entry.value.open, argument, split_seed)
    if split_seed and not images.drawn and not before and entry.provider == "datasets":  # a plugin may not say `drawn`
        note = f"`--split-seed {split_seed}` changes nothing: `{spec}` comes with its splits"
        images = replace(images, notes=(*images.notes, note))
    if group is not None:
        images = _grouped(images, group, split_seed)
    images = replace(images, notes=(*images.notes, *_groups_note(images)))
    return _not_the_folder(spec, _divided(images, before, split_seed), plugins)


def _with_column(entry: Entry[Dataset], argument: str, group: str | None) -> tuple[str, str | None]:
    """The argument of data whose groups are the column `group`, and None; or the argument, and `group`, a pattern."""
    if group is None or entry.value.with_group is None:
        return argument, group
    found = load_target(entry.value.with_group)(argument, group)
    return (argument, group) if found is None else (found, None)


def open_to_score(
    spec: str, split_seed: int, plugins: Plugins, *, of_run: bool = False, group: str | None = None
) -> Images:
    """Open labelled images to evaluate a model on: unlike data to train on, they may be few, or of one class.

    Takes and raises what `open_images` does. Data that come without splits are not divided.
    """
    try:
        before, entry, argument = _dataset_of(spec, plugins)
        if before or entry.value.open_to_score is None or split_table_of(spec)[0] is not None:
            return _open_images(spec, split_seed, plugins, group)
        argument, group = _with_column(entry, argument, group)
        images = call_dataset(entry, entry.value.open_to_score, argument)
        return images if group is None else match_groups(images, group)
    except UsageError as error:
        if not of_run:
            raise
        raise _of_run(spec, error) from error


def open_unlabelled(spec: str, plugins: Plugins) -> Unlabelled:
    """Open images to predict or embed, whose labels are neither needed nor looked at.

    Takes and raises what `open_images` does. Splits do not matter: the images of all of them are opened.
    """
    _, entry, argument = _dataset_of(spec, plugins)
    if entry.value.open_unlabelled is not None:
        found: Unlabelled = _called(entry, entry.value.open_unlabelled, argument, kind=Unlabelled)
        return found
    images = open_to_score(spec, 0, plugins)
    every = relabelled({"": joined(images.splits.values())}, dict.fromkeys(images.classes, ""))
    return Unlabelled(name=images.name, samples=every[""], rejected=images.rejected, notes=images.notes)


def _not_the_folder(spec: str, images: Images, plugins: Plugins) -> Images:
    """The images with a note if they are a dataset and there is a folder of the same name."""
    _, name = parted(spec)
    if name not in plugins.datasets or not Path(name).is_dir():
        return images
    note = f"`{name}` is the dataset of that name; for the folder `{name}`, write `./{name}`"
    return replace(images, notes=(note, *images.notes))


def _of_run(spec: str, error: UsageError) -> ZooError:
    table = Division.of(spec).table
    moved = "pass `--data` with the folder that the photographs are in now"
    if table is not None and not user_path(table).is_file():
        moved = "restore it, or pass `--splits` with its new place, and `--data`"
    return ZooError(f"the run was trained on `{spec}`, which cannot be opened: {error.message}", hint=moved)


def _dataset_of(spec: str, plugins: Plugins) -> tuple[str, Entry[Dataset], str]:
    """The words before the data (see `parted`), their dataset, and its argument.

    Raises:
        UsageError: there is neither a dataset nor a folder of that name.
    """
    if not spec.strip() or spec.strip() == "folder:":
        raise UsageError("`--data` is empty", hint="pass the path of a folder; `.` is the current one")
    check_recordable(spec, "--data")
    check_no_secret(spec)
    before, data = parted(spec)
    if before:
        return before, *_dataset_of(data, plugins)[1:]
    table, data = split_table_of(spec)
    if table is not None:
        return _dataset_of(data, plugins)
    name, _, argument = spec.partition(":")
    datasets = plugins.datasets
    if name not in datasets:
        if not user_path(spec).exists() and "/" not in spec and "\\" not in spec and "." not in spec:
            known = [entry.name for entry in datasets]
            raise UsageError(
                f"`{spec}` is neither a folder here nor a dataset",
                hint=did_you_mean(name, known, "see `zoo list datasets`, or pass the path of a folder"),
            )
        name, argument = "folder", spec
    return "", datasets.find(name), argument


def call_dataset(entry: Entry[Dataset], target: str | Callable[..., Any], *arguments: Any) -> Images:
    """What a dataset's function returns.

    Raises:
        ZooError: it fails in a way that it does not explain, or returns something other than images.
    """
    images: Images = _called(entry, target, *arguments, kind=Images)
    classes = set(images.classes)
    for samples in images.splits.values():
        if not set(label_counts(samples)) <= classes:
            sample = next(one for one in samples if one.label not in classes)
            where = f"image `{sample.id}` of {_dataset_text(entry)}"
            raise ZooError(f"{where} has the label `{sample.label}`, not a class", hint=MEND)
    return images


def _called(entry: Entry[Dataset], target: str | Callable[..., Any], *arguments: Any, kind: type[Any]) -> Any:
    """What a dataset's function returns, which is of type `kind`."""
    try:
        found = load_target(target)(*arguments)
    except (ZooError, OSError):
        raise
    except Exception as error:
        text = f"{_dataset_text(entry)} failed: {type(error).__name__}: {quoted(error)}"
        raise ZooError(text, hint=MEND) from error
    if not isinstance(found, kind):
        raise ZooError(f"{_dataset_text(entry)} returned {type(found).__name__}, not `zoo.{kind.__name__}`", hint=MEND)
    return found


MEND = "the plugin must be mended; `zoo plugins` names its distribution"


def _dataset_text(entry: Entry[Dataset]) -> str:
    return f"dataset `{entry.name}` of plugin `{entry.provider}`"


def with_classes_from(spec: str, which: str, plugins: Plugins) -> str:
    """The text of `--data` for a folder whose classes are its lowest (`leaf`) or its highest folders (`top`).

    Raises:
        UsageError: the data are not a folder.
    """
    before, data = parted(spec)
    if before:
        return before + with_classes_from(data, which, plugins)
    table, data = split_table_of(spec)
    if table is not None:
        return with_split_table(table, with_classes_from(data, which, plugins))
    name, _, argument = spec.partition(":")
    if name not in plugins.datasets:
        return f"folder-{which}:{spec}"
    if name in ("folder", f"folder-{which}"):
        return f"folder-{which}:{argument}"
    raise UsageError(
        f"`--classes-from {which}` is for folders, and `{spec}` is a dataset", hint="leave out `--classes-from`"
    )


def read_as(own: str, spec: str, plugins: Plugins) -> str:
    """The text of `--data` for another folder whose classes are the same level of folders as those of a run's data.

    Args:
        own: The data that the run was trained on.
        spec: The other data. A name such as `folder:` before the path says how it is read, and stays.
        plugins: Loaded plugins.
    """
    data = (split_table_of(parted(text)[1])[1] for text in (own, spec))
    name, other = (text.partition(":")[0] for text in data)
    if name not in ("folder-leaf", "folder-top") or other in plugins.datasets:
        return spec
    return with_classes_from(spec, name.removeprefix("folder-"), plugins)


def reading_text(spec: str) -> str:
    """What is said of data that `read_as` has changed: which folders are the classes, and how to get others."""
    level, other = ("lowest", "top") if "folder-leaf:" in spec else ("highest", "leaf")
    return (
        f"the {level} folders are the classes, as in training; `--classes-from {other}`, or `folder:` before the path, "
        "takes others"
    )


def spelt_as(images: Images, ids: Collection[str], classes: Collection[str]) -> Images:
    """The images with ids and classes spelt as a run spells them: file systems differ in the Unicode form of names."""
    samples = [sample for part in images.splits.values() for sample in part]
    names = respelt((sample.id for sample in samples), ids)
    labels = respelt(images.classes, classes)
    changed = {old: new for old, new in (*names.items(), *labels.items()) if old != new}
    if not changed:
        return images
    return replace(
        images,
        classes=tuple(sorted(labels.values())),
        splits={
            role: tuple(Sample(names[sample.id], labels[sample.label], sample.source, sample.group) for sample in part)
            for role, part in images.splits.items()
        },
    )


def found_text(images: Images) -> str:
    """A line that says which classes and how many images were found: `2 classes: cat dog; train 24 images ...`."""
    names = " ".join(images.classes[:SHOWN]) + (" ..." if len(images.classes) > SHOWN else "")
    parts: list[str] = []
    for role, samples in images.splits.items():
        counts = label_counts(samples).values()
        least, most = min(counts, default=0), max(counts, default=0)
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        parts.append(f"{role} {len(samples):,}{'' if parts else ' images'}, {each} a class")
    return f"{len(images.classes):,} classes: {names}; {'; '.join(parts)}"


def note_images(images: Images, progress: Progress) -> None:
    """Say which classes and images were found, and what was decided while they were opened."""
    for text in (found_text(images), *images.notes):
        progress.note(text)


def choose_split(images: Images, split: str | None) -> tuple[str, Sequence[Sample]]:
    """The name and the samples of a split: of `all` splits together, or of the reported one for None.

    Raises:
        UsageError: the data have no such split.
    """
    name = images.reported if split is None else split
    if name == "all":
        return name, joined(images.splits.values())
    for role in ROLES:
        if role == name and role in images.splits:
            return name, images.splits[role]
    known = " ".join([*images.splits, "all"])
    raise UsageError(f"`{images.name}` has no split `{name}`", hint=f"it has {known}")
