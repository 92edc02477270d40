"""Fixtures of the server's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zoo.serving import served_model


@pytest.fixture(scope="session", autouse=True)
def files_verified_once() -> Iterator[None]:
    """A file that passed is not verified and measured again, which takes seconds; `test_served_model.py` says when."""
    verify = served_model._verify
    passed: dict[tuple[str, str, int], Any] = {}

    def once(path: Path, device: str, threads: int, known: Any) -> Any:
        key = (hashlib.sha256(path.read_bytes()).hexdigest(), device, threads)
        if key not in passed:
            passed[key] = verify(path, device, threads, None)
        record, batching = passed[key]
        return record, known or batching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_model, "_verify", once)
        yield
