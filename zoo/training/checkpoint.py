"""Checkpoints: the training state from which a killed run is resumed. Two files, so that one is always intact.

checkpoint.safetensors           the newest
checkpoint-previous.safetensors  the one before
checkpoint-next.safetensors      the newest, for the moment in which the others are renamed
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

from zoo.errors import ZooError, first_line
from zoo.storage.files import SCHEMA, json_text, write_bytes

NEXT = "checkpoint-next.safetensors"
NEWEST = "checkpoint.safetensors"
PREVIOUS = "checkpoint-previous.safetensors"
FILES = (NEXT, NEWEST, PREVIOUS)  # from the newest to the oldest

# Without `--save-every`, at least so many seconds lie between two saves, and at least so many times the duration of a
# save. The second number keeps the cost of saves below two per cent
SHORTEST_INTERVAL = 30.0
SAVE_TIMES = 50


class Checkpoints:
    """The checkpoints in one run's folder.

    Args:
        folder: the run's folder.
        every: seconds between two saves; None: chosen by what a save costs.
        run: the run's `id`, which each checkpoint holds. Checkpoints of another run that were copied into the folder
            are not read.
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
        """Whether it is time for another save."""
        wait = max(SHORTEST_INTERVAL, SAVE_TIMES * self._longest) if self._every is None else self._every
        return perf_counter() - self._last >= wait

    def write(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint under a temporary name, flush it to the disk, and rename it.

        The newest checkpoint until then becomes the previous one.

        Raises:
            ZooError: the folder cannot be written; the checkpoints in it stay.
            DiskFull: the disk is full; the checkpoints in the folder stay.
        """
        started = perf_counter()
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json_text({**state, "run": self._run, "checkpoints": (self.written + 1, self.spent)}, ascii_only=True)
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
        """Tensors and state of the newest intact checkpoint, and what is wrong with newer ones; None: there is none.

        Raises:
            ZooError: all checkpoints are damaged or belong to another run, or a folder has a checkpoint's name.
        """
        problems: list[str] = []
        files = [self._folder / name for name in FILES]
        for file in files:
            if file.is_dir():
                raise ZooError(
                    f"`{file}` is a folder, not a checkpoint",
                    hint=f"move it away, then run `zoo train --resume {self._folder}`",
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
            problems.append(f"`{file}` belongs to another run")
        if problems:
            raise ZooError(
                f"no checkpoint can be read: {'; '.join(problems)}",
                hint=f"delete the checkpoints, then `zoo train --resume {self._folder}` starts the run from its "
                f"beginning; or replace the run by `zoo train ... --out {self._folder} --force`",
            )
        return None

    def clear(self) -> None:
        """Remove all checkpoints, which a finished run does not need."""
        for file in self._folder.glob("checkpoint*.safetensors"):
            file.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove temporary files that a process killed during a save has left."""
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
        raise _Damaged(first_line(error)) from error
    if metadata.get("schema") != str(SCHEMA):
        raise _Damaged(f"its schema is {metadata.get('schema')}")
    if metadata.get("sha256") != _digest(tensors, metadata.get("state", "")):
        raise _Damaged("its content does not match its digest")
    return tensors, json.loads(metadata["state"])


def _digest(tensors: Mapping[str, torch.Tensor], state: str) -> str:
    """SHA-256 over the state, and over names, types, shapes and values of the tensors."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
