"""Classify photographs with an exported file; needs onnxruntime, numpy and pillow, and neither zoo nor torch.

Run it so: `python examples/predict_with_onnxruntime.py runs/example/model.onnx photo.jpg another.jpg`
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *photographs: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["zoo.classes"])
    for path in photographs:
        # a camera that was held upright stores the photograph lying down, and says so in its EXIF data
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        (probabilities,) = session.run(["probabilities"], {"photographs": image[None]})[0]
        print(f"{path}\t{classes[int(probabilities.argmax())]}\t{probabilities.max():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
