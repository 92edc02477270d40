"""Machines on one machine: network namespaces of Linux, each with an address of its own on one bridge.

They need root and `ip` of iproute2. The file system, the clock and the processors are shared.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass
class Machine:
    """A namespace: its `name`, and its `address`, which the session's own namespace reaches, too."""

    name: str
    address: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, words: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command there; what it prints is appended to `log`."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *words], stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def kill(self) -> None:
        """Kill all processes there at once, as a loss of power does."""
        for _ in range(20):
            found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
            for process in found.stdout.split():
                try:
                    os.kill(int(process), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not found.stdout.split():
                break
            time.sleep(0.1)
        for started in self.started:
            started.wait(timeout=30)

    def cut(self) -> None:
        """Cut its cable: its processes go on, and nobody reaches them."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Mend its cable."""
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "route", "replace", "default", "via", f"{self.address.rpartition('.')[0]}.1")


def need_namespaces() -> None:
    """Skip the test where no namespaces can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and `ip`")
    if subprocess.run(["ip", "netns", "add", "zoo-probe"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    _ip("netns", "delete", "zoo-probe")


@contextmanager
def machines(*names: str, environment: Mapping[str, str] | None = None) -> Iterator[dict[str, Machine]]:
    """Machines by name on a network of their own, which ends with the block, as do their processes."""
    need_namespaces()
    number = os.getpid() % 250 + 1
    bridge, net = f"zoob{number}", f"10.213.{number}"
    found: dict[str, Machine] = {}
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("address", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for place, name in enumerate(names, start=2):
            machine = Machine(f"zoo{number}-{name}", f"{net}.{place}")
            _ip("netns", "add", machine.name)
            found[name] = machine
            cable = f"zoov{number}-{place}"
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            _ip("link", "set", cable, "master", bridge, "up")
            for words in (
                ["link", "set", "lo", "up"],
                ["address", "add", f"{machine.address}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["route", "add", "default", "via", f"{net}.1"],
            ):
                _ip("-n", machine.name, *words)
        yield found
    finally:
        for machine in found.values():
            machine.kill()
            _ip("netns", "delete", machine.name)
        _ip("link", "delete", bridge)
