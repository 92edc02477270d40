"""State of a machine: the versions and the images that decide a trial's figures. Those of a study must be equal."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from zoo.data.leakage import digests
from zoo.data.opening import open_images
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.system.environment import versions


def machine_state(experiment: Experiment, plugins: Plugins) -> dict[str, Any]:
    """The versions of packages and plugins, the number of images, and a digest of their names, labels and contents.

    Raises:
        ZooError: the images cannot be opened.
    """
    found = {**versions(), **{f"plugin {one.name}": f"{one.distribution} {one.version}" for one in plugins.plugins}}
    images = open_images(experiment.data, experiment.split_seed, plugins, group=experiment.group)
    whole, count = sha256(), 0
    for role, samples in images.splits.items():
        for sample, digest in digests(samples):
            whole.update(f"{role}\0{sample.id}\0{sample.label}\0{digest}\n".encode(errors="surrogatepass"))
            count += 1
    return {"versions": found, "images": whole.hexdigest(), "count": count}
