"""`wds:shard-{000..009}.tar`: WebDataset shards. Members are read in place, by their offsets.

Source: the WebDataset format, https://github.com/webdataset/webdataset: files of one image have one name up to
the first dot, such as `0001.jpg` and `0001.txt`.
"""

from __future__ import annotations

import json
import os
import tarfile
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind, is_url
from zoo.data.folder_walk import is_clutter
from zoo.data.image_formats import FOREIGN_SUFFIXES, SUFFIXES
from zoo.data.labelled_rows import LabelledRows
from zoo.data.sample_columns import ByteRanges, Place, Texts
from zoo.data.table import LABEL_NAMES, cell_text
from zoo.errors import quoted
from zoo.storage.files import json_text
from zoo_datasets.member_tree import why_unsafe
from zoo_datasets.reading import BY_SPLIT, files_by_split

OPTIONS: dict[str, Kind] = {**BY_SPLIT, "label": "text", "split": "text", "group": "text"}
EXAMPLE = "such as `wds:shard-{000..009}.tar`"
WORDS = ("txt", "cls")  # suffixes of members that hold a class and nothing else
BEGINNING = "its beginning"
LONGEST = 1 << 20  # bytes of a member of words
ZEROS = 1 << 20  # bytes that are looked at in one go


class _Image(NamedTuple):
    name: str
    offset: int
    size: int
    words: dict[str, str]  # text of the members beside it, by suffix; shared by all images with the same


