"""Memory of this process: what is resident, and its peak."""

from __future__ import annotations

from pathlib import Path

import psutil


def reset_peak_memory() -> bool:
    """Reset the system's record of this process's peak memory; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    except OSError:
        return False


def peak_memory() -> int:
    """Peak resident memory of this process in bytes, since the last reset if there was one.

    Pages of mapped files count, which the system may drop whenever it needs room.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    usage = psutil.Process().memory_info()
    return int(getattr(usage, "peak_wset", usage.rss))


def resident_memory() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)
