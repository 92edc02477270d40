"""Callbacks for tests: one that writes down what it is told, and some that break every rule. Imports no torch."""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.callback import Callback, EpochEnded, Event, RunEnded, RunStarted, event_to_json
from zoo.catalogue import Catalogue, Entry
from zoo.option import Option
from zoo.plugin import Plugins

SEEN = "seen.jsonl"


class Recorder:
    """Appends each event to `callbacks/seen.jsonl` of the run, and returns how many sessions there were."""

    def __init__(self, note: str) -> None:
        self._note = note

    def __call__(self, event: Event) -> dict[str, Any] | None:
        print("printed by a callback")
        os.write(1, b"written by a callback\n")
        if isinstance(event, RunStarted):
            self._file = event.folder / "callbacks" / SEEN
            self._file.parent.mkdir(exist_ok=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps({**event_to_json(event), "note": self._note}) + "\n")
        return {"sessions": event.kept.get("sessions", 0) + 1} if isinstance(event, RunStarted) else None


def seen(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What the recorder was told of a run."""
    lines = [json.loads(line) for line in (run / "callbacks" / SEEN).read_text().splitlines()]
    return [line for line in lines if kind in (None, line["event"])]


def meddler() -> Callable[[Event], None]:
    """Changes everything that it can reach."""

    def meddle(event: Event) -> None:
        random.seed(1)
        for name in [name for name in os.environ if name.startswith("ZOO")]:
            del os.environ[name]
        if isinstance(event, RunStarted):
            event.record["experiment"].clear()
        if isinstance(event, EpochEnded):
            event.record.clear()  # type: ignore[attr-defined]

    return meddle


def raises() -> Callable[[Event], None]:
    def observe(event: Event) -> None:
        if isinstance(event, EpochEnded):
            raise ConnectionError(f"no answer of https://me:HIDDEN@host/x with {os.environ.get('ACME_API_KEY')}")

    return observe


def hangs() -> Callable[[Event], None]:
    return lambda event: time.sleep(100)


def hangs_at_the_end() -> Callable[[Event], None]:
    return lambda event: time.sleep(100) if isinstance(event, RunEnded) else None


def exits() -> Callable[[Event], None]:
    return lambda event: sys.exit(3)


def kills_itself() -> Callable[[Event], None]:
    return lambda event: os._exit(4)


def slow() -> Callable[[Event], dict[str, Any]]:
    """Handles an event slowly, and writes a file as its process ends."""

    def observe(event: Event) -> dict[str, Any]:
        assert isinstance(event, RunStarted)
        folder = event.folder / "callbacks"
        folder.mkdir(exist_ok=True)
        atexit.register(lambda: (folder / "ended").write_text(""))
        (folder / "begun").write_text("")
        time.sleep(0.5)
        return {"run": event.name}

    return observe


def shouts() -> Callable[[Event], Any]:
    """Says where it writes to in many lines that move the cursor, and then fails with a message of many letters."""

    def observe(event: Event) -> dict[str, str]:
        if isinstance(event, EpochEnded):
            raise RuntimeError("letters" + "x" * 300_000)
        return {"where": "[bold]there[/bold] \x1b[2J\n\n" * 3}

    return observe


def no_function() -> int:
    return 1


def gives_text() -> Callable[[Event], Any]:
    return lambda event: "text"


def gives_object() -> Callable[[Event], Any]:
    return lambda event: {"run": object()}


def _row(name: str, **changes: Any) -> Callback:
    row = Callback(name=name, summary="a test", target=f"{__name__}:{name}", limit=30.0)
    return replace(row, **changes)


ROWS = (
    _row("recorder", target=f"{__name__}:Recorder", options=(Option(name="note", default="", summary="a text"),)),
    _row("meddler"),
    _row("raises"),
    _row("hangs", limit=0.3),
    _row("hangs_at_the_end", limit=0.3),
    _row("exits"),
    _row("slow"),
    _row("kills_itself"),
    _row("shouts"),
    _row("no_function"),
    _row("gives_text"),
    _row("gives_object"),
    _row("gone", target="zoo_no_such_module:gone"),
    _row("needy", requires=("zoo_no_such_module",), install="pip install needy"),
)


def with_callbacks() -> Plugins:
    """What is installed, and the callbacks of this file, as if the plugin `losses` had registered them."""
    plugins = Plugins()
    plugins.callbacks = Catalogue(
        "callback", "callbacks", [*plugins.callbacks, *(Entry("losses", row) for row in ROWS)]
    )
    return plugins
