"""The context: what is given is passed on, and nobody changes it on the way."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from zoo import Plugins
from zoo.config.context import Context
from zoo.progress import LogProgress, Silent


def test_a_context_has_what_was_given_and_never_changes() -> None:
    plugins, progress = Plugins([]), Silent()
    context = Context.of(plugins, progress)
    assert context.plugins is plugins and context.progress is progress and context.store is not None
    assert isinstance(Context.of(plugins).progress, LogProgress)
    with pytest.raises(FrozenInstanceError):
        context.progress = LogProgress()  # type: ignore[misc]


def test_a_progress_object_of_an_earlier_version_is_served() -> None:
    class Earlier(Silent):
        def start(self, task: str, total: int, unit: str = "images") -> None:  # type: ignore[override]
            begun.append((task, total, unit))

        def note(self, text: str) -> None:
            begun.append(text)

    begun: list[object] = []
    progress = Context.of(progress=Earlier()).progress  # type: ignore[arg-type]
    progress.start("epoch 1", 8, later=16)
    progress.note("a line")
    assert begun == [("epoch 1", 8, "images"), "a line"]
    same = Silent()
    assert Context.of(progress=same).progress is same
