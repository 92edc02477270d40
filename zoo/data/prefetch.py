"""Prefetching: a second process decodes images on an idle core while torch is imported and the network is built.

It only fills the store. The training process then finds the pixels there, or decodes the images itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from zoo.config.references import look_up
from zoo.data.decode_plan import decode_requests, store_keys
from zoo.data.decoding import decode_parts, default_workers
from zoo.data.opening import open_images
from zoo.data.roles import assign_roles
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.storage.files import json_text
from zoo.storage.tensor_store import Store

# Niceness of the second process, so that the training process has priority
NICE = 5


class Prefetch:
    """A process that decodes the images of an experiment into the user's store."""

    def __init__(self, experiment: Experiment) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zoo.data.prefetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the training process meets the same errors and reports them
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json_text(experiment.to_json()).encode())
            self._process.stdin.close()
        except OSError:  # it could not start
            self._process.kill()

    def wait(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Wait until the process ends, also if it fails. `advance` receives the number of images that were decoded."""
        assert self._process.stdout is not None
        while count := len(os.read(self._process.stdout.fileno(), 4096)):
            advance(count)
        self._process.wait()

    def stop(self) -> None:
        """Kill the process if it still runs."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def start_prefetch(experiment: Experiment) -> Prefetch | None:
    """Start to decode the images of an experiment; None if the store could not keep them."""
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
    plugins, store = Plugins(), Store()
    preprocess = look_up(experiment, plugins).preprocess
    images = open_images(experiment.data, experiment.split_seed, plugins)
    parts = decode_requests(images, assign_roles(images, experiment), preprocess)

    def report(count: int) -> None:
        os.write(1, b"." * count)

    size = sum(3 * part.side**2 * len(part.samples) for part in parts.values())
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


if __name__ == "__main__":
    main()
