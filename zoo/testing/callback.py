"""The check of a callback for the tests of its plugin: all events, as runs of every kind give them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.callback import EpochEnded, Evaluated, Event, FileWritten, RunEnded, RunStarted, event_to_json
from zoo.config.callbacks import choose_callbacks
from zoo.config.choice import Choice
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.storage.files import json_text, write_bytes, write_json
from zoo.system.worker_process import WorkerFailed, WorkerProcess
from zoo.testing.law import Violation
from zoo.training.observers import STARTUP, WORKER

SECRETS = ("password", "token", "secret", "key", "api_key", "apikey")


def check_callback(callback: str, *, plugins: Plugins | None = None) -> None:
    """Check a callback in a process of its own, as a run has it.

    It handles a run that finishes, one that fails in its first epoch, one that is interrupted, and one that is killed
    and resumed, which gets back what it returned; metrics without a value; a phase that was solved; class names of any
    letters. Each event is handled within the callback's limit. No option is named as a secret is, since every run
    records them.

    Args:
        callback: Its text, as `--callback` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong, or what the callback needs is not installed.
    """
    plugins = plugins or Plugins()
    choices, problems = choose_callbacks([callback], plugins)
    if problems:
        raise problems[0]
    (choice,) = choices
    named = [option.name for option in choice.entry.value.options if option.name.lower() in SECRETS]
    if named:
        raise Violation(f"`{callback}` has an option `{named[0]}`: runs record options, so none may be a secret")
    with tempfile.TemporaryDirectory() as folder:
        for status in ("finished", "failed", "interrupted"):
            run = Path(folder).resolve() / status
            kept = _session(choice, list(_events(run, status)))
            if status == "finished":
                _session(choice, list(_events(run, status, again=kept)))


def _session(choice: Choice, events: list[Event]) -> dict[str, Any]:
    """Pass events to a new process; returns what the callback wants to be kept."""
    row, kept = choice.entry.value, {}
    with WorkerProcess(WORKER, threads=1) as worker:
        place = "when it is made"
        try:
            worker.ask(
                "open", max(row.limit, STARTUP), target=row.target, options=dict(choice.values), file=None, callback=""
            )
            for event in events:
                place = f"in `{type(event).__name__}`"
                kept.update(worker.ask("handle", row.limit, event=event_to_json(event))["kept"])
        except WorkerFailed as failure:
            raise Violation(f"`{choice}` fails {place}: {failure.reason}\n{failure.log}") from failure
    return kept


def _events(folder: Path, status: str, *, again: dict[str, Any] | None = None) -> Iterator[Event]:
    """The events of a run that ends in `status`; `again` is what was kept before it was resumed."""
    folder.mkdir(exist_ok=True)
    experiment = Experiment(data="photos", backbone="x/net", strategy="linear+full", image_size=(32, 48), fill=None)
    record: dict[str, Any] = {
        "schema": 1,
        "id": "0" * 32,
        "status": "running",
        "experiment": experiment.to_json(),
        "backbone": experiment.backbone,
        "strategy": experiment.strategy,
        "classes": ["a|b", "ünïcode"],
        "reported_split": "val",
    }
    yield RunStarted(
        name=folder.name, folder=folder, group="study", record=record, resumed=again is not None, kept=again or {}
    )
    if status != "failed":
        line = {"schema": 1, "phase": "linear", "epoch": 0, "solved": {}, "train_loss": 0.5, "train_accuracy": 1.0}
        stepped = {"phase": "full", "epoch": 1, "train_loss": 0.25, "lr": 1e-3, "choice_loss": 0.5}
        yield from (EpochEnded(number=1, record=line), EpochEnded(number=2, record={**line, **stepped}))
    if status == "finished":
        write_bytes(folder / "model.safetensors", b"weights")
        write_json(folder / "run.json", record)
        write_bytes(folder / "history.jsonl", json_text(line).encode())
        yield FileWritten(file=folder / "model.safetensors", kind="weights")
        yield Evaluated(
            split="val",
            images=3,
            metrics={"accuracy": 2 / 3, "macro-F1": None},
            accuracy_interval_95=[0.2, 0.9],
            classes=record["classes"],
            confusion=[[1, 1], [0, 1]],
        )
        yield FileWritten(file=folder / "history.jsonl", kind="history")
        yield FileWritten(file=folder / "run.json", kind="record")
    failure = "the loss is no longer finite" if status == "failed" else None
    yield RunEnded(status=status, failure=failure, record={**record, "status": status})  # type: ignore[arg-type]
