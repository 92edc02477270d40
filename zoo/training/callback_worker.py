"""Worker process of a callback. Nothing of the run is in it, so that no callback can change the run or end it.

It also keeps what the callback has seen of the run, since it alone knows that where the run is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.callback import EpochEnded, Evaluated, Event, event_from_json
from zoo.errors import ZooError
from zoo.storage.files import SCHEMA, json_text, read_json, write_json
from zoo.target import load_target


@dataclass(kw_only=True)
class Seen:
    """What a callback has seen of a run, in a file of the run's folder `callbacks`.

    Attributes:
        file: The file.
        callback: Text of the callback.
        kept: What it returned.
        epochs: Lines of the history that it was told.
        evaluated: Whether it was told the figures.
    """

    file: Path
    callback: str
    kept: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    evaluated: bool = False

    @classmethod
    def read(cls, file: Path, callback: str) -> Seen:
        """Read the file; one that is missing or damaged counts as nothing seen."""
        try:
            data = read_json(file)
            kept, epochs, evaluated = dict(data["kept"]), int(data["epochs"]), bool(data["evaluated"])
        except (ZooError, KeyError, TypeError, ValueError):
            return cls(file=file, callback=callback)
        return cls(file=file, callback=callback, kept=kept, epochs=epochs, evaluated=evaluated)

    def note(self, event: Event, kept: Mapping[str, Any]) -> None:
        """Note that an event was handled, and what the callback returned."""
        self.kept.update(kept)
        if isinstance(event, EpochEnded):
            self.epochs = max(self.epochs, event.number)
        self.evaluated |= isinstance(event, Evaluated)

    def write(self) -> None:
        """Write the file.

        Raises:
            ZooError: it cannot be written.
        """
        self.file.parent.mkdir(exist_ok=True)
        seen = {"callback": self.callback, "kept": self.kept, "epochs": self.epochs, "evaluated": self.evaluated}
        write_json(self.file, {"schema": SCHEMA, **seen})


class CallbackWorker:
    """Answers the requests of `zoo.training.observers`. Its process imports what the callback needs, and no torch."""

    def __init__(self) -> None:
        self._observe: Callable[..., Any] | None = None
        self._seen: Seen | None = None

    def open(self, target: str, options: Mapping[str, Any], file: str | None, callback: str) -> dict[str, Any]:
        """Make the function that receives events; the file is where what it has seen is kept. None: nowhere."""
        observe = load_target(target)(**options)
        if not callable(observe):
            raise ZooError(f"`{target}` returned a `{type(observe).__name__}`, not a function of an event")
        self._observe = observe
        self._seen = None if file is None else Seen.read(Path(file), callback)
        return {}

    def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Pass an event on; the answer has what the run keeps."""
        assert self._observe is not None
        told = event_from_json(event)
        kept = self._observe(told)
        if kept is not None and not isinstance(kept, Mapping):
            raise ZooError(f"it returned a `{type(kept).__name__}`, not a mapping or None")
        kept = {} if kept is None else dict(kept)
        try:
            json_text(kept)
        except TypeError as error:
            raise ZooError(f"it returned what JSON cannot hold: {error}") from error
        if self._seen is not None:
            self._seen.note(told, kept)
            self._seen.write()
        return {"kept": kept}
