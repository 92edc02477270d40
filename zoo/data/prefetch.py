"""Ahead: photographs decoded by a process of their own while torch is imported and the network built, on the idle core.

All that it does is to fill the store: what needs pixels afterwards finds them there, or decodes them itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from zoo.config.references import look_up
from zoo.data.decoding import DecodeRequest, decode_parts, default_workers
from zoo.data.image import Pixels, canvas, pixel_key, pixels
from zoo.data.opening import open_images
from zoo.data.roles import Roles, assign_roles
from zoo.dataset import Images
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.storage.tensor_store import Store

# A photograph that is fitted may come at a fraction of its size, down to this many times the canvas. Of 12 megapixels
# that is six times as fast (24 a second in the place of 4), and the canvas differs by 0.24 grey levels on average
SPARE = 2

# The process that trains comes first
NICE = 5


def parts_of(images: Images, roles: Roles, preprocess: Preprocess) -> dict[str, DecodeRequest]:
    """What a run decodes: canvases of what is fitted, and what is chosen on and reported as the network sees it."""

    def seen(photograph: Pixels) -> Pixels:
        return pixels(photograph, preprocess)

    least = SPARE * max(preprocess.canvas, preprocess.resize)
    parts: dict[str, DecodeRequest] = {
        "fit": DecodeRequest(roles.fit, preprocess.canvas, lambda photograph: canvas(photograph, preprocess), least),
    }
    if roles.choose:
        parts["choose"] = DecodeRequest(roles.choose, preprocess.crop, seen)
    if not images.may_choose:
        parts["reported"] = DecodeRequest(images.splits[roles.reported], preprocess.crop, seen)
    return parts


def keys_of(parts: Mapping[str, DecodeRequest], preprocess: Preprocess) -> dict[str, dict[str, Any]]:
    """What the pixels of each part depend on beside the files."""
    return {
        name: {"side": part.side, "at_least": part.at_least, **pixel_key(preprocess)} for name, part in parts.items()
    }


class Prefetch:
    """A process that decodes the photographs of an experiment into the user's store."""

    def __init__(self, experiment: Experiment) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zoo.data.prefetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whatever goes wrong there goes wrong here again, and is told
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(experiment.to_json()).encode())
            self._process.stdin.close()
        except OSError:  # it could not start
            self._process.kill()

    def wait(self, advance: Callable[[int], None] = lambda count: None) -> None:
        """Until it is done, however it ends; `advance` is told of images."""
        assert self._process.stdout is not None
        while count := len(os.read(self._process.stdout.fileno(), 4096)):
            advance(count)
        self._process.wait()

    def stop(self) -> None:
        """End it, done or not."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def start_prefetch(experiment: Experiment) -> Prefetch | None:
    """Begin to decode; None where nothing would be kept."""
    try:
        kept = experiment.cache != "off" and Store().budget > 0
    except ZooError:
        return None
    return Prefetch(experiment) if kept else None


def main() -> None:
    """Decode what the experiment on stdin sees; one byte on stdout for each image."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # whoever needs it fails, rather than take the core
    experiment = Experiment.from_json(json.load(sys.stdin))
    if hasattr(os, "nice"):
        os.nice(NICE)
    plugins, store = Plugins(), Store()
    preprocess = look_up(experiment, plugins).preprocess
    images = open_images(experiment.data, experiment.split_seed, plugins)
    parts = parts_of(images, assign_roles(images, experiment), preprocess)

    def tell(count: int) -> None:
        os.write(1, b"." * count)

    size = sum(3 * part.side**2 * len(part.samples) for part in parts.values())
    if size > store.budget:
        return
    decode_parts(
        images,
        parts,
        on_bad_image="skip",
        workers=experiment.workers or default_workers(),
        advance=tell,
        store=store,
        keys=keys_of(parts, preprocess),
    )


if __name__ == "__main__":
    main()
