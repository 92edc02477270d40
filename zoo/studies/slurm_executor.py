"""Slurm executor: trials as jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, ZooError, did_you_mean, quoted
from zoo.plugin import Plugins
from zoo.studies.remote_executor import MOST_SLOTS, RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out
from zoo.studies.running import FOLDER

JOBS = 8  # in the queue at a time, unless the user says how many
MINUTES = 24 * 60  # a job's time limit; submitit's own is five minutes

# Options of `--on slurm:...`, by the name that submitit knows them by
OPTIONS = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
    "minutes": "timeout_min",
    "memory_gb": "mem_gb",
}
NUMBERS = ("minutes", "memory_gb")
CLUSTERS = ("slurm", "local")  # `local`: processes of this machine, to try a study where there is no Slurm


class SlurmExecutor(RemoteExecutor):
    """Trials as jobs of Slurm. Implements `TrialExecutor`."""

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        *,
        cpus: int = 1,
        gpus: float = 0.0,
        jobs: int | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        """Look for Slurm; nothing is submitted yet.

        Args:
            options: `partition`, `account`, `qos`, `constraint`, `minutes` and `memory_gb` of each job; `cluster` is
                `slurm`, or `local` for processes of this machine without Slurm.
            cpus: Processors of each trial.
            gpus: GPUs of each trial, a whole number.
            jobs: Most jobs at a time, in the queue or running. None: 8.
            plugins: Loaded plugins. None: they are loaded.

        Raises:
            UsageError: an option is unknown or wrong.
            ZooError: submitit is not installed, or there is no Slurm.
        """
        super().__init__(cpus, gpus, plugins)
        asked = dict(options or {})
        cluster = asked.pop("cluster", "slurm")
        if cluster not in CLUSTERS:
            raise UsageError(f"`cluster={cluster}` is not `slurm` or `local`", hint="leave it out")
        if gpus != int(gpus):
            raise UsageError(f"a job of Slurm cannot have {gpus:g} GPUs", hint="pass a whole number")
        self._given: dict[str, Any] = {"timeout_min": MINUTES}
        for name, value in asked.items():
            if name not in OPTIONS:
                known = (*OPTIONS, "cluster")
                raise UsageError(
                    f"unknown option `{name}` of `--on slurm`",
                    hint=did_you_mean(name, known, f"options: {' '.join(known)}"),
                )
            if name in NUMBERS and (not value.isdecimal() or not int(value)):
                raise UsageError(f"`{name}={value}` is not a positive whole number", hint=f"such as `{name}=60`")
            self._given[OPTIONS[name]] = int(value) if name in NUMBERS else value
        try:
            import submitit
        except ImportError as error:
            raise ZooError("`--on slurm` needs submitit", hint="pip install 'backbone-zoo[slurm]'") from error
        if cluster == "slurm" and not submitit.SlurmExecutor.affinity() > 0:
            raise ZooError(
                "there is no Slurm on this machine: `srun` is not found",
                hint="run the study on a login node; `--on slurm:cluster=local` tries it without Slurm",
            )
        self._submitit: Any = submitit
        self._cluster = cluster
        self.slots = min(jobs or JOBS, MOST_SLOTS)
        self._executor: Any = None
        self._jobs: set[Any] = set()
        self._stopped = False

    def _engine(self, study: Path) -> Any:
        with self._lock:
            if self._executor is None:
                folder = study / FOLDER / "slurm"  # of requests, answers and what jobs print
                self._executor = self._submitit.AutoExecutor(folder=folder, cluster=self._cluster)
                gpus = {"gpus_per_node": int(self.gpus)} if self.gpus else {}
                self._executor.update_parameters(
                    name="zoo", nodes=1, tasks_per_node=1, cpus_per_task=self.cpus, **gpus, **self._given
                )
            return self._executor

    def run_once(self, request: dict[str, Any]) -> dict[str, Any]:
        core = self._submitit.core.utils
        if self._stopped:
            raise TrialLost("the study was stopped")
        try:
            job = self._engine(Path(request["study"])).submit(carry_out, request)
        except Exception as error:  # sbatch refused it
            raise ZooError(f"Slurm takes no job: {quoted(error)}", hint="see the options of `--on slurm`") from error
        self._jobs.add(job)
        try:
            found: dict[str, Any] = job.result()
            return found
        except core.UncompletedJobError as error:
            state = (
                "" if job.state == "FINISHED" else f", in state {job.state}"
            )  # what submitit says of local processes
            raise TrialLost(f"its job {job.job_id} ended without an answer{state}") from error
        except core.FailedJobError as error:
            last = str(error).strip().splitlines()[-1:]
            raise ZooError(
                f"job {job.job_id} cannot carry out a trial: {' '.join(last)[:300]}",
                hint=f"what it printed: `{job.paths.stderr}`; is zoo installed on every machine?",
            ) from error
        finally:
            self._jobs.discard(job)

    def stop(self) -> None:
        self._stopped = True
        for job in tuple(self._jobs):
            with contextlib.suppress(Exception):
                job.cancel()
        self._executor = None
