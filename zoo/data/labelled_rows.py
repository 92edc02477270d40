"""Labelled rows: the one set of rules by which rows of (id, label, split, group, source) become a dataset.

Readers of tables, lists, archives and exports collect rows here. Folders, which have their classes by place, share the
rules about classes and splits.
"""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zoo.data.class_names import composed, folded
from zoo.data.folder_walk import walk_key, why_unprintable
from zoo.data.sample_columns import Place, SampleColumns, SampleTable, label_counts, relabelled
from zoo.data.split_words import SPLIT_WORDS, role_of
from zoo.data.splitting import split_stratified
from zoo.dataset import ROLES, Images, ImageSource, Role, Sample, Unlabelled
from zoo.errors import ZooError, counted, did_you_mean

SHOWN = 5  # names in a note

ONE_LABEL = "zoo classifies images of one class each: leave such images out, or make a class of each combination"


@dataclass
class LabelledRows:
    """Rows that a reader has found, in any order.

    Attributes:
        name: What messages and reports call the data, as in `csv:train.csv`.
        labelled: Whether labels and splits are read. Without, images are collected to be predicted.
        needs: What the data must hold, for a hint.
        rejected: Name and reason of each row that is left out.
        notes: Decisions of the reader, for the user.
        files: SHA-256 of each file that says which images there are, by its path.
    """

    name: str
    labelled: bool = True
    needs: str = "a row for each image, with its path and its label"
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    _samples: SampleTable = field(default_factory=SampleTable)
    _roles: array[int] = field(default_factory=lambda: array("b"))  # positions in `ROLES`; -1: none
    _tables: dict[str, int] = field(default_factory=dict)  # the files that name images, numbered
    _places: tuple[array[int], array[int]] = field(default_factory=lambda: (array("i"), array("q")))  # file and line
    _hashes: array[int] = field(default_factory=lambda: array("q"))  # of ids, by which repeated ones are found

    def add(
        self,
        id: str,
        label: str,
        source: ImageSource | Place,
        *,
        split: str | None = None,
        group: str | None = None,
        table: str = "",
        line: int = 0,
    ) -> None:
        """Take a row. One without a label, or with a name that cannot be written down, is rejected.

        Args:
            id: Path of the image below the data.
            label: Its class; empty or `NaN`: it has none.
            source: Reads the image, or says where it is, which takes less memory where there are many.
            split: The word for its split; None: the data have no split.
            group: What it shares with images that must stay in one split.
            table: The file that names it, for messages.
            line: Its line there; 0: it has none.

        Raises:
            ZooError: the split is no role.
        """
        place = (table, line)
        if (reason := why_unprintable(id)) is not None:
            self.rejected.append((ascii(id), reason))
            return
        if not self.labelled:
            self._samples.add(id, "", source, group)
            return
        role = None
        if split is not None and (role := role_of(split)) is None:
            raise ZooError(f"{_at(place, id)} has {no_role(split)}", hint=roles_hint(split))
        if is_missing(label):
            self.rejected.append((id, f"has no label{_in(place)}"))
            return
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in label):
            self.rejected.append((id, f"has the label {label!a} with control characters{_in(place)}"))
            return
        self._samples.add(id, label, source, group)
        self._roles.append(-1 if role is None else ROLES.index(role))
        self._places[0].append(self._tables.setdefault(table, len(self._tables)))
        self._places[1].append(line)
        self._hashes.append(hash(id))

    def _without_repeats(self, notes: list[str]) -> npt.NDArray[np.int64]:
        """The rows whose ids have not come in an earlier row.

        Raises:
            ZooError: an image has come with two labels or splits.
        """
        hashes = np.array(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(np.diff(hashes[order]) == 0)
        suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
        first: dict[str, int] = {}
        repeated: list[int] = []
        names: tuple[str, str, str] | None = None
        for row in suspects.tolist():
            known = first.setdefault(self._samples.id(row), row)
            if known != row:
                where = self._check_repeat(known, row)
                names = names or (self._samples.id(row), *where)
                repeated.append(row)
        if names is not None:
            notes.append(f"`{names[0]}` is named twice, by {names[1]} and {names[2]}, and counts once")
        if len(repeated) > 1:
            notes.append(f"{counted(len(repeated), 'row repeats', 'rows repeat')} an image")
        return np.delete(np.arange(len(hashes)), repeated)

    def _check_repeat(self, known: int, row: int) -> tuple[str, str]:
        """Check that two rows of one image say the same; returns where they stand."""
        id, table = self._samples.id(row), self._samples
        first, second = self._at(known), self._at(row)
        labels = [table.label_names[table.label_codes[one]] for one in (known, row)]
        if labels[0] != labels[1]:
            raise ZooError(
                f"`{id}` has two labels, `{labels[0]}` and `{labels[1]}`: {first} and {second}", hint=ONE_LABEL
            )
        roles = [_role(self._roles[one]) for one in (known, row)]
        if roles[0] != roles[1]:
            raise ZooError(
                f"`{id}` is in two splits, `{roles[0]}` and `{roles[1]}`: {first} and {second}",
                hint="remove one of the rows",
            )
        return first, second

    def _at(self, row: int) -> str:
        return _at((list(self._tables)[self._places[0][row]], self._places[1][row]))

    def images(self, split_seed: int) -> Images:
        """The dataset to train on.

        Raises:
            ZooError: there are no images or only one class, a class is missing from a split, or `train` is missing.
        """
        notes: list[str] = []
        read, named = self._by_role(notes)
        if named and "train" not in read:
            raise ZooError(
                f"`{self.name}` has {' '.join(f'`{role}`' for role in read)} but no `train`",
                hint="training needs images of the split `train`",
            )
        splits = same_spelling(read if named else {"train": read["test"]}, notes)
        if "test" in splits and not set(label_counts(splits["test"])) & set(label_counts(splits["train"])):
            labels = listed(label_counts(splits.pop("test")))
            notes.append(f"`test` is left out: its labels are {labels}, none of them a class of `train`")
        check_several_classes(splits["train"], self.name)
        drawn = set(splits) == {"train"}
        if drawn:
            splits = split_stratified(splits["train"], split_seed)
            notes.append(f"split 70/15/15 into train, val and test, stratified, by split seed {split_seed}")
        images = self._made(splits, notes, drawn)
        check_splits(images, self.name, "every class needs images in every split")
        return images

    def images_to_score(self) -> Images:
        """The dataset to evaluate a model on: of any size, with any splits.

        Raises:
            ZooError: there are no images.
        """
        notes: list[str] = []
        read, named = self._by_role(notes)
        return self._made(same_spelling(read, notes), notes, not named or set(read) == {"train"})

    def unlabelled(self) -> Unlabelled:
        """The images to predict, in the order of the rows; one that is named twice comes twice.

        Raises:
            ZooError: there are none.
        """
        if not len(self._samples) and not self.rejected:
            raise ZooError(f"`{self.name}` holds no images")
        return Unlabelled(
            name=self.name, samples=SampleColumns(self._samples), rejected=tuple(self.rejected), notes=tuple(self.notes)
        )

    def _made(self, splits: Mapping[Role, Sequence[Sample]], notes: list[str], drawn: bool) -> Images:
        classes = sorted({label for part in splits.values() for label in label_counts(part)})
        trained = {
            label for role, part in splits.items() if role == "train" or not drawn for label in label_counts(part)
        }
        return Images(
            name=self.name,
            classes=tuple(sorted(label_counts(splits["train"]))) if "train" in splits else tuple(classes),
            splits=splits,
            rejected=tuple(self.rejected),
            notes=(*self.notes, *notes, *_case_notes(trained, "spell them alike")),
            drawn=drawn,
            files=self.files,
        )

    def _by_role(self, notes: list[str]) -> tuple[dict[Role, Sequence[Sample]], bool]:
        """The samples by role in the order of a folder's walk, and whether rows name their splits.

        Raises:
            ZooError: there are none, some have a split and others none, or labels are the same number.
        """
        if not len(self._samples):
            what = (
                f"; the first row that is left out, `{self.rejected[0][0]}`, {self.rejected[0][1]}"
                if self.rejected
                else ""
            )
            raise ZooError(f"`{self.name}` holds no labelled images{what}", hint=f"it needs {self.needs}")
        kept = self._without_repeats(notes)
        self._samples.unique = len(kept) == len(self._samples)
        respelt = whole_numbers(self._samples.label_names, self.name, notes)
        table = self._samples.relabelled({name: respelt.get(name, name) for name in self._samples.label_names})
        roles = np.array(self._roles, np.int8)[kept]
        named = bool((roles >= 0).all())
        if not named and (roles >= 0).any():
            without = kept[roles < 0]
            raise ZooError(
                f"{counted(len(without), 'image')} of `{self.name}` {'has' if len(without) == 1 else 'have'} "
                f"no split, such as `{table.id(int(without[0]))}`, and others have one",
                hint="name a split for each, or for none",
            )
        read: dict[Role, Sequence[Sample]] = {}
        for number, role in enumerate(ROLES) if named else ((-1, ROLES[-1]),):
            rows = kept[roles == number]
            if len(rows):
                read[role] = SampleColumns(table, rows).sorted_by(walk_key)
        return read, named


def _role(position: int) -> Role | None:
    return ROLES[position] if position >= 0 else None


def is_missing(text: str) -> bool:
    """Whether a cell holds no value: it is empty, or the `nan` that tables write for none."""
    return not text.strip() or text.strip().lower() == "nan"


def whole_numbers(labels: Iterable[str], name: str, notes: list[str]) -> dict[str, str]:
    """Labels that are respelt, because a program has made decimals of whole numbers: `1.0` is `1`.

    Raises:
        ZooError: labels are decimals such as `0.731`, or two of them are the same number: `1` and `01`.
    """
    known = sorted(set(labels))
    numbers = {label: value for label in known if (value := _number(label)) is not None}
    by_value: dict[float, str] = {}
    for label, value in numbers.items():
        if by_value.setdefault(value, label) != label:
            raise ZooError(
                f"labels `{by_value[value]}` and `{label}` of `{name}` are the same number",
                hint="write them alike: labels are text, and these would be two classes",
            )
    if not numbers or len(numbers) < len(known):
        return {}
    fractions = [label for label, value in numbers.items() if value != int(value)]
    if fractions:
        raise ZooError(
            f"labels of `{name}` are decimal numbers such as `{fractions[0]}`, which name no classes",
            hint="is `label=` the right column? zoo classifies, and predicts no quantities",
        )
    respelt = {label: str(int(value)) for label, value in numbers.items() if "." in label}
    if respelt and len(respelt) == len(known):
        first = next(iter(respelt))
        notes.append(f"labels are whole numbers that were written as decimals: `{first}` is class `{respelt[first]}`")
        return respelt
    return {}


def _number(text: str) -> float | None:
    if not text[:1].isdigit() and text[:1] not in "+-.":
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _at(place: tuple[str, int], id: str = "") -> str:
    table, line = place
    if not table:
        return f"`{id}`" if id else "an image"
    return f"line {line} of `{table}`" if line else f"`{table}`"


def _in(place: tuple[str, int]) -> str:
    return f", in {_at(place)}" if place[0] else ""


def no_role(word: str) -> str:
    """What a cell holds that is no split."""
    return f"the split `{word}`, which is no role" if word.strip() else "no split"


def roles_hint(word: str) -> str:
    """The words that are splits, and the closest of them."""
    roles = f"splits are {' '.join(ROLES)}, also {' '.join(sorted(set(SPLIT_WORDS) - set(ROLES)))}"
    if word.strip().isdigit():
        return f"{roles}; numbers are folds, or groups: `group=` keeps a column's groups together"
    return did_you_mean(word, SPLIT_WORDS, roles)


def same_spelling(splits: Mapping[Role, Sequence[Sample]], notes: list[str]) -> dict[Role, Sequence[Sample]]:
    """Samples with labels that are equal where they are the same text in two Unicode forms.

    Linux and Windows write é as one character (NFC), macOS as two (NFD). The spelling that comes first is kept: of the
    training images, if there are any.
    """
    spelling: dict[str, str] = {}
    every: dict[str, str] = {}
    for samples in splits.values():
        for label in sorted(label_counts(samples)):
            every[label] = spelling.setdefault(composed(label), label)
            if every[label] != label:
                notes.append(f"class `{label}` comes in two Unicode forms (NFC and NFD), which are taken for one class")
    return relabelled(splits, every)


def case_notes(samples: Iterable[Sample], remedy: str) -> list[str]:
    """A note for classes that are told apart only by case or spaces."""
    return _case_notes(label_counts(samples), remedy)


def _case_notes(labels: Iterable[str], remedy: str) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        groups[folded(label)].append(label)
    return [
        f"classes {' '.join(f'`{name}`' for name in names)} differ only in case or spaces: if they are one class, "
        f"{remedy}"
        for names in groups.values()
        if len(names) > 1
    ]


def check_several_classes(samples: Iterable[Sample], name: str) -> None:
    """Check that there are two classes or more.

    Raises:
        ZooError: there is one only.
    """
    labels = set(label_counts(samples))
    if len(labels) == 1:
        raise ZooError(
            f"`{name}` has one class only, `{labels.pop()}`", hint="classification needs at least two classes"
        )


def check_splits(images: Images, name: str, remedy: str) -> None:
    """Check that every split has images of every class.

    Raises:
        ZooError: a class is missing from a split, or a split has one that `train` has not.
    """
    for role, samples in images.splits.items():
        found = set(label_counts(samples))
        for label in images.classes:
            if label not in found:
                raise ZooError(
                    f"class `{label}` is missing from `{role}` of `{name}`",
                    hint=_spelt_otherwise(label, found, role) or remedy,
                )
        for label in sorted(found - set(images.classes)):
            raise ZooError(
                f"class `{label}` of `{role}` is missing from `train` of `{name}`",
                hint=_spelt_otherwise(label, images.classes, "train") or remedy,
            )


def _spelt_otherwise(name: str, others: Iterable[str], role: Role) -> str | None:
    alike = [other for other in sorted(others) if folded(other) == folded(name)]
    return f"`{role}` has `{alike[0]}`: names of classes are compared by case and spaces" if alike else None


def listed(names: Iterable[str]) -> str:
    """The first names in backticks."""
    known = sorted(names)
    return " ".join(f"`{name}`" for name in known[:SHOWN]) + (" ..." if len(known) > SHOWN else "")
