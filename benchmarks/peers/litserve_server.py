"""The same file served by LitServe, for `benchmarks/serving.py`.

    python litserve_server.py FILE.onnx PORT

Needs `litserve`, `onnxruntime`, `numpy` and `pillow`, in an environment of its own. As many workers as cores, each with
a session of one thread. LitServe hands requests to its workers as JSON, so the image is base64 in it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Classifier(litserve.LitAPI):
    """Bytes to label, as the ten lines of zoo's documentation do it."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self.classes = json.loads(self.session.get_modelmeta().custom_metadata_map["zoo.classes"])

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, body: bytes) -> Any:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
        return self.session.run(["probabilities"], {"photographs": np.asarray(image)[None]})[0][0]

    def encode_response(self, shares: Any) -> dict[str, Any]:
        best = int(shares.argmax())
        return {"label": self.classes[best], "probability": float(shares[best])}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=os.cpu_count() or 1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
