"""State of a machine: the versions and the images that decide a trial's figures. Those of a study must be equal."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from zoo.data.leakage import digests
from zoo.data.opening import open_images
from zoo.dataset import FileSource, Images
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.system.environment import versions


def machine_state(experiment: Experiment, plugins: Plugins) -> dict[str, Any]:
    """The versions of packages and plugins, the number of images, and a digest of their names, labels and contents.

    Raises:
        ZooError: the images cannot be opened.
    """
    return MachineStates().of(experiment, plugins)


class MachineStates:
    """`machine_state`, asked for again and again: image files are read anew only where one of them may have changed."""

    def __init__(self) -> None:
        self._read: dict[tuple[Any, ...], tuple[str, str, int]] = {}

    def of(self, experiment: Experiment, plugins: Plugins) -> dict[str, Any]:
        """See `machine_state`.

        Raises:
            ZooError: the images cannot be opened.
        """
        found = {**versions(), **{f"plugin {one.name}": f"{one.distribution} {one.version}" for one in plugins.plugins}}
        images = open_images(experiment.data, experiment.split_seed, plugins, group=experiment.group)
        key, look = (experiment.data, experiment.split_seed, experiment.group), _look(images)
        before = self._read.get(key)
        if before is not None and look and before[0] == look:
            return {"versions": found, "images": before[1], "count": before[2]}
        whole, count = sha256(), 0
        for role, samples in images.splits.items():
            for sample, digest in digests(samples):
                whole.update(f"{role}\0{sample.id}\0{sample.label}\0{digest}\n".encode(errors="surrogatepass"))
                count += 1
        self._read[key] = (look, whole.hexdigest(), count)
        return {"versions": found, "images": whole.hexdigest(), "count": count}


def _look(images: Images) -> str:
    """A digest of names, labels, sizes and times of change of image files; empty where an image is no file."""
    whole = sha256()
    for role, samples in images.splits.items():
        for sample in samples:
            if not isinstance(sample.source, FileSource):
                return ""
            try:
                seen = sample.source.path.stat()
            except OSError:
                return ""
            # the time of the last change of the file's record cannot be set back, unlike that of its content
            file = (sample.source.path, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            whole.update(f"{role}\0{sample.id}\0{sample.label}\0{file}\n".encode(errors="surrogatepass"))
    return whole.hexdigest()
