"""Prefetching: a second process decodes images on an idle core while torch is imported and the network is built.

It only fills the store. The training process then finds the pixels there, or decodes the images itself.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic

from zoo.config.references import look_up, needs_validation
from zoo.data.decode_plan import decode_requests, store_keys
from zoo.data.decoding import decode_parts, default_workers
from zoo.data.roles import assign_roles
from zoo.data.selection import select_images
from zoo.data.shard_passes import has_pass
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.storage.files import json_text
from zoo.storage.tensor_store import Store
from zoo.system.cpu_memory import keep_freed_memory
from zoo.system.worker_process import python_command

# Niceness of the second process, so that the training process has priority
NICE = 5


# The helper is given up where it decodes fewer images than `FEWEST` in `PATIENCE` seconds of waiting: it hangs, or a
# busy machine gives it no core. What it has decoded is then decoded again
PATIENCE = 30.0
FEWEST = 10


class Prefetch:
    """A process that decodes the images of an experiment into the user's store."""

    def __init__(self, experiment: Experiment) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            python_command("zoo.data.prefetch:main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the training process meets the same errors and reports them
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._counts: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_count, args=(self._process.stdout.fileno(), self._counts), daemon=True)
        self._reader.start()
        try:
            self._process.stdin.write(json_text(experiment.to_json()).encode())
            self._process.stdin.close()
        except OSError:  # it could not start
            self._process.kill()

    def wait(self, advance: Callable[[int], None] = lambda count: None) -> bool:
        """Wait until the process ends, also if it fails; `advance` receives the number of images that were decoded.

        Returns False if it was given up, because it decoded fewer than `FEWEST` images in `PATIENCE` seconds.
        """
        until, seen = monotonic() + PATIENCE, 0
        while True:
            try:
                count = self._counts.get(timeout=max(until - monotonic(), 0))
            except queue.Empty:
                if seen < FEWEST:
                    self._process.kill()
                    self._process.wait()
                    return False
                until, seen = monotonic() + PATIENCE, 0
                continue
            if not count:
                self._counts.put(0)  # for whoever waits once more
                break
            advance(count)
            seen += count
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def stop(self) -> None:
        """Kill the process if it still runs."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        self._process.stdout.close()


def _count(pipe: int, counts: queue.SimpleQueue[int]) -> None:
    """Put the number of bytes that come from a pipe into a queue, and 0 at its end."""
    while count := len(os.read(pipe, 4096)):
        counts.put(count)
    counts.put(0)


def start_prefetch(experiment: Experiment) -> Prefetch | None:
    """Start to decode the images of an experiment; None if the store could not keep them.

    None also where near duplicates are dropped: which images are used is known only after all have been compared; and
    where features were computed by shard, so that pixels may not be needed.
    """
    if experiment.on_leak == "drop" and experiment.leak_check == "near":
        return None
    if has_pass(experiment):
        return None
    try:
        can_store = experiment.cache != "off" and Store().budget > 0
    except ZooError:
        return None
    return Prefetch(experiment) if can_store else None


def main() -> None:
    """Decode the images of the experiment on stdin (JSON), and write one byte to stdout for each image."""
    # Importing torch would take the core for seconds. Code that needs it fails instead
    sys.modules["torch"] = None  # type: ignore[assignment]
    experiment = Experiment.from_json(json.load(sys.stdin))
    if hasattr(os, "nice"):
        os.nice(NICE)
    keep_freed_memory()
    plugins, store = Plugins(), Store()
    preprocess = look_up(experiment, plugins).preprocess
    images = select_images(experiment, plugins, look=False).images
    parts = decode_requests(
        images, assign_roles(images, experiment, validated=needs_validation(experiment, plugins)), preprocess
    )

    def report(count: int) -> None:
        os.write(1, b"." * count)

    size = sum(3 * math.prod(part.size) * len(part.samples) for part in parts.values())
    if size > store.budget:
        return
    decode_parts(
        images,
        parts,
        on_bad_image="skip",
        workers=experiment.workers or default_workers(),
        advance=report,
        store=store,
        keys=store_keys(parts, preprocess),
    )
