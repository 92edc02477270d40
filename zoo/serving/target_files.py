"""Target files: writes a Triton model repository or KServe InferenceServices for verified files."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import UsageError, ZooError
from zoo.inference.opening import find_exporter
from zoo.plugin import Plugins
from zoo.serving.served_model import ServedModel
from zoo.serving.targets import (
    LABELS,
    config_pbtxt,
    distinct,
    inference_service,
    kserve_name,
    labels_text,
    own_service,
    triton_name,
)
from zoo.storage.files import unwritable, write_bytes

CONFIG = "config.pbtxt"


def check_target(kind: str, target: Path, force: bool) -> None:
    """Check that a target may be written, before minutes are spent on verification.

    Args:
        kind: `triton` or `kserve`.
        target: A folder; with `kserve` also a `.yaml` file.
        force: Whether what is there may be replaced.

    Raises:
        UsageError: it may not.
    """
    if is_file(kind, target):
        if target.is_dir():
            raise UsageError(f"`{target}` is a folder", hint="pass a path that does not end in `.yaml`, or remove it")
        if target.exists() and not force:
            raise UsageError(f"`{target}` exists", hint="pass `--force` to replace it")
        if not target.absolute().parent.is_dir():
            raise UsageError(f"there is no folder `{target.parent}`", hint="make it first, or pass another path")
        return
    if target.exists() and not target.is_dir():
        raise UsageError(f"`{target}` is a file", hint="pass a folder")
    if not force and target.is_dir() and next(target.iterdir(), None) is not None:
        raise UsageError(
            f"folder `{target}` is not empty",
            hint="`--force` replaces what has the same names in it, and leaves the rest; or pass another folder",
        )


def is_file(kind: str, target: Path) -> bool:
    """Whether a target is one file, and no folder."""
    return kind == "kserve" and target.suffix.lower() in (".yaml", ".yml")


def write_triton(models: Sequence[ServedModel], folder: Path, plugins: Plugins) -> list[Path]:
    """Write a model repository: for each file a folder with its configuration, its labels and its version 1.

    Files are copied byte for byte. A folder of the same name is replaced as a whole, others are left alone.

    Returns the folders of the models.

    Raises:
        UsageError: two files have one name there, or a folder of that name holds no model.
        ZooError: a file changed after it was verified, or the folder cannot be written.
    """
    names = [triton_name(model.name) for model in models]
    distinct(models, names)
    for name in names:
        if (folder / name).exists() and not (folder / name / CONFIG).is_file():
            raise UsageError(
                f"`{folder / name}` is not a model of Triton, so it is not replaced",
                hint="pass another folder, or remove it",
            )
    texts = [config_pbtxt(model, name) for model, name in zip(models, names)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for model, name, text in zip(models, names, texts):
            # Beside the target and renamed, since a server may look at the folder
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as room:
                made, old = Path(room) / name, Path(room) / "old"
                (made / "1").mkdir(parents=True)
                _copy(model, made / "1", plugins)
                (made / LABELS).write_text(labels_text(model.classes), encoding="utf-8", newline="\n")
                (made / CONFIG).write_text(text, encoding="utf-8", newline="\n")
                if (folder / name).exists():
                    (folder / name).rename(old)
                try:
                    made.rename(folder / name)
                except OSError:
                    if old.exists():
                        old.rename(folder / name)
                    raise
    except OSError as error:
        raise unwritable(folder, error) from error
    return [folder / name for name in names]


def _copy(model: ServedModel, folder: Path, plugins: Plugins) -> None:
    """Copy a file and those that belong to it.

    Raises:
        ZooError: it is not what was verified.
    """
    copied = folder / "model.onnx"
    shutil.copyfile(model.path, copied)
    with copied.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != model.digest:
            raise ZooError(f"`{model.path}` changed after it was verified", hint="try again")
    for pattern in find_exporter(model.path, plugins).beside:  # the file refers to it by this name
        beside = model.path.with_name(pattern.format(name=model.path.name, stem=model.path.stem))
        if beside.is_file():
            shutil.copyfile(beside, folder / beside.name)


def write_kserve(models: Sequence[ServedModel], target: Path, storage: str | None) -> list[Path]:
    """Write InferenceServices.

    A folder gets two files for each model: `NAME.yaml` for KServe's Triton, `NAME-zoo.yaml` for a container with
    `zoo serve`. A `.yaml` file gets the first alone, of all models.

    Returns the files.

    Raises:
        UsageError: two files have one name there.
        ZooError: they cannot be written.
    """
    names = [kserve_name(model.name) for model in models]
    distinct(models, names)
    if is_file("kserve", target):
        write_bytes(target, "---\n".join(inference_service(model, storage) for model in models).encode())
        return [target]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(target, error) from error
    written = []
    for model, name in zip(models, names):
        for file, text in (
            (f"{name}.yaml", inference_service(model, storage)),
            (f"{name}-zoo.yaml", own_service(model, storage)),
        ):
            write_bytes(target / file, text.encode())
            written.append(target / file)
    return written
