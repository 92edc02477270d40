"""`hf:NAME@REVISION` and `hf:FOLDER`: datasets of the Hugging Face hub, or in its layouts (extra `hf`)."""

from __future__ import annotations

import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from zoo import UsageError, ZooError
from zoo.data.data_argument import Argument, Kind
from zoo.data.folder_walk import is_photograph, walk_files
from zoo.data.labelled_rows import LabelledRows
from zoo.data.split_words import role_of
from zoo.data.table import LABEL_NAMES, cell_text
from zoo.dataset import BytesSource, FileSource, ImageSource
from zoo.errors import quoted
from zoo.storage.paths import user_path

OPTIONS: dict[str, Kind] = {
    "config": "text",
    "image": "text",
    "label": "text",
    "split": "text",
    "group": "text",
}
TIMEOUT = 10.0  # seconds that the hub is waited for to say what it has
_COMMIT = re.compile(r"[0-9a-f]{40}")
EXAMPLE = "such as `hf:cifar10@REVISION` or `hf:FOLDER`"


def absolute(argument: Argument, options: dict[str, Kind], base: Path) -> Argument:
    """The argument with the absolute path of a folder, or with the commit that a name, branch or tag is on the hub now.

    So a run records what it was trained on, and finds it again after the dataset has changed.
    """
    if len(argument.files) != 1:
        return argument
    text = argument.files[0]
    folder = base / user_path(text)
    if folder.is_dir():
        return Argument(dataset="hf", files=(str(folder.resolve()),), options=argument.options)
    name, _, asked = text.partition("@")
    if _COMMIT.fullmatch(asked):
        return argument
    try:
        from huggingface_hub import HfApi

        revision = HfApi().dataset_info(name, revision=asked or None, timeout=TIMEOUT).sha
    except Exception:  # opening it says what is wrong
        return argument
    return Argument(dataset="hf", files=(f"{name}@{revision}",), options=argument.options) if revision else argument


def read(argument: Argument, rows: LabelledRows) -> None:
    """Add the images of every split.

    Raises:
        UsageError: there is no such dataset, or it has no such column.
        ZooError: `datasets` is not installed, or a split is no role.
    """
    if len(argument.files) != 1:
        raise UsageError("`hf:` takes one dataset", hint=EXAMPLE)
    text = argument.files[0]
    folder = user_path(text)
    loaded = _loaded(text, folder if folder.is_dir() else None, argument.get("config"))
    if not folder.is_dir() and not _COMMIT.search(text) and (commit := _cached_commit(loaded)) is not None:
        rows.notes.append(f"the hub was not reached: `{text}` is the copy of commit {commit} that was kept here")
    by_role = len(loaded) > 1 and argument.get("split") is None
    named: set[str] = set()
    for word, part in loaded.items():
        if by_role and role_of(word) is None:
            known = " ".join(f"`{name}`" for name in loaded)
            raise ZooError(f"split `{word}` of `{text}` is no role", hint=f"it has {known}; `split=` names a column")
        named |= _add(part, str(word) if by_role else None, argument, rows, folder if folder.is_dir() else None, text)
    if folder.is_dir():  # a metadata file may have been written before some images came
        others = (file.relative_to(folder).as_posix() for file in walk_files(folder) if is_photograph(file))
        rows.rejected += [
            (name, "is in the folder, but in no row of its metadata") for name in others if name not in named
        ]


