"""Run: a folder that describes itself, from before the first step on.

run.json                     what was asked, what was decided, what came out; `status` tells how it ended
history.jsonl                a line per epoch
model.safetensors            the weights
predictions-SPLIT.safetensors
ledger.jsonl                 a line per look at a split
splits.json                  which image had which role, and the SHA-256 of its content
rates.json                   the curve of `--lr find`
checkpoint*.safetensors      what a killed run goes on from; gone once it is finished
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DiskFull, UsageError, ZooError, is_disk_full
from zoo.experiment import Experiment
from zoo.predictions import Predictions
from zoo.preprocess import Preprocess
from zoo.runs.schema import flaw_of_record, flaw_of_splits
from zoo.storage.files import SCHEMA, append_json, check_schema, read_json, read_lines, write_bytes, write_json
from zoo.storage.folder_lock import LOCK_FILE

if TYPE_CHECKING:
    from zoo.backbone import Network
    from zoo.plugin import Plugins
    from zoo.predictor import Predictor

RUN_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
HISTORY_FILE = "history.jsonl"
LEDGER_FILE = "ledger.jsonl"
SPLITS_FILE = "splits.json"
RATES_FILE = "rates.json"

# What `--force` may replace; photographs, notes and whatever else a user keeps beside a run stay
OWN_FILES = (
    RUN_FILE,
    HISTORY_FILE,
    LEDGER_FILE,
    SPLITS_FILE,
    RATES_FILE,
    "model.*",
    "checkpoint*.safetensors",
    ".checkpoint*",
    "predictions-*.safetensors",
    "latency.json",
)


@dataclass(frozen=True)
class Run:
    """An opened run. `record` is the content of `run.json`."""

    path: Path
    record: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        """One line: where it is, what it trained, and how it came out."""
        what = f"{self.record.get('backbone', '?')} {self.record.get('strategy', '?')}"
        accuracy = (self.record.get("metrics") or {}).get("accuracy")
        came_out = "" if accuracy is None else f", accuracy {accuracy:.4f} on {self.record.get('reported_split')}"
        return f"<Run {self.path}: {what}, {self.record.get('status', 'not begun')}{came_out}>"

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run's folder.

        Raises:
            UsageError: it is no run.
            ZooError: its record is damaged or of a newer schema.
        """
        if path == "":
            raise UsageError("the name of the run is empty", hint="pass the folder that `zoo train` made")
        folder = Path(path)
        file = folder / RUN_FILE
        if not file.is_file():
            raise UsageError(
                f"`{folder}` is no run: it has no `{RUN_FILE}`", hint="a run is a folder that `zoo train` made"
            )
        record = read_json(file)
        if not isinstance(record, dict):
            raise ZooError(f"`{file}` is no record of a run", hint="a run is a folder that `zoo train` made")
        check_schema(record.get("schema"), file)
        run = cls(folder, record)
        try:
            said = flaw_of_record(record)
            if said is None:
                _ = run.experiment, run.preprocess
        except (KeyError, TypeError, ValueError, OverflowError, AssertionError, UsageError) as error:
            said = error.message if isinstance(error, UsageError) else f"{type(error).__name__} {error}".strip()
        if said is not None:
            raise ZooError(f"`{file}` is damaged: {said}", hint="restore it from a copy, or train again with `--force`")
        return run

    @property
    def experiment(self) -> Experiment:
        return Experiment.from_json(self.record["experiment"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.record["classes"])

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess.from_json(self.record["preprocess"])

    @property
    def status(self) -> str:
        return str(self.record["status"])

    @property
    def data_name(self) -> str:
        return str(self.record.get("data_name"))

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the reported split; empty for a run that did not end."""
        return dict(self.record.get("metrics") or {})

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record per epoch."""
        return read_lines(self.path / HISTORY_FILE)

    def predictions(self, split: str | None = None) -> Predictions:
        """The stored predictions of a split, of the reported one for None."""
        name = split or str(self.record["reported_split"])
        file = self.path / f"predictions-{name}.safetensors"
        if not file.is_file() and not (self.path / WEIGHTS_FILE).is_file():
            raise self._weightless()
        if not file.is_file():
            raise ZooError(
                f"run `{self.path}` has no predictions of `{name}`",
                hint=f"`zoo evaluate {self.path} --split {name}` makes them",
            )
        return Predictions.load(file)

    def load_network(self, plugins: Plugins | None = None) -> Network:
        """The trained network, on the CPU, in eval mode.

        Raises:
            ZooError: the run has no weights, or its backbone's plugin is gone.
        """
        from zoo.config.grammar import parse
        from zoo.networks.building import build_network, read_state, spec_of
        from zoo.plugin import Plugins

        file = self.path / WEIGHTS_FILE
        if not file.is_file():
            raise self._weightless()
        experiment, plugins = self.experiment, plugins or Plugins()
        backbone = plugins.backbones.find(str(self.record["backbone"])).value
        network = build_network(
            backbone,
            classes=len(self.classes),
            dropout=experiment.dropout,
            drop_path=experiment.drop_path,
            image_size=experiment.image_size,
        )
        plan = parse(str(self.record["strategy"]), plugins.strategies)
        network = plan.adapt(network, spec_of(backbone, experiment, len(self.classes), self.preprocess.crop))
        try:
            network.model.load_state_dict(read_state(file))
        except RuntimeError as error:
            raise ZooError(
                f"weights `{file}` do not fit `{self.record['backbone']}`: {str(error).splitlines()[-1].strip()}",
                hint="the file was replaced, or the backbone's plugin changed since; see `versions` in run.json",
            ) from error
        network.model.eval()
        return network

    def _weightless(self) -> ZooError:
        again = f"`zoo train --resume {self.path}` goes on with it"
        if self.status == "running":
            return ZooError(
                f"run `{self.path}` has no weights: it is still running, or was killed",
                hint=f"wait until it is finished; if it was killed, {again}",
            )
        if self.status == "finished":
            again = f"restore `{WEIGHTS_FILE}` from a copy, or train again with `--force`"
        return ZooError(f"run `{self.path}` is {self.status} and has no weights", hint=again)

    def predictor(self, device: str = "auto", plugins: Plugins | None = None) -> Predictor:
        """The run as a predictor, through torch in fp32."""
        from zoo.networks.predictor import TorchPredictor
        from zoo.system.device import choose_device

        chosen = choose_device(device, "fp32")
        model = self.load_network(plugins).model.to(chosen.place)
        return TorchPredictor(model, self.classes, self.preprocess, chosen.place)

    def update(self, **changes: Any) -> Run:
        """Write changed keys to `run.json`; returns the run with its new record."""
        record = {**self.record, **changes}
        write_json(self.path / RUN_FILE, record)
        return Run(self.path, record)

    def note_look(
        self, predictions: Predictions, *, model: str, data: str, split_seed: int, accuracy: float | None
    ) -> None:
        """Write a look at a split to the ledger, and store its predictions where they are of the run's own data.

        Raises:
            ZooError: the folder cannot be written; the figures of the evaluation stand all the same.
        """
        append_json(
            self.path / LEDGER_FILE,
            {
                "schema": SCHEMA,
                "time": now(),
                "split": predictions.split,
                "data": data,
                "split_seed": split_seed,
                "model": model,
                "images": len(predictions),
                "accuracy": accuracy,
            },
        )
        own = data == self.record.get("data_name") and split_seed == self.experiment.split_seed
        if own and Path(model) == self.path:
            predictions.save(self.path / f"predictions-{predictions.split}.safetensors")

    def looks(self, split: str) -> int:
        """How often a split of the run was scored, by the ledger."""
        return sum(1 for look in read_lines(self.path / LEDGER_FILE) if look.get("split") == split)

    def fitted(self) -> set[str]:
        """Ids of the images that the run was fitted on; empty without `splits.json`.

        Raises:
            ZooError: `splits.json` is damaged.
        """
        file = self.path / SPLITS_FILE
        return set(self.splits()["roles"]["fit"]) if file.exists() else set()

    def splits(self) -> dict[str, Any]:
        """The content of `splits.json`.

        Raises:
            ZooError: it is missing or damaged.
        """
        file = self.path / SPLITS_FILE
        hint = "restore it from a copy, or delete it: then nothing tells which images the run was fitted on"
        try:
            found: dict[str, Any] = read_json(file)
        except ZooError as error:
            raise ZooError(error.message, hint=hint) from error
        flaw = flaw_of_splits(found)
        if flaw is not None:
            raise ZooError(f"`{file}` is damaged: {flaw}", hint=hint)
        return found

    def cut_history(self, count: int) -> None:
        """Keep what is whole of the first `count` lines of the history; a run that goes on writes the others again."""
        lines = [json.dumps(line, ensure_ascii=False) for line in read_lines(self.path / HISTORY_FILE, count)]
        write_bytes(self.path / HISTORY_FILE, "".join(f"{line}\n" for line in lines).encode())

    def lost_history(self, count: int) -> int:
        """How many of the first `count` lines of the history are missing or damaged."""
        return count - len(read_lines(self.path / HISTORY_FILE, count))


def now() -> str:
    """The time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_folder(backbone: str, strategy: str) -> Path:
    """`runs/<time>-<backbone>-<strategy>`, free, and with nothing in it that a shell or a file system minds."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    words = (
        f"{backbone.split('/')[-1]}-{strategy}".replace(":", "").replace("+", "-").replace(",", "-").replace("=", "")
    )
    first = Path("runs") / f"{time}-{words}".replace("/", "-")
    names = (first, *(first.with_name(f"{first.name}-{count}") for count in range(2, 1000)))
    return next(folder for folder in names if not folder.exists())


