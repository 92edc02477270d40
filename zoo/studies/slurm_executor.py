"""Slurm executor: trials as jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from zoo.errors import UsageError, ZooError, did_you_mean, quoted
from zoo.plugin import Plugins
from zoo.studies.remote_executor import MOST_SLOTS, RemoteExecutor, TrialLost
from zoo.studies.remote_trial import carry_out
from zoo.studies.running import FOLDER, SHARED_SECONDS

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
QUEUE_SECONDS = 3.0  # between two looks at the queue, for all jobs together
SILENT_SECONDS = 600.0  # without an answer of Slurm after which it is taken for gone; its controller may be restarted
ASK_SECONDS = 60.0
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
        if cluster == "slurm":
            try:
                _told_by("squeue", "--me", "--noheader", "--format=%A")
            except (OSError, subprocess.SubprocessError) as error:
                raise ZooError(
                    f"Slurm does not answer: {_why(error)}",
                    hint="is its controller there? `sinfo` says how the cluster is",
                ) from error
        self._submitit: Any = submitit
        self._cluster = cluster
        self.slots = min(jobs or JOBS, MOST_SLOTS)
        self._executor: Any = None
        self._queue = JobQueue()
        self._jobs: set[Any] = set()
        self._stopped = False

    def _engine(self, study: Path) -> Any:
        with self._lock:
            if self._executor is None:
                folder = study / FOLDER / "slurm"  # of requests, answers and what jobs print
                self._executor = self._submitit.AutoExecutor(folder=folder, cluster=self._cluster)
                gpus = {"gpus_per_node": int(self.gpus)} if self.gpus else {}
                # a job whose machine dies is an outcome, and never begun again by Slurm
                once = {"slurm_additional_parameters": {"no_requeue": True}} if self._cluster == "slurm" else {}
                self._executor.update_parameters(
                    name="zoo", nodes=1, tasks_per_node=1, cpus_per_task=self.cpus, **gpus, **once, **self._given
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
            if self._cluster == "slurm":
                self._wait(job)
            found: dict[str, Any] = job.result()
            return found
        except core.UncompletedJobError as error:
            raise TrialLost(f"its job {job.job_id} ended without an answer") from error
        except core.FailedJobError as error:
            last = str(error).strip().splitlines()[-1:]
            raise ZooError(
                f"job {job.job_id} cannot carry out a trial: {' '.join(last)[:300]}",
                hint=f"what it printed: `{job.paths.stderr}`; is zoo installed on every machine?",
            ) from error
        finally:
            self._jobs.discard(job)

    def _wait(self, job: Any) -> None:
        """Wait until a job of Slurm has answered.

        submitit asks `sacct`, every ten minutes, which knows nothing where no accounting is set up; it would wait for
        a job that was killed without end.

        Raises:
            TrialLost: the job has ended without an answer.
            ZooError: Slurm is gone.
        """
        answer: Path = job.paths.result_pickle
        while self._queue.holds(job.job_id):
            for _ in range(10):
                if answer.exists():
                    return
                time.sleep(QUEUE_SECONDS / 10)
        until = time.monotonic() + SHARED_SECONDS
        while not answer.exists():
            if self._stopped:
                raise TrialLost("the study was stopped")
            if time.monotonic() > until:
                state = job_state(job.job_id)
                in_state = f", in state {state}" if state else ""
                raise TrialLost(f"its job {job.job_id} ended without an answer{in_state}")
            time.sleep(0.2)

    def stop(self) -> None:
        self._stopped = True
        for job in tuple(self._jobs):
            with contextlib.suppress(Exception):
                job.cancel()
        self._executor = None


class JobQueue:
    """The jobs of this user that wait or run, as `squeue` has them. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs: set[str] = set()
        self._asked = float("-inf")
        self._answered = time.monotonic()
        self._as_of = float("-inf")  # the time that `_jobs` are of

    def holds(self, job: str) -> bool:
        """Whether a job, which was submitted before this call, waits or runs.

        Raises:
            ZooError: Slurm has not answered for long.
        """
        began = time.monotonic()
        with self._lock:
            if self._asked < began and time.monotonic() - self._asked >= QUEUE_SECONDS:
                self._ask()
            return job in self._jobs or self._as_of < began  # one that was submitted since then is not in them yet

    def _ask(self) -> None:
        """Ask Slurm; where it gives no answer, all jobs count as before.

        Raises:
            ZooError: it has not answered for long.
        """
        now = time.monotonic()
        self._asked = now
        try:
            # each state, since by default a job that is held by a suspension, or is completing, may be left out
            said = _told_by("squeue", "--me", "--noheader", "--states=all", "--format=%A %T")
        except (OSError, subprocess.SubprocessError) as error:
            if now - self._answered > SILENT_SECONDS:
                raise ZooError(
                    f"Slurm has not answered for {SILENT_SECONDS:.0f} s: {_why(error)}",
                    hint="`zoo study FOLDER --on slurm` continues the study when it is back",
                ) from error
            return
        self._answered, self._as_of = time.monotonic(), now
        states = dict(line.split() for line in said.splitlines() if len(line.split()) == 2)
        self._jobs = {job for job, state in states.items() if state not in ENDED}


# States of `squeue` in which a job will not answer any more
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)


def job_state(job: str) -> str:
    """The state of a job that ended a short while ago, such as `OUT_OF_MEMORY`; empty where Slurm does not know it."""
    try:
        said = _told_by("scontrol", "--oneliner", "show", "job", job)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next((word.partition("=")[2] for word in said.split() if word.startswith("JobState=")), "")


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "stderr", None) or "").split())[:300] or quoted(error)


def _told_by(*words: str) -> str:
    return subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL
    ).stdout