def _loaded(text: str, folder: Path | None, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ZooError(f"`hf:{text}` needs `datasets`", hint="`pip install backbone-zoo[hf]`") from error
    name, _, revision = (text, "", "") if folder is not None else text.partition("@")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # of what fails, one line is said, and not each try
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if folder is not None:
            return datasets.load_dataset(str(folder.resolve()), config)
        return datasets.load_dataset(name, config, revision=revision or None)
    except Exception as error:  # of the hub, the network, or a file's reader
        if folder is None and (why := why_refused(name, revision)) is not None:
            raise UsageError(f"`hf:{text}` cannot be opened: {why[0]}", hint=why[1]) from error
        raise UsageError(
            f"`hf:{text}` cannot be opened: {type(error).__name__}: {quoted(error)}",
            hint="`hf:` takes a dataset's name on the hub, with `@REVISION`, or a folder in one of its layouts",
        ) from error


def why_refused(name: str, revision: str, endpoint: str | None = None) -> tuple[str, str] | None:
    """What the hub says against a dataset, and what mends it; None: nothing.

    Args:
        name: Its name.
        revision: A commit, branch or tag; empty: the newest.
        endpoint: Address of the hub. None: that of the environment.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "a token comes from `hf auth login` or HF_TOKEN"
    hub = HfApi(endpoint=endpoint)
    try:
        hub.dataset_info(name, revision=revision or None, timeout=TIMEOUT)
    except GatedRepoError:
        return f"access to `{name}` must be granted", f"ask for it on {hub.endpoint}/datasets/{name}; {login}"
    except RevisionNotFoundError:
        return f"`{name}` has no revision `{revision}`", "a revision is a commit, branch or tag"
    except RepositoryNotFoundError:
        return (
            f"there is neither a folder nor a dataset `{name}` on the hub, or it is private",
            f"for a private one, {login}",
        )
    except OfflineModeIsEnabled:
        return f"`{name}` is not among the copies kept here, and HF_HUB_OFFLINE is set", "unset it to ask the hub"
    except HFValidationError:
        return f"`{name}` is no name of a dataset, and there is no such folder", EXAMPLE
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code == 404:
            return f"the hub has no dataset `{name}`, or it is private", f"for a private one, {login}"
        if code in (401, 403):
            return f"the hub refuses it ({code})", login
        return f"the hub answers {code}", "try again later, or use a folder: `hf:FOLDER`"
    except Exception as error:  # of the network
        text = f"{type(error).__name__}: {quoted(error)}".rstrip(".")
        return f"the hub `{hub.endpoint}` cannot be reached: {text}", "check the network, or use a folder: `hf:FOLDER`"
    return None


def _cached_commit(loaded: Any) -> str | None:
    """The commit of a dataset that was opened without one, as its files in the cache are named."""
    files = [str(file["filename"]) for part in loaded.values() for file in part.cache_files]
    found = [match[0] for file in files for part in Path(file).parts if (match := _COMMIT.fullmatch(part))]
    return found[0] if found else None


def _add(
    part: Any, word: str | None, argument: Argument, rows: LabelledRows, folder: Path | None, text: str
) -> set[str]:
    """Add the images of a split; returns what they are called."""
    import datasets

    ids: set[str] = set()

    features = part.features
    image = _column(
        argument, "image", [n for n, f in features.items() if isinstance(f, datasets.Image)], features, text
    )
    assert image is not None
    label = None
    if rows.labelled:
        labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        label = _column(argument, "label", labels or [n for n in features if n.lower() in LABEL_NAMES], features, text)
    others = {name: argument.get(name) for name in ("split", "group")}
    for option, column in others.items():
        if column is not None and column not in features:
            _column(argument, option, [], features, text)
    if not isinstance(features[image], datasets.Image):
        raise ZooError(f"column `{image}` of `hf:{text}` holds {features[image]}, not images")
    part = part.cast_column(image, datasets.Image(decode=False))
    names = getattr(features[label], "names", None) if label else None
    small = part.select_columns([name for name in (label, *others.values()) if name])
    paths = part.data.column(image)
    for number in range(len(part)):
        cells = small[number] if small.column_names else {}
        path = cell_text(paths[number]["path"].as_py())
        source: ImageSource
        if folder is not None and path and os.path.isfile(path):  # noqa: PTH113
            source = FileSource(Path(path))
            name = os.path.relpath(path, folder.resolve()).replace(os.sep, "/")
        else:
            name = (
                f"{word or 'image'}/{number:08d}" if not path else f"{word or 'image'}/{number:08d}-{Path(path).name}"
            )
            source = BytesSource(f"hf:{text}, {word or 'row'} {number}", partial(_bytes, part, image, number))
        ids.add(name)
        value = cells.get(label) if label else None
        if isinstance(value, (list, dict)):
            raise ZooError(f"column `{label}` of `hf:{text}` holds a {type(value).__name__}, not one class")
        called = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else cell_text(value)
        if names and value == -1:  # the hub's way to say that a test image has none
            called = ""
        rows.add(
            name,
            called,
            source,
            split=word or (cell_text(cells[others["split"]]) if others["split"] else None),
            group=cell_text(cells[others["group"]]) if others["group"] else None,
            table=f"hf:{text}",
            line=number + 1,
        )
    return ids


def _bytes(part: Any, image: str, number: int) -> bytes:
    value = part[number][image]
    if value["bytes"] is None:
        return Path(value["path"]).read_bytes()
    data: bytes = value["bytes"]
    return data


def _column(argument: Argument, option: str, found: list[str], features: Any, text: str) -> str | None:
    asked = argument.get(option)
    names = " ".join(f"`{name}`" for name in features)
    if asked is not None:
        if asked not in features:
            raise UsageError(f"`hf:{text}` has no column `{asked}`, which `{option}` names", hint=f"it has {names}")
        return asked
    if len(found) == 1:
        return found[0]
    raise ZooError(
        f"`hf:{text}` has no column that can only hold {option}s", hint=f"name it by `{option}=`; it has {names}"
    )