def check_folder(path: Path, force: bool) -> None:
    """Whether a run's folder can be made here, before any work; nothing is changed.

    Raises:
        UsageError: the folder exists without `force`, or holds something else than a run.
        ZooError: it could not be written.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"`{path}` is a file", hint="pass another `--out`")
        if path.is_dir() and any(file.name != LOCK_FILE for file in path.iterdir()):
            if not force:
                raise UsageError(f"`{path}` exists", hint="pass another `--out`, or `--force` to replace it")
            if not (path / RUN_FILE).is_file():
                raise UsageError(
                    f"`{path}` exists and is no run, so `--force` does not replace it", hint="pass another `--out`"
                )
        standing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise _unwritable(path, f"`{standing}` is no folder that may be written to")


def make_folder(path: Path) -> None:
    """Make a run's folder, if it is not there.

    Raises:
        ZooError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error


def clear_folder(path: Path, force: bool) -> None:
    """With `force`, the files of the former run go, and nothing else that lies there.

    Raises:
        UsageError, ZooError: as `check_folder`.
    """
    check_folder(path, force)
    try:
        for pattern in OWN_FILES:
            for file in path.glob(pattern):
                file.unlink()
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error), full=is_disk_full(error)) from error


def _unwritable(path: Path, reason: str | None, *, full: bool = False) -> ZooError:
    kind = DiskFull if full else ZooError
    return kind(f"run folder `{path}` cannot be made: {reason}", hint="pass `--out` a folder that you may write to")
