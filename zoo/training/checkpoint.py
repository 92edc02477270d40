"""Checkpoints: what a killed run goes on from. Two files, so that one is always whole.

checkpoint.safetensors           the newest
checkpoint-previous.safetensors  the one before
checkpoint-next.safetensors      for a moment, the newest, while the others are renamed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from zoo.errors import ZooError
from zoo.storage.files import SCHEMA, write_bytes

NEXT = "checkpoint-next.safetensors"
NEWEST = "checkpoint.safetensors"
PREVIOUS = "checkpoint-previous.safetensors"

# Seconds between two saves where none are asked for; and, then, at least this many times the seconds that a save takes,
# so that saves cost less than two per cent
EVERY = 30.0
SHARE = 50


class Checkpoints:
    """The checkpoints of one run's folder. `every` is the time between two, in seconds; None: chosen by their cost.

    Each bears `run`, the run's `id`; those of another run, copied into the folder, are not read.
    """

    def __init__(self, folder: Path, every: float | None, run: str | None) -> None:
        self._folder = folder
        self._run = run
        self._every = every
        self._last = perf_counter()
        self.spent = 0.0  # seconds
        self.written = 0
        self._longest = 0.0

    def due(self) -> bool:
        """Whether it is time for another."""
        wait = max(EVERY, SHARE * self._longest) if self._every is None else self._every
        return perf_counter() - self._last >= wait

    def write(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write one: beside its place, flushed to the disk, renamed; the newest one before becomes the previous.

        Raises:
            ZooError: the folder cannot be written, or the disk is full; the former ones are still there.
        """
        started = perf_counter()
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({**state, "run": self._run})
        metadata = {"schema": str(SCHEMA), "state": text, "sha256": _digest(kept, text)}
        data = save_tensors(kept, metadata)
        newest, written = self._folder / NEWEST, self._folder / NEXT
        write_bytes(written, data)
        if newest.is_file():
            newest.replace(self._folder / PREVIOUS)
        written.replace(newest)
        took = perf_counter() - started
        self.spent += took
        self.written += 1
        self._longest = max(self._longest, took)
        self._last = perf_counter()

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]] | None:
        """Tensors and state of the newest whole checkpoint, and what is wrong with newer ones; None: there is none.

        Raises:
            ZooError: there are checkpoints, and all are damaged or of another run; or a folder lies in their place.
        """
        problems: list[str] = []
        files = [self._folder / name for name in (NEXT, NEWEST, PREVIOUS)]
        for file in files:
            if file.is_dir():
                raise ZooError(
                    f"`{file}` is a folder, in the place of a checkpoint",
                    hint=f"move it away, then `zoo train --resume {self._folder}`",
                )
        for file in files:
            if not file.exists():
                continue
            try:
                tensors, state = _read(file)
            except _Damaged as error:
                problems.append(f"`{file}` is damaged: {error}")
                continue
            if self._run is not None and state.get("run") == self._run:
                return tensors, state, problems
            problems.append(f"`{file}` is of another run")
        if problems:
            raise ZooError(
                f"no checkpoint can be read: {'; '.join(problems)}",
                hint=f"delete them, then `zoo train --resume {self._folder}` starts it from its beginning; or train "
                f"anew by `zoo train ... --out {self._folder} --force`",
            )
        return None

    def clear(self) -> None:
        """Remove them all, once the run's weights are written."""
        for file in self._folder.glob("checkpoint*.safetensors"):
            file.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what kills during a save have left."""
        for file in self._folder.glob(".checkpoint*"):
            file.unlink(missing_ok=True)


class _Damaged(Exception):
    pass


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise _Damaged(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if metadata.get("schema") != str(SCHEMA):
        raise _Damaged(f"its schema is {metadata.get('schema')}")
    if metadata.get("sha256") != _digest(tensors, metadata.get("state", "")):
        raise _Damaged("its content does not match its digest")
    return tensors, json.loads(metadata["state"])


def _digest(tensors: Mapping[str, torch.Tensor], state: str) -> str:
    """SHA-256 over names, types, shapes and values of the tensors, and the state."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
