"""Worker process that does what a server does without the server: it decodes photographs and runs the session.

{"do": "load", ...}  -> {"provider": ...}
{"do": "labels"}     -> {"labels": [...]}
{"do": "run", ...}   -> {"seconds": [...], "timed": ..., "processor": ..., "others": ...}
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zoo.data.image import BadImage, decode
from zoo.dataset import BytesSource
from zoo.errors import ZooError
from zoo.inference.opening import find_exporter
from zoo.plugin import Plugins
from zoo.predictor import Predictor
from zoo.system.other_load import busy_seconds
from zoo.target import load_target


class BareWorker:
    """Holds the session and the photographs; each public method answers one request."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._sources: list[BytesSource] = []
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by number of threads; kept, since new threads start cold

    def load(self, file: str, device: str, threads: int, files: list[str]) -> dict[str, Any]:
        """Open a file as a server does, and read the photographs."""
        exporter = find_exporter(Path(file), Plugins())
        assert exporter.serve is not None
        self._predictor = load_target(exporter.serve)(Path(file), device, threads, False)
        assert self._predictor is not None
        self._sources = [_source(Path(name)) for name in files]
        return {"provider": self._predictor.device}

    def labels(self) -> dict[str, Any]:
        """The label of each photograph."""
        assert self._predictor is not None
        found = [int(self._logits(number).argmax()) for number in range(len(self._sources))]
        return {"labels": [self._predictor.classes[index] for index in found]}

    def run(self, callers: int, count: int, start: int) -> dict[str, Any]:
        """Classify `count` photographs with `callers` threads; see `zoo.latency.load_generator.LoadGenerator.run`."""
        pool = self._pools.setdefault(callers, ThreadPoolExecutor(callers))
        seconds: list[float] = []
        tickets: Iterator[int] = iter(range(start, start + count))  # `next` of a range holds the interpreter's lock

        def work() -> None:
            for ticket in tickets:
                begun = time.perf_counter()
                self._logits(ticket % len(self._sources))
                seconds.append(time.perf_counter() - begun)

        gc.collect()
        gc.disable()
        busy, processor, begun = busy_seconds(), time.process_time(), time.perf_counter()
        try:
            for done in [pool.submit(work) for _ in range(callers)]:
                done.result()
        finally:
            gc.enable()
        timed, processor = time.perf_counter() - begun, time.process_time() - processor
        others = max(busy_seconds() - busy - processor, 0.0)
        return {"seconds": seconds, "timed": timed, "processor": processor, "others": others}

    def _logits(self, number: int) -> Any:
        assert self._predictor is not None
        try:
            pixels = decode(self._sources[number], levels=self._predictor.preprocess.levels)
        except BadImage as error:
            raise ZooError(error.message, hint="leave it out") from error
        return self._predictor.logits([pixels])[0]


def _source(file: Path) -> BytesSource:
    encoded = file.read_bytes()
    return BytesSource(str(file), lambda: encoded)
