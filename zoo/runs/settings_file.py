"""Settings files: the settings of a run or a study as TOML, read strictly and written with a comment for each."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config.references import absolute_strategy, absolute_weights
from zoo.data.data_argument import absolute_path, check_no_secret
from zoo.data.exclusion import absolute_list
from zoo.data.opening import absolute
from zoo.errors import UsageError
from zoo.plugin import Plugins
from zoo.storage.paths import check_recordable, user_path

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import Table

WIDTH = 100  # columns of a comment


@dataclass(frozen=True, kw_only=True)
class Line:
    """A setting as it stands in a file.

    Attributes:
        key: Its name.
        value: Its value. None: it is not set, and stands there as a comment.
        text: What it means, with its default.
    """

    key: str
    value: Any
    text: str


def read_settings(file: Path | str, what: str = "settings file") -> dict[str, Any]:
    """The keys and values of a TOML file.

    Args:
        file: The file.
        what: What messages call it.

    Raises:
        UsageError: there is no such file, it cannot be read, is not TOML, or holds a password.
    """
    path = user_path(file)
    if path.is_dir():
        raise UsageError(
            f"`{file}` is a folder, not a {what}",
            hint=f"a run is trained again by `zoo rerun {file}`, and continued by `zoo train --resume {file}`; images "
            f"are passed as `--data {file}`",
        )
    try:
        found = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no {what} `{file}`", hint="pass a file in TOML") from error
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"`{file}` cannot be read as TOML: it is not text in UTF-8", hint=f"pass a {what} in TOML"
        ) from error
    except (ValueError, RecursionError) as error:
        twice = _given_twice(path, str(error))
        if twice is not None:
            raise UsageError(f"`{file}`: {twice}", hint="leave one of them out") from error
        raise UsageError(
            f"`{file}` cannot be read as TOML: {str(error) or 'it is nested too deeply'}",
            hint='a line is `key = value`, with text in quotes, such as `data = "photos"`',
        ) from error
    for key, value in found.items():
        for text in _texts(value):
            check_no_secret(text, f"`{key}` of `{file}`")
    return found


def _given_twice(path: Path, error: str) -> str | None:
    """What a file has twice, if that is why it is no TOML: tomllib names the place alone."""
    found = re.search(r"(Cannot overwrite|Cannot declare) .*\(at line (\d+)", error)
    if found is None:
        return None
    line = path.read_text("utf-8-sig").splitlines()[int(found[2]) - 1]
    return f"`{line.partition('=')[0].strip()}` stands there twice (line {found[2]})"


def _texts(value: Any) -> Iterable[str]:
    """Every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from (key, *_texts(one))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def beside(key: str, value: str, folder: Path, plugins: Plugins) -> str:
    """A path in a settings file made absolute: a relative one begins at the folder that the file is in.

    Args:
        key: The setting.
        value: Its text; of `data` and `weights` it may also be a name, and of `strategy` it holds paths.
        folder: The folder of the file.
        plugins: Loaded plugins.
    """
    if key == "data":
        return absolute(value, plugins, folder)
    if key == "weights":
        return absolute_weights(value, folder)
    if key == "strategy":
        return absolute_strategy(value, folder)
    if key == "exclude":
        return str(absolute_list(value, folder))
    return absolute_path(value, folder)


def settings_text(lines: Iterable[Line], title: str, table: str | None = None, of_table: Iterable[Line] = ()) -> str:
    """The settings as TOML, each below a comment that says what it means; what is not set is a comment.

    Args:
        lines: The settings.
        title: The first comment.
        table: The name of a table behind them. None: there is none.
        of_table: The settings in the table.

    Raises:
        UsageError: a value holds a password or a signature, or is not valid UTF-8.
    """
    import tomlkit  # not at the top: it takes milliseconds, and few commands write TOML

    document = tomlkit.document()
    _comment(document, title)
    _add(document, lines)
    if table is not None:
        inner = tomlkit.table()
        _add(inner, of_table)
        document.add(tomlkit.nl())
        document.add(table, inner)
    return tomlkit.dumps(document)


def _add(to: TOMLDocument | Table, lines: Iterable[Line]) -> None:
    import tomlkit

    for line in lines:
        to.add(tomlkit.nl())
        _comment(to, line.text)
        if line.value is None:
            to.add(tomlkit.comment(f"{line.key} ="))
            continue
        for text in _texts(line.value):
            check_no_secret(text, f"`{line.key}`")
            check_recordable(text, line.key)
        to.add(line.key, _plain(line.value))


def _comment(to: TOMLDocument | Table, text: str) -> None:
    import tomlkit

    for row in textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False):
        to.add(tomlkit.comment(row))


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
