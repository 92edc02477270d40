"""`zip:photos.zip`: class folders in a zip archive, read in place, by the rules of `folder:`."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path

from zoo import Images, UsageError, ZooError
from zoo.data.data_argument import Kind, matching_files, parse_argument, resolved_argument
from zoo.data.folder_walk import is_clutter, is_photograph
from zoo.data.split_words import role_of
from zoo.dataset import Sample, Unlabelled
from zoo.errors import quoted
from zoo_datasets.class_folders import Reading
from zoo_datasets.folder import open_tree, score_tree
from zoo_datasets.member_tree import Member, MemberTree, why_unsafe

OPTIONS: dict[str, Kind] = {"classes": "text"}

# A member of more bytes than this is no photograph; one that grows by more than the factor is a zip bomb. Deflate
# reaches 1032 at most, and a photograph's bytes, which are compressed already, hardly 2
LARGEST = 1 << 30
GROWTH = 200
SMALL = 1 << 24  # bytes: what is not larger does no harm, such as a bitmap of one colour


def open_zip(text: str, split_seed: int) -> Images:
    """Open a zip archive to train on; see `zoo_datasets.folder.open_folder`."""
    tree, name, reading, rejected = _opened(text)
    return open_tree(_top(tree), f"zip:{text}", name, split_seed, reading, rejected)


def score_zip(text: str) -> Images:
    """Open a zip archive to evaluate a model on."""
    tree, name, reading, rejected = _opened(text)
    return score_tree(_top(tree), f"zip:{text}", name, reading, rejected)


def unlabelled_zip(text: str) -> Unlabelled:
    """Open the photographs of a zip archive to predict, wherever they lie in it."""
    tree, name, _, rejected = _opened(text)
    top = _top(tree)
    samples = tuple(Sample(str(each.relative_to(top)), "", each) for each in top.walk() if is_photograph(each))
    if not samples and not rejected:
        raise ZooError(f"`{name}` holds no photographs")
    return Unlabelled(name=f"zip:{text}", samples=samples, rejected=tuple(rejected))


def absolute_zip(text: str, base: Path) -> str:
    """The argument with an absolute path."""
    try:
        argument = parse_argument("zip", text, OPTIONS)
    except UsageError:
        return text
    return str(resolved_argument(argument, OPTIONS, base))


def _top(tree: MemberTree) -> Member:
    """The folder that holds the class or split folders: packing a folder puts one around them."""
    top = tree.root
    while True:
        inside = [child for child in top.iterdir() if not is_clutter(child)]
        if len(inside) != 1 or not inside[0].is_dir() or role_of(inside[0].name):
            return top
        if not any(child.is_dir() for child in inside[0].iterdir()):
            return top  # a class
        top = inside[0]


def _opened(text: str) -> tuple[MemberTree, str, Reading, list[tuple[str, str]]]:
    argument = parse_argument("zip", text, OPTIONS)
    if len(argument.files) != 1:
        raise UsageError("`zip:` takes one archive", hint="such as `zip:photos.zip`; quote a path with commas")
    readings: dict[str | None, Reading] = {None: "plain", "leaf": "leaf", "top": "top"}
    reading = readings.get(argument.get("classes"))
    if reading is None:
        raise UsageError(f"`classes={argument.get('classes')}` is neither `leaf` nor `top`")
    file = matching_files(argument.files[0], "archive")[0]
    rejected: list[tuple[str, str]] = []
    return zip_tree(file, rejected), file, reading, rejected


def zip_tree(file: str, rejected: list[tuple[str, str]]) -> MemberTree:
    """The members of a zip archive as a tree; only their names and places are kept in memory.

    Args:
        file: Its path.
        rejected: Receives the name and reason of each member that is not read.

    Raises:
        ZooError: it is no zip archive, or all of it is encrypted.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ZooError(f"`{file}` cannot be read as a zip archive: {quoted(error)}") from error
    members: dict[str, str] = {}
    locked = 0
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = info.filename.replace("\\", "/")
        while name.startswith("./"):
            name = name[2:]
        if (reason := _why_unread(info)) is not None:
            locked += reason == ENCRYPTED
            if not _is_clutter_below(name):
                rejected.append((name, reason))
        elif name in members:
            rejected.append((name, "comes twice in the archive, and the first one is read"))
        else:
            members[name] = info.filename
    if locked and not members:
        raise ZooError(f"`{file}` is encrypted", hint="unpack it with its password, and pass the folder")
    reader = _ZipReader(file, archive)
    return MemberTree(file, members.items(), reader.read)


ENCRYPTED = "is encrypted"


def _is_clutter_below(name: str) -> bool:
    return any(is_clutter(Path(part)) for part in name.split("/") if part not in ("", ".", ".."))


def _why_unread(info: zipfile.ZipInfo) -> str | None:
    if (reason := why_unsafe(info.filename)) is not None:
        return reason
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "is a link, which is not followed"
    if info.flag_bits & 0x1:
        return ENCRYPTED
    grown = info.file_size > SMALL and info.file_size > GROWTH * max(info.compress_size, 1)
    if info.file_size > LARGEST or grown:
        return f"would unpack from {info.compress_size:,} to {info.file_size:,} bytes, as a zip bomb does"
    return None


class _ZipReader:
    """Reads members of an archive; its file is opened once, and threads take turns at each piece."""

    def __init__(self, file: str, archive: zipfile.ZipFile) -> None:
        self._file = file
        self._archive = archive  # its list of members serves all threads
        self._process = os.getpid()

    def read(self, name: object) -> bytes:
        """The bytes of a member.

        Raises:
            OSError: it is damaged.
        """
        if self._process != os.getpid():  # a fork shares the place in the file with its parent
            self._archive, self._process = zipfile.ZipFile(self._file), os.getpid()
        try:
            with self._archive.open(str(name)) as stream:  # zipfile locks the file for each piece that it reads
                size = self._archive.getinfo(str(name)).file_size
                data = stream.read(size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"the member is damaged: {quoted(error)}") from error
        if len(data) != size:
            raise OSError(f"the member has not the {size:,} bytes that the archive says")
        return data
