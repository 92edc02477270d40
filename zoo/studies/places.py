"""Places: where `--on` has the trials of a study carried out."""

from __future__ import annotations

from zoo.errors import UsageError
from zoo.plugin import Plugins
from zoo.studies.remote_executor import RemoteExecutor
from zoo.studies.study_store import StoreSession

EXAMPLES = "such as `--on ray`, `--on ray://head:10001` or `--on slurm:partition=gpu`"


def executor_on(
    place: str,
    *,
    cpus: int = 1,
    gpus: float = 0.0,
    jobs: int | None = None,
    store: str | None = None,
    plugins: Plugins | None = None,
) -> RemoteExecutor:
    """The executor that a text of `--on` names: `ray`, `ray://ADDRESS`, `slurm` or `slurm:OPTION=VALUE,...`.

    Args:
        place: The text.
        cpus: Processors of each trial.
        gpus: GPUs of each trial.
        jobs: Most trials at a time. None: the executor's own number.
        store: URL of fsspec, or a folder, through which the machines exchange runs. None: they share the study's
            folder.
        plugins: Loaded plugins. None: they are loaded.

    Raises:
        UsageError: the text names none, or an option is wrong.
        DiskFull, ZooError: what it takes is not installed, or not there, or the store cannot be written.
    """
    shared = None if store is None else StoreSession(store)
    executor = _executor_on(place, cpus, gpus, jobs, plugins)
    if shared is not None:
        shared.store.check()  # before latencies are measured
    executor.store = shared
    return executor


def _executor_on(place: str, cpus: int, gpus: float, jobs: int | None, plugins: Plugins | None) -> RemoteExecutor:
    if place == "ray" or place.startswith("ray://"):
        from zoo.studies.ray_executor import RayExecutor

        address = place.removeprefix("ray").removeprefix("://")
        if place != "ray" and not address:
            raise UsageError(f"`--on {place}` has no address", hint=EXAMPLES)
        return RayExecutor(address, cpus=cpus, gpus=gpus, jobs=jobs, plugins=plugins)
    name, colon, words = place.partition(":")
    if name == "slurm":
        from zoo.studies.slurm_executor import SlurmExecutor

        options: dict[str, str] = {}
        for word in words.split(",") if colon else ():
            option, equals, value = word.partition("=")
            if not (option and equals and value) or option in options:
                raise UsageError(f"`{word}` in `--on {place}` is not `OPTION=VALUE`, once", hint=EXAMPLES)
            options[option] = value
        return SlurmExecutor(options, cpus=cpus, gpus=gpus, jobs=jobs, plugins=plugins)
    raise UsageError(f"`--on {place}` names no place to train at", hint=EXAMPLES)
