"""CUDA devices as the driver reports them, without importing torch or onnxruntime."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


@cache
def _driver() -> ctypes.CDLL | None:
    """The driver's library, initialised; None where there is no driver or no device."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def cuda_devices() -> tuple[str, ...]:
    """Names of the devices that this process can use, in the order of their numbers."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    names = []
    for ordinal in range(count.value):
        name = ctypes.create_string_buffer(256)
        device = ctypes.c_int()
        known = driver.cuDeviceGet(ctypes.byref(device), ordinal) == 0
        known = known and driver.cuDeviceGetName(name, 256, device) == 0
        names.append(name.value.decode(errors="replace") if known else "unknown")
    return tuple(names)


def cuda_memory_used(ordinal: int) -> int | None:
    """Bytes of a device's memory that all processes use; None if they cannot be read.

    This opens the device's primary context in this process, which torch and onnxruntime use too.
    """
    driver = _driver()
    if driver is None:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if (
        driver.cuDeviceGet(ctypes.byref(device), ordinal) != 0
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0
        or driver.cuCtxPushCurrent_v2(context) != 0
    ):
        return None
    read = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return total.value - free.value if read else None
