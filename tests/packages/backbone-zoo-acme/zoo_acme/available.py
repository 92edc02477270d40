"""Whether the runtime can be used here. Imports no framework."""

from importlib.util import find_spec


def here(device):
    """None if it can run on this device; otherwise why it cannot."""
    if device not in ("auto", "cpu"):
        return "it runs on the CPU alone"
    return None if find_spec("onnxruntime") else "onnxruntime is not installed"
