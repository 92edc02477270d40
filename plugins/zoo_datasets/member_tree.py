"""Files that lie in an archive or a store, as a tree that the reader of class folders walks like a folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from zoo.data.folder_walk import is_clutter


class Member:
    """A file or folder of a tree. It has those methods of a `Path` that reading class folders needs.

    A file is the source of an image: `open` reads its bytes.
    """

    __slots__ = ("_tree", "text")

    def __init__(self, tree: MemberTree, text: str) -> None:
        self._tree = tree
        self.text = text

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.text).suffix

    @property
    def parent(self) -> Member:
        return Member(self._tree, self.text.rpartition("/")[0])

    def __truediv__(self, name: str) -> Member:
        return Member(self._tree, f"{self.text}/{name}" if self.text else name)

    def iterdir(self) -> Iterator[Member]:
        yield from (self / name for name in self._tree.children.get(self.text, ()))

    def is_dir(self) -> bool:
        return self.text in self._tree.children

    def is_file(self) -> bool:
        return self.text in self._tree.files

    def is_symlink(self) -> bool:
        return False

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def relative_to(self, other: Any) -> PurePosixPath:
        return PurePosixPath(self.text).relative_to(other.text)

    def walk(self) -> Iterator[Member]:
        """Yield every file below, without clutter, in the order of a folder's walk."""
        inside = sorted(child for child in self.iterdir() if not is_clutter(child))
        yield from (child for child in inside if not child.is_dir())
        for child in inside:
            if child.is_dir():
                yield from child.walk()

    def open(self) -> BinaryIO:
        return io.BytesIO(self._tree.read(self._tree.files[self.text]))

    def __lt__(self, other: Member) -> bool:
        return self.text.split("/") < other.text.split("/")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and other.text == self.text and other._tree is self._tree

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return f"{self._tree.name}/{self.text}"


class MemberTree:
    """The files of an archive or store.

    Attributes:
        name: What messages call it.
        files: A number or name for each file, by its path with forward slashes.
        children: Names in each folder, by its path; the top is the empty text.
        read: Reads the file of a number or name. Several threads may call it at once.
    """

    def __init__(self, name: str, files: Iterable[tuple[str, object]], read: Callable[..., bytes]) -> None:
        self.name = name
        self.read = read
        self.files: dict[str, object] = dict(files)
        children: dict[str, dict[str, None]] = {"": {}}
        for text in self.files:
            while text:
                above, _, last = text.rpartition("/")
                known = children.setdefault(above, {})
                if last in known:
                    break
                known[last] = None
                text = above
        self.children = {folder: tuple(names) for folder, names in children.items()}

    @property
    def root(self) -> Member:
        return Member(self, "")


def why_unsafe(name: str) -> str | None:
    """Why a member of an archive is not read: its name leads out of the archive. None: it does not."""
    if name.startswith("/") or name[1:3] in (":/", ":\\"):
        return "has an absolute path, which is not followed"
    if ".." in name.replace("\\", "/").split("/"):
        return "has `..` in its path, which is not followed"
    return None
