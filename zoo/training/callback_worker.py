"""Worker process of a callback. Nothing of the run is in it, so that no callback can change the run or end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo.callback import event_from_json
from zoo.errors import ZooError
from zoo.storage.files import json_text
from zoo.target import load_target


class CallbackWorker:
    """Answers the requests of `zoo.training.observers`. Its process imports what the callback needs, and no torch."""

    def __init__(self) -> None:
        self._observe: Callable[..., Any] | None = None

    def open(self, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Make the function that receives events."""
        observe = load_target(target)(**options)
        if not callable(observe):
            raise ZooError(f"`{target}` returned a `{type(observe).__name__}`, not a function of an event")
        self._observe = observe
        return {}

    def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Pass an event on; the answer has what the run keeps."""
        assert self._observe is not None
        kept = self._observe(event_from_json(event))
        if kept is not None and not isinstance(kept, Mapping):
            raise ZooError(f"it returned a `{type(kept).__name__}`, not a mapping or None")
        kept = {} if kept is None else dict(kept)
        try:
            json_text(kept)
        except TypeError as error:
            raise ZooError(f"it returned what JSON cannot hold: {error}") from error
        return {"kept": kept}
