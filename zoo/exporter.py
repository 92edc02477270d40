"""Exporter: a file format that a run can be written to, read back from, and verified in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError
from zoo.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from zoo.plugin import Plugins
    from zoo.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What an exporter is given: the trained network and everything that the file should say about itself."""

    model: nn.Module  # in eval mode, on the CPU, fp32
    preprocess: Preprocess
    classes: tuple[str, ...]
    metadata: dict[str, Any]  # JSON values: backbone, strategy, weights, license, metrics, data, versions
    file: Path  # where to write; the caller renames it into place once verified


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that `verify` looked at: whether it held, and the figure."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A row of the catalogue; each verb is a callable or `"module:function"`.

    `write(ExportSpec) -> None` writes the file. `open(path, device) -> Predictor` reads it back; `device` is `auto`,
    `cpu`, `cuda` or `cuda:N`. `verify(path, device) -> list[Check]` looks at the file by itself: integrity and
    golden inputs. Only `write` may import torch, except in formats that torch alone can read.
    """

    name: str
    summary: str
    suffix: str  # of its files, with the dot
    write: str | Callable[[ExportSpec], None] = field(repr=False)
    open: str | Callable[[Path, str], Predictor] = field(repr=False)
    verify: str | Callable[[Path, str], list[Check]] = field(repr=False)


def find_exporter(file: Path, plugins: Plugins) -> Exporter:
    """The exporter that reads a file, by its suffix.

    Raises:
        UsageError: none does, or there is no such file.
    """
    if not file.exists():
        raise UsageError(f"there is no file `{file}`", hint="`zoo export RUN` makes one")
    for entry in plugins.exporters:
        if entry.value.suffix == file.suffix.lower():
            return entry.value
    suffixes = " ".join(entry.value.suffix for entry in plugins.exporters)
    raise UsageError(f"`{file}` is no exported file", hint=f"known suffixes are {suffixes}")