class _Images:
    """The images of all shards as columns: about 40 bytes each, and their names."""

    def __init__(self) -> None:
        self.names = Texts()
        self.offsets, self.sizes = array("q"), array("q")
        self.shards, self.words = array("i"), array("i")
        self.beside: list[dict[str, str]] = []  # what is beside images, each once
        self._known: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, shard: int, name: str, offset: int, size: int, words: Mapping[str, str]) -> None:
        self.names.append(name)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.shards.append(shard)
        key = tuple(sorted(words.items()))
        number = self._known.setdefault(key, len(self._known))
        if number == len(self.beside):
            self.beside.append(dict(key))
        self.words.append(number)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[_Image]:
        for index in range(len(self)):
            yield _Image(self.names[index], self.offsets[index], self.sizes[index], self.beside[self.words[index]])

    def repeat_names(self) -> bool:
        """Whether shards use the same names."""
        hashes = np.fromiter((hash(self.names[index]) for index in range(len(self))), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        shards = np.array(self.shards, np.int32)[order]
        likely = np.flatnonzero((np.diff(hashes[order]) == 0) & (np.diff(shards) != 0))
        return any(self.names[int(order[one])] == self.names[int(order[one + 1])] for one in likely)


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the images of every shard; only names and offsets are kept in memory.

    Raises:
        UsageError: a shard does not exist.
        ZooError: a shard is no tar file, or what holds the class cannot be told.
    """
    rows.needs = "an image and a class word beside it, such as `0001.jpg` and `0001.txt`"
    shards = files_by_split(argument, "shard", rows)
    images = _Images()
    asked = {value for name in ("label", "split", "group") if (value := argument.get(name)) is not None}
    for number, (file, _) in enumerate(shards):
        for image in _members(file, rows, asked):
            images.add(number, *image)
    repeated = images.repeat_names()
    if repeated:
        rows.notes.append("shards use the same names, so the name of the shard is put before each")
    names = _names_of(file for file, _ in shards)
    prefixes = [f"{names[file]}/" if repeated else "" for file, _ in shards]
    members = [ByteRanges(file, prefix) for (file, _), prefix in zip(shards, prefixes)]
    holder = _holder(argument, images) if rows.labelled else None
    for shard, image in zip(images.shards, images):
        file, role = shards[shard]
        split = role or (_of_json(image, argument.options["split"]) if "split" in argument.options else None)
        rows.add(
            f"{prefixes[shard]}{image.name}",
            _label(image, holder, f"{file}/{image.name}") if holder else "",
            Place(members[shard], image.offset, image.size),
            split=split,
            group=_of_json(image, argument.options["group"]) if "group" in argument.options else None,
            table=file,
        )


def _names_of(files: Iterable[str]) -> dict[str, str]:
    """A name for each shard that no other has: its stem, or else its name, or else its path below their folder."""
    paths = {file: Path(file) for file in files}
    common = Path(os.path.commonpath([path.parent for path in paths.values()])) if paths else Path()
    below = {file: path.relative_to(common).as_posix() for file, path in paths.items()}
    for found in (
        {file: path.name.partition(".")[0] for file, path in paths.items()},
        {file: path.name.removesuffix(".tar") for file, path in paths.items()},
        {file: name.removesuffix(".tar") for file, name in below.items()},
    ):
        if len(set(found.values())) == len(found):
            return found
    return below


def _members(file: str, rows: LabelledRows, asked: Collection[str]) -> Iterator[_Image]:
    """The images of a shard, each with the words beside it.

    Of JSON, only the keys `asked` and the usual ones for labels are kept.

    Raises:
        ZooError: it is no uncompressed tar file.
    """
    if is_url(file):
        raise UsageError(f"shard `{file}` is a URL, and shards are read in place", hint="download it first")
    words: dict[str, dict[str, str]] = defaultdict(dict)
    known = tuple(suffix.removeprefix(".") for suffix in (*SUFFIXES, *FOREIGN_SUFFIXES))
    found: list[tuple[str, str, int, int]] = []
    last = BEGINNING
    whole = Path(file).stat().st_size
    try:
        with tarfile.open(file, "r:") as archive, Path(file).open("rb") as stream:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # which tarfile keeps, and this reader does not need
                name = member.name.removeprefix("./")
                last = f"`{name}`"
                if member.isdir() or is_clutter(Path(name)):  # macOS puts `._0001.cls` beside `0001.cls`
                    continue
                reason = why_unsafe(name) or (None if member.isreg() else "is a link or device, which is not followed")
                if reason is None and member.sparse is not None:
                    reason = "is stored as a sparse file, which is not read"
                if reason is None and member.offset_data + member.size > whole:
                    reason = "is cut short: the shard ends within it"
                if reason is not None:
                    rows.rejected.append((name, reason))
                    continue
                base = name.rpartition("/")[2]
                key, suffix = name[: len(name) - len(base)] + base.partition(".")[0], base.partition(".")[2].lower()
                if suffix.rpartition(".")[2] in known:
                    found.append((key, name, member.offset_data, member.size))
                elif suffix in (*WORDS, "json") and member.size <= LONGEST:
                    stream.seek(member.offset_data)
                    text = stream.read(member.size).decode("utf-8-sig")
                    text = _shortened(text, asked) if suffix == "json" else text
                    if words[key].setdefault(suffix, text) != text:
                        raise ZooError(
                            f"`{name}` comes twice in `{file}`, as `{words[key][suffix][:80].strip()}` and "
                            f"`{text[:80].strip()}`",
                            hint="remove one of them",
                        )
            if _holds_more(file, archive.offset):
                rows.rejected.append((file, f"is damaged after {last}: what follows is no member of a tar file"))
            elif archive.offset >= whole:  # a tar file ends in two blocks of zeros
                rows.rejected.append((file, f"may be cut short after {last}: the end mark of a tar file is missing"))
            elif last == BEGINNING:
                rows.notes.append(f"shard `{file}` is empty")
    except UnicodeDecodeError as error:
        raise ZooError(f"the words of {last} in `{file}` are not valid UTF-8", hint="write them in UTF-8") from error
    except tarfile.ReadError as error:
        if not found:
            raise ZooError(
                f"`{file}` cannot be read as an uncompressed tar file: {quoted(error)}",
                hint="members are read in place, so unpack a compressed shard: `gunzip shard.tar.gz`",
            ) from error
        rows.rejected.append((file, f"is damaged after {last}: {quoted(error)}"))
    except OSError as error:
        raise ZooError(f"`{file}` cannot be read: {error.strerror or error}") from error
    for key, name, offset, size in found:
        yield _Image(name, offset, size, words.get(key, {}))


def _shortened(text: str, asked: Collection[str]) -> str:
    """A JSON object with the keys that may be read, since the others differ from image to image; else the text."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            return text
        return json_text({key: found[key] for key in found if key in asked or key.lower() in LABEL_NAMES})
    except (ValueError, RecursionError, ZooError):  # no JSON, or a value of it that is none, such as NaN
        return text


def _holds_more(file: str, offset: int) -> bool:
    """Whether anything but zeros follows the last member, which tarfile takes for the end."""
    with Path(file).open("rb") as stream:
        stream.seek(offset)
        while part := stream.read(ZEROS):
            if part.strip(b"\0"):
                return True
    return False


def _holder(argument: Argument, images: _Images) -> str:
    """What holds the class: `txt`, `cls`, or `json:KEY`.

    Raises:
        ZooError: there is nothing, or there are several.
    """
    asked = argument.get("label")
    if asked is not None:
        return asked if asked in WORDS else f"json:{asked}"
    found = {suffix for words in images.beside for suffix in WORDS if suffix in words}
    looked = (_object(image) for image in islice(images, 50) if "json" in image.words)
    keys = {key for one in looked for key in one if key.lower() in LABEL_NAMES}
    found |= {f"json:{key}" for key in keys}
    if len(found) == 1:
        return found.pop()
    several = " and ".join(f"`{each.removeprefix('json:')}`" for each in sorted(found))
    what = f"may be in {several}" if found else "is in no `.txt`, `.cls` or `.json` beside them"
    raise ZooError(
        f"the class of the images of `wds:{argument}` {what}",
        hint="`label=txt`, `label=cls` or `label=KEY` of the `.json` says where it is",
    )


def _label(image: _Image, holder: str, where: str) -> str:
    if holder in WORDS:
        text = image.words.get(holder, "").strip()
        if "\n" in text:
            raise ZooError(f"the `.{holder}` of `{where}` holds several lines, not a class", hint="is it a caption?")
        return text
    return _of_json(image, holder.removeprefix("json:"))


def _of_json(image: _Image, key: str) -> str:
    value = _object(image).get(key)
    if isinstance(value, (list, dict)):
        raise ZooError(f"`{key}` of `{image.name}` is a {type(value).__name__}, not one class")
    return cell_text(value)


def _object(image: _Image) -> dict[str, Any]:
    try:
        found = json.loads(image.words.get("json", "{}"))
    except ValueError as error:
        raise ZooError(f"the `.json` of `{image.name}` is not JSON: {quoted(error)}") from error
    return found if isinstance(found, dict) else {}
