"""The argument of a dataset, as in `csv:train.csv,path=file,root=images`: files, then options by name.

This is the one place that knows its grammar:

- Commas separate the parts. A part is `name=value`, or a file without a name. Spaces around a part are dropped.
- A value in double or single quotes is taken as it stands, so that it may hold commas, equals signs and spaces; a quote
  of that kind inside it is doubled. A comma inside braces, as in `{train,val}.csv`, separates nothing.
- Only the text before the first `=` of a part can be a name, and a name has letters, digits, `_` and `-` alone:
  `data/a=b.csv` and `C:\\photos\\a=b.csv` are files.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from zoo.errors import UsageError, did_you_mean
from zoo.storage.address import address_parts as address_parts
from zoo.storage.address import addresses_in
from zoo.storage.address import is_url as is_url
from zoo.storage.address import without_secret as without_secret
from zoo.storage.paths import user_path

# What an option holds: paths are resolved, so that a run finds them from any folder
Kind = Literal["path", "text"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SAFE = re.compile(r"[^,='\"\s]([^,'\"]*[^,'\"\s])?")
MOST_FILES = 1_000_000  # that braces may stand for


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A parsed argument.

    Attributes:
        dataset: The name before the colon, for messages.
        files: The parts without a name, in order.
        options: The other parts, by name.
    """

    dataset: str
    files: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """The value of an option; None: it is not given."""
        return self.options.get(name)

    def __str__(self) -> str:
        """The argument as text that `parse_argument` reads; values are quoted where they must be."""
        parts = [quoted_value(value, is_file=True) for value in self.files]
        return ",".join([*parts, *(f"{name}={quoted_value(value)}" for name, value in self.options.items())])


def parse_argument(dataset: str, text: str, options: Mapping[str, Kind]) -> Argument:
    """Read the argument of a dataset.

    Args:
        dataset: The name before the colon.
        text: What comes after it.
        options: Names of the options that the dataset has, and what each holds.

    Raises:
        UsageError: an option is unknown, empty or comes twice, or a quote is not closed.
    """
    files: list[str] = []
    found: dict[str, str] = {}
    for part in _parts(dataset, text):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or part[:1] in "'\"" or (name not in options and not _NAME.fullmatch(name)):
            files.append(_unquoted(dataset, part))
            continue
        if name not in options:
            known = " ".join(f"`{each}`" for each in options)
            otherwise = f'the options are {known}; a path with an equals sign is written in quotes: `"{part}"`'
            raise UsageError(f"`{dataset}:` has no option `{name}`", hint=did_you_mean(name, options, otherwise))
        if name in found:
            raise UsageError(f"`{dataset}:` has the option `{name}` twice", hint="leave one out")
        found[name] = _unquoted(dataset, value.strip())
        if not found[name]:
            raise UsageError(f"`{dataset}:` has the option `{name}` without a value", hint="leave it out")
    if "" in files:
        raise UsageError(f"`{dataset}:{text}` has an empty part", hint="remove the comma that is too much")
    return Argument(dataset=dataset, files=tuple(files), options=found)


def resolved_argument(argument: Argument, options: Mapping[str, Kind], base: Path | None = None) -> Argument:
    """The argument with its paths made absolute; URLs are unchanged.

    Args:
        argument: The argument.
        options: What each option holds.
        base: The folder that relative paths begin at. None: the current one.
    """
    return replace(
        argument,
        files=tuple(absolute_path(file, base) for file in argument.files),
        options={
            name: absolute_path(value, base) if options[name] == "path" else value
            for name, value in argument.options.items()
        },
    )


def check_no_secret(spec: str, what: str = "`--data`") -> None:
    """Check that a run can record a text, such as that of `--data`, which messages call `what`.

    Raises:
        UsageError: an address in it holds a password or a signature; the message does not.
    """
    for url in addresses_in(spec):
        if (name := without_secret(url)) != url:
            raise UsageError(
                f"{what} has an address with a password or a signature, `{name}`, which every run would record",
                hint="put credentials where the library of the store looks for them, such as AWS_PROFILE, or download "
                "the file first",
            )


def absolute_path(text: str, base: Path | None = None) -> str:
    """A path or pattern that begins at the root of the file system; a URL as it is."""
    return text if is_url(text) else os.path.abspath((base or Path()) / user_path(text))  # noqa: PTH100 - also patterns


