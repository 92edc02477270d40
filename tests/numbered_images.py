"""Images that hold a number, and a served model whose logits give it back: so an answer shows whose it is."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.data.image import Pixels
from zoo.preprocess import Preprocess
from zoo.serving.served_model import Batching, ServedModel


class Numbers:
    """A predictor with the logits `(number, factor * number)`."""

    classes = ("number", "multiple")
    preprocess = Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    device = "none"

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.batches: set[int] = set()

    def logits(self, photographs: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        self.batches.add(len(photographs))
        time.sleep(random.random() / 5000)  # so that workers overtake one another
        numbers = [int(one[0, 0] @ [65536, 256, 1]) for one in photographs]
        return np.array([[one, self.factor * one] for one in numbers], np.float32)


def numbers_model(name: str = "numbers", factor: int = 2, batch: int = 1) -> ServedModel:
    """A served model of `Numbers`."""
    return served(Numbers(factor), name, batch)


def served(predictor: Any, name: str, batch: int) -> ServedModel:
    """A predictor as a served model that takes up to `batch` images in a call."""
    record = {"precision": {"name": "fp32"}, "inputs": {}}
    batching = Batching(size=batch, seconds={1: 1.0, batch: 1.0 if batch == 1 else 0.5})
    return ServedModel(name=name, path=Path(), digest=name, predictor=predictor, record=record, batching=batching)


def numbered(number: int) -> Pixels:
    """An image with a number below 2**24, `(H, W, 3)`; sizes differ."""
    pixels = np.zeros((1 + number % 3, 1 + number % 5, 3), np.uint8)
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    return pixels


def encoded(pixels: Pixels) -> bytes:
    """An image as the bytes of a PNG file."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()
