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
