"""The machine and the package versions that a result was computed with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    "backbone-zoo",
    "torch",
    "torchvision",
    "timm",
    "peft",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pillow",
    "scikit-learn",
    "albumentations",
    "opencv-python-headless",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    found = {name: package_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


@cache  # the metadata of a package is a long text, and a run asks three times
def package_version(name: str) -> str | None:
    """The installed version of a package, as when it was first asked for; None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Name of the processor, number of cores that this process may use, and operating system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "system": f"{platform.system()} {platform.machine()}"}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
