"""How many processors this process may use, and how many threads compute with them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# The variable that torch, its libraries and processes that this one starts read for their number of threads
THREADS = "OMP_NUM_THREADS"

# The variable by which worker processes know the process that began the session, whose other workers are no strangers
SESSION = "ZOO_SESSION_PROCESS"

# More than any machine has. A resumed run starts as many threads as its record says
MOST_THREADS = 4096

MEMBERSHIP, CGROUPS = "/proc/self/cgroup", "/sys/fs/cgroup"


def usable_cpus() -> int:
    """Processors that this process may use: those of its affinity, and no more than its container's quota.

    A quota of 1.5 processors counts as two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas())]))


def asked_threads() -> int | None:
    """The number of threads that the user asked for, by `--threads` or `OMP_NUM_THREADS`. None: none.

    Raises:
        UsageError: it is more than `MOST_THREADS`.
    """
    text = os.environ.get(THREADS, "").partition(",")[0].strip()  # OpenMP takes a list, for nested regions
    if not text.isdecimal() or not text.strip("0"):
        return None
    if len(text.lstrip("0")) > len(str(MOST_THREADS)) or int(text) > MOST_THREADS:
        raise UsageError(
            f"`{THREADS}={text[:20]}` asks for more threads than {MOST_THREADS:,}",
            hint=f"set `{THREADS}` to the number of cores, or pass `--threads`",
        )
    return int(text)


def use_threads(count: int) -> None:
    """Have libraries compute with `count` threads, in this process and in those that it starts."""
    os.environ[THREADS] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:  # it has read the variable already
        torch.set_num_threads(count)


def _quotas() -> Iterator[float]:
    """Processors that the control groups of this process may use, its own group's and those above it (Linux)."""
    from pathlib import Path, PurePosixPath  # not at the top: help reads this module

    try:
        lines = os.fsdecode(Path(MEMBERSHIP).read_bytes()).split(
            "\n"
        )  # names of groups are names of folders: any bytes
    except OSError:
        return
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "?", "?"][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # one tree (version 2), or one for each controller (version 1), which the kernel lists in any order
        root = Path(CGROUPS) / controllers
        if not root.is_dir():
            root = Path(CGROUPS) / "cpu"
        inside = PurePosixPath(name.lstrip("/"))
        for group in (inside, *inside.parents):
            found = _quota(root / group, version=1 if controllers else 2)
            if found is not None:
                yield found


def _quota(group: Path, version: int) -> float | None:
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
        limit, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):  # such as `max 100000`: no limit
        return None
    return limit / period if 0 < limit < math.inf and period > 0 else None
