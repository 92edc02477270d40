"""Whether a runtime can run on this machine, checked without importing its framework.

Each function returns the reason why the runtime is not available on a device, or None if it is.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from zoo.errors import ZooError
from zoo.system.cuda import cuda_devices
from zoo_runtimes.node_package import find_installation

# The name of TensorRT's library that onnxruntime 1.22 and later load
_TENSORRT = ("nvinfer_10.dll",) if sys.platform == "win32" else ("libnvinfer.so.10",)


def torch_eager(device: str) -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    return _cuda_missing(device)


def torch_compiled(device: str) -> str | None:
    """torch.compile needs a C++ compiler on the CPU, and also Triton on CUDA."""
    missing = torch_eager(device)
    if missing is not None:
        return missing
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "triton is not installed, which torch.compile needs on CUDA"
    wanted = os.environ.get("CXX")
    compilers = (wanted,) if wanted else ("cl",) if sys.platform == "win32" else ("g++", "clang++")
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"there is no C++ compiler ({' or '.join(compilers)}), which torch.compile needs"
    return None


def onnxruntime_cpu(device: str) -> str | None:
    return None if _onnxruntime_folder() else "onnxruntime is not installed"


def onnxruntime_cuda(device: str) -> str | None:
    return _cuda_missing(device) or _provider_missing("cuda")


def onnxruntime_tensorrt(device: str) -> str | None:
    missing = _cuda_missing(device) or _provider_missing("tensorrt")
    if missing is not None:
        return missing
    for library in _TENSORRT:
        try:
            ctypes.CDLL(library)
            return None
        except OSError:
            continue
    return f"TensorRT's `{_TENSORRT[0]}` cannot be loaded"


def openvino(device: str) -> str | None:
    return None if importlib.util.find_spec("openvino") else "OpenVINO is not installed (extra `openvino`)"


def onnxruntime_web(device: str) -> str | None:
    try:
        find_installation()
    except ZooError as error:
        return f"{error.message}: {error.hint}"
    return None


def _cuda_missing(device: str) -> str | None:
    return "there is no CUDA device" if device.startswith("cuda") and not cuda_devices() else None


def _onnxruntime_folder() -> Path | None:
    found = importlib.util.find_spec("onnxruntime")
    return Path(found.origin).parent if found is not None and found.origin else None


def _provider_missing(provider: str) -> str | None:
    folder = _onnxruntime_folder()
    if folder is None:
        return "onnxruntime is not installed"
    if not list((folder / "capi").glob(f"*onnxruntime_providers_{provider}.*")):
        return f"this onnxruntime has no {provider} provider (`pip install onnxruntime-gpu`)"
    return None
