"""Names of the tensors of a file. Nothing is imported, so that a server needs onnxruntime alone."""

from __future__ import annotations

PHOTOGRAPHS = "photographs"  # decoded, `(N, H, W, 3)` uint8
PIXELS = "pixels"  # the network's input, `(N, 3, side, side)` float32
LOGITS, PROBABILITIES = "logits", "probabilities"
UNKNOWN = "unknown"  # how strange an image is, `(N,)` float32; above 1 it is called unknown
FEATURES = "features"  # the head's input `(N, D)`, in files with the output `unknown`
