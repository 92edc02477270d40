"""Memory of this process and of those that it started: what is resident, and the peak."""

from __future__ import annotations

from pathlib import Path

import psutil


def reset_peak_memory(*, children: bool = False) -> bool:
    """Reset the system's record of the peak memory of this process, with `children` also of those that it started.

    False where the system cannot.
    """
    try:
        for process in _processes(children):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")
        return True
    except OSError:
        return False


def peak_memory(*, children: bool = False) -> int:
    """Peak resident memory of this process in bytes, since the last reset if there was one.

    With `children` the peaks of the processes that it started are added. Pages of mapped files count, which the system
    may drop whenever it needs room.
    """
    return sum(_peak(process) for process in _processes(children))


def _peak(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux, or it has ended
        text = ""
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        usage = process.memory_info()
    except psutil.Error:
        return 0
    return int(getattr(usage, "peak_wset", usage.rss))


def _processes(children: bool) -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *(this.children(recursive=True) if children else ())]


def resident_memory() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)
