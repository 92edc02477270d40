"""`list:train.txt,val.txt`: a path on each line, with its class after it, or else in the folder of that name."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from zoo import ZooError
from zoo.data.data_argument import Argument, Kind
from zoo.data.image_formats import FOREIGN_SUFFIXES, SUFFIXES
from zoo.data.labelled_rows import LabelledRows
from zoo.data.table import decoded_text
from zoo_datasets.image_files import image_files
from zoo_datasets.reading import BY_SPLIT, files_by_split
from zoo_datasets.remote import read_file

OPTIONS: dict[str, Kind] = {**BY_SPLIT, "root": "path", "names": "path", "encoding": "text"}
EXAMPLE = "such as `list:train.txt,val.txt`"

# A path, which ends in the suffix of an image, and the class after a tab, comma, semicolon or space
_LINE = re.compile(
    rf"(?P<path>.*?(?:{'|'.join(map(re.escape, (*SUFFIXES, *FOREIGN_SUFFIXES)))}))(?:[\t ,;]\s*(?P<label>.*))?", re.I
)


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the images of every list.

    Raises:
        UsageError: a list does not exist.
        ZooError: a line is no path and class, or a number has no name.
    """
    rows.needs = "a path on each line, and its class after it or in its folder's name"
    names = _names(argument, rows)
    by_folder = None
    for file, role in files_by_split(argument, "list", rows):
        data = read_file(file)
        rows.files[file] = hashlib.sha256(data).hexdigest()
        lines = []
        for number, line in enumerate(decoded_text(data, file, argument.get("encoding"), rows.notes).split("\n"), 1):
            if not line.strip():
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ZooError(
                    f"line {number} of `{file}` is no path of an image: `{line.strip()[:80]}`",
                    hint=f"a line is a path that ends in {' '.join(SUFFIXES)}, and perhaps its class",
                )
            lines.append((number, found["path"], (found["label"] or "").strip()))
        if not lines:
            raise ZooError(f"`{file}` is empty", hint="it needs a path on each line")
        labelled = sum(1 for _, _, label in lines if label)
        if labelled not in (0, len(lines)) or by_folder not in (None, not labelled):
            odd = next(number for number, _, label in lines if bool(label) != bool(lines[0][2]))
            raise ZooError(
                f"some lines of `{file}` have a class after the path, and line {odd} has not, or the reverse"
            )
        by_folder = not labelled
        images = image_files(file, [path for _, path, _ in lines[:50]], argument.get("root"), "", rows)
        for number, path, label in lines:
            image = images.find(path, rows, file, number)
            if image is None:
                continue
            if by_folder:
                label = PurePosixPath(path.replace("\\", "/")).parent.name
            elif names is not None:
                label = _named(label, names, f"line {number} of `{file}`")
            rows.add(image[0], label, image[1], split=role, table=file, line=number)
        images.check_some(file)
    if by_folder and rows.labelled:
        rows.notes.append("the folder of each path is its class")


def _names(argument: Argument, rows: LabelledRows) -> list[str] | None:
    file = argument.get("names")
    if file is None:
        return None
    data = read_file(file)
    rows.files[file] = hashlib.sha256(data).hexdigest()
    return [name.strip() for name in decoded_text(data, file, None, rows.notes).rstrip().split("\n")]


def _named(label: str, names: list[str], where: str) -> str:
    if not label.isdigit() or int(label) >= len(names):
        raise ZooError(
            f"{where} has the class `{label}`, and `names` has {len(names)} names",
            hint="classes are numbers from 0 on, where `names=` is given",
        )
    return names[int(label)]
