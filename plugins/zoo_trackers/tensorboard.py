"""TensorBoard: scalars, hyperparameters and texts of a run in an event file, written without torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event as LoggedEvent
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from zoo.callback import EpochEnded, Evaluated, Event, FileWritten, RunEnded, RunStarted

# Most classes whose confusion matrix is a table that can be read
MOST_CLASSES = 50


class TensorBoard:
    """Logs a run: curves by epoch, final figures, settings, confusion matrix, names of files.

    Args:
        folder: Folder in which each run has one of its own. Empty: the run's folder itself.
    """

    def __init__(self, folder: str) -> None:
        self._asked = folder
        self._files: list[str] = []
        self._epoch = 0  # the last one of this session

    def __call__(self, event: Event) -> dict[str, Any] | None:
        match event:
            case RunStarted():
                return self._start(event)
            case EpochEnded():
                self._epoch = event.number
                self._scalars({f"epoch/{name}": value for name, value in event.figures.items()}, event.number)
            case Evaluated():
                self._scalars({f"{event.split}/{name}": value for name, value in event.figures.items()}, self._epoch)
                if len(event.classes) <= MOST_CLASSES:
                    head = ["true class", *event.classes]
                    rows = ([name, *map(str, counts)] for name, counts in zip(event.classes, event.confusion))
                    self._text(f"confusion on {event.split}: columns are predicted classes", _table(head, rows))
            case FileWritten():
                self._files.append(event.file.name)
            case RunEnded():
                rows = ([name] for name in dict.fromkeys(self._files))
                self._text("files of the run", _table(["file"], rows))
                self._text("ended", event.status + (f": {event.failure}" if event.failure else ""))
                self._writer.close()
        return None

    def _start(self, event: RunStarted) -> dict[str, Any]:
        folder = event.folder
        if self._asked:
            folder = Path(self._asked).expanduser().resolve() / (event.group or "") / event.name
        if isinstance(event.kept.get("folder"), str):
            folder = Path(event.kept["folder"])
        self._writer = EventFileWriter(str(folder))
        if "folder" not in event.kept:
            self._write(0, hparams_pb(event.settings, trial_id=event.name))
            settings = ([name, str(value)] for name, value in sorted(event.settings.items()))
            self._text("settings", _table(["setting", "value"], settings))
        return {"folder": str(folder), "where": f"`tensorboard --logdir {folder.parent}` shows it"}

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        self._write(step, Summary(value=[Summary.Value(tag=name, simple_value=one) for name, one in values.items()]))

    def _text(self, tag: str, text: str) -> None:
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        self._write(self._epoch, Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]))

    def _write(self, step: int, summary: Any) -> None:
        """Write a summary, and hand it to the system: a process that is killed later loses nothing."""
        self._writer.add_event(LoggedEvent(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [[_cell(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
