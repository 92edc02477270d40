"""Sources of images to embed: with labels and splits, or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.data.decoding import BadFile
from zoo.data.opening import open_images, open_to_score, open_unlabelled, spelt_as
from zoo.data.sample_columns import joined
from zoo.data.selection import excluded_of
from zoo.dataset import FileSource, Sample
from zoo.errors import UsageError, ZooError, counted
from zoo.plugin import Plugins
from zoo.progress import Progress
from zoo.runs.run import Run


@dataclass(frozen=True)
class Source:
    """Opened images.

    Attributes:
        name: What messages call them.
        samples: The images; a label is empty where it is not known.
        splits: The split of each; empty where the data have none of their own.
        rejected: What is no image by its type.
    """

    name: str
    samples: Sequence[Sample]
    splits: tuple[str, ...]
    rejected: tuple[BadFile, ...]


def open_source(data: str, plugins: Plugins, progress: Progress, *, labelled: bool, option: str = "") -> Source:
    """Open images of any source, and say what was decided.

    Args:
        data: As `--data` takes it.
        plugins: Loaded plugins.
        progress: Receives the notes.
        labelled: Whether labels and splits are read.
        option: What opens the images without labels, for the hint of an error.

    Raises:
        UsageError: there is no such source.
        ZooError: it has no image, or cannot be read.
    """
    if labelled:
        try:
            images = open_to_score(data, 0, plugins)
        except ZooError as error:
            if not option or isinstance(error, UsageError):
                raise
            raise ZooError(error.message, hint=f"{error.hint or 'mend the labels'}; {option}") from error
        samples: Sequence[Sample] = joined(images.splits.values())
        splits = tuple(
            "" if images.drawn else str(role) for role, part in images.splits.items() for _ in range(len(part))
        )
        name, rejected, notes = images.name, images.rejected, images.notes
    else:
        found = open_unlabelled(data, plugins)
        samples, splits = found.samples, ("",) * len(found.samples)
        name, rejected, notes = found.name, found.rejected, found.notes
    for text in notes:
        progress.note(text)
    if not samples:
        raise ZooError(f"`{name}` holds no image", hint="pass the folder or the table that has some")
    return Source(name, samples, splits, tuple(BadFile(*one) for one in rejected))


def open_data_of(run: Run, plugins: Plugins, progress: Progress) -> Source:
    """Open the images of a run's data that it did not leave out; those that it was fitted on are in the split `train`.

    Raises:
        ZooError: they cannot be opened.
    """
    asked, left_out, fitted = run.experiment, excluded_of(run.record), run.fitted()
    images = open_images(asked.data, asked.split_seed, plugins, of_run=True, group=asked.group)
    images = spelt_as(images, [*fitted, *left_out], run.classes)
    progress.note(f"images of run `{run.path}`: `{images.name}`")
    pairs = [
        (sample, "train" if sample.id in fitted else "" if role == "train" else str(role))
        for role, part in images.splits.items()
        for sample in part
        if sample.id not in left_out
    ]
    rejected = tuple(BadFile(*one) for one in images.rejected)
    return Source(images.name, tuple(one for one, _ in pairs), tuple(split for _, split in pairs), rejected)


def warn_of_bad(bad: list[BadFile], progress: Progress) -> None:
    """Say which images are left out."""
    if bad:
        shown = "".join(f"\n  {file.id}: {file.reason}" for file in bad[:10])
        more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
        what = counted(
            len(bad),
            "image is left out because it cannot be read",
            "images are left out because they cannot be read",
        )
        progress.warn(f"{what}:{shown}{more}")


def path_of(sample: Sample) -> str:
    """Where an image can be opened: its absolute path, or else its id, as of a member of an archive."""
    return str(sample.source.path.absolute()) if isinstance(sample.source, FileSource) else sample.id
