"""A Ray cluster on one machine, whose machines are network namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from network_namespaces import Machine

from zoo.studies.running import running_trials

TOKEN = "0f9c1d6ab2834c7e9d51-token-of-the-test"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "3"}
WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def wait_until(holds: Callable[[], object], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


class Cluster:
    """A cluster with its token; `place` is a folder with a short path, for its sockets and logs."""

    def __init__(self, place: Path, found: dict[str, Machine], environment: Mapping[str, str] | None = None) -> None:
        self.place, self.machines = place, found
        self.environment = {**QUIET, **WITH_TOKEN, **(environment or {})}
        self.head = found["head"].address
        self.logs = place / "ray.log"
        self.hidden = place / "hidden"
        self.hidden.mkdir()

    def start(self, name: str, cpus: int) -> None:
        """Start Ray on a machine, `head` or another, with so many processors, and wait until it has started."""
        machine = self.machines[name]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}"]
        words += [f"--node-ip-address={machine.address}", "--object-store-memory=100000000"]
        words += [f"--temp-dir={self.place / name[0]}"]  # short: a socket's path has 107 bytes at most
        head = ["--head", "--port=6379", "--include-dashboard=false"]
        if name == "head":
            words += head
        else:
            words += [f"--address={self.head}:6379"]
            # what lies in this folder on the session's machine is not seen by others
            hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(self.hidden)]
            words = hide + words
        before = self.started
        machine.start(words, self.logs, **self.environment)
        wait_until(lambda: self.started > before)

    @property
    def started(self) -> int:
        return self.logs.read_bytes().count(b"Ray runtime started") if self.logs.is_file() else 0

    def session(self, study: Path, *more: str, token: str | None = TOKEN) -> subprocess.Popen[str]:
        """Begin `zoo study` on the cluster, outside of its machines."""
        environment = {**os.environ, **QUIET, "HOME": str(self.place)}
        environment |= {} if token is None else {"RAY_AUTH_TOKEN": token}
        words = [sys.executable, "-m", "zoo_cli.main", "study", str(study), "--on", f"ray://{self.head}", *more]
        return subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def running_on(self, study: Path, name: str) -> bool:
        """Whether a trial runs on a machine."""
        for note in running_trials(study).values():
            where = subprocess.run(
                ["ip", "netns", "identify", str(note["process"])], capture_output=True, text=True, check=False
            )
            if where.stdout.strip() == self.machines[name].name:
                return True
        return False