def quoted_value(value: str, *, is_file: bool = False) -> str:
    """A value as it stands in an argument, in quotes where it needs them."""
    outside = re.sub(r"\{[^{}'\"]*\}", "", value)  # a comma in braces separates nothing
    plain = not re.search(r"[{}]", outside) and (_SAFE.fullmatch(outside) or (not outside and value))
    if plain and not (is_file and _NAME.fullmatch(value.partition("=")[0].strip()) and "=" in value):
        return value
    return '"' + value.replace('"', '""') + '"'


def matching_files(text: str, what: str) -> list[str]:
    """The files that a text names, sorted: a file, a pattern with `*`, or braces such as `shard-{000..009}.tar`.

    Args:
        text: A path or URL, perhaps with braces; only paths may be patterns.
        what: What messages call the file, such as `table`.

    Raises:
        UsageError: there is no such file, or the pattern matches none.
    """
    found: list[str] = []
    literal = not is_url(text) and user_path(text).exists()
    for each in [text] if literal else braces(text):
        if is_url(each):
            found.append(each)
            continue
        path = str(user_path(each))
        if Path(path).is_file():
            found.append(path)
            continue
        if Path(path).exists():
            raise UsageError(f"{what} `{each}` is a folder, not a file")
        names = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not names:
            is_pattern = glob.has_magic(path)
            raise UsageError(
                f"{what} `{each}` {'matches no file' if is_pattern else 'does not exist'}",
                hint=None if is_pattern else _why_missing(each),
            )
        found += names
    return list(dict.fromkeys(found))


def _why_missing(text: str) -> str:
    folder = user_path(text).parent
    if not folder.is_dir():
        return f"there is no folder `{folder}`"
    names = [child.name for child in folder.iterdir()]
    return did_you_mean(Path(text).name, names, f"folder `{folder}` is there, but holds no file of this name")


def braces(text: str) -> Iterator[str]:
    """Yield what a text with braces stands for: `a{0..2}` is `a0 a1 a2`, `{x,y}` is `x y`; digits keep their width.

    Raises:
        UsageError: it stands for more than a million texts.
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
    if found is None:
        yield text
        return
    first, last, words = found.groups()
    inner: Sequence[str]
    if words is not None:
        inner = words.split(",")
    else:
        step = 1 if int(first) <= int(last) else -1
        if abs(int(last) - int(first)) >= MOST_FILES:
            raise UsageError(f"`{text}` stands for more than {MOST_FILES:,} files")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        inner = [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
    for one in inner:
        yield from braces(text[: found.start()] + one + text[found.end() :])


def _parts(dataset: str, text: str) -> list[str]:
    """The text divided at commas that stand neither in quotes nor in braces."""
    if not text.strip():
        return []
    parts, start, depth, quote = [], 0, 0, ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and _begins_value(text[start:index]):
            quote = letter
        elif letter in "'\"" and text[start:index].strip().partition("=")[2].strip()[:1] == letter:
            quote = letter  # a doubled quote: the value goes on
        elif letter in "'\"" and text[start:index].strip()[:1] == letter:
            quote = letter
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            parts.append(text[start:index].strip())
            start = index + 1
    if quote:
        raise UsageError(f"`{dataset}:{text}` has a quote {quote} that is not closed", hint="close it, or double it")
    return [*parts, text[start:].strip()]


def _begins_value(before: str) -> bool:
    """Whether a quote after this text of a part begins its value; an apostrophe inside a name does not."""
    name, equals, value = before.partition("=")
    return not value.strip() and (bool(equals) or not name.strip())


def _unquoted(dataset: str, value: str) -> str:
    """A value without its quotes."""
    quote = value[:1]
    if quote not in ("'", '"'):
        return value
    if (
        len(value) < 2
        or not value.endswith(quote)
        or re.search(f"(?<!{quote}){quote}(?:{quote}{quote})*(?!{quote})", value[1:-1])
    ):
        raise UsageError(
            f"`{dataset}:` has the value {value}, which goes on after its quote", hint="put the quotes around all of it"
        )
    return value[1:-1].replace(quote * 2, quote)
