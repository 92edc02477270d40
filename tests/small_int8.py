"""The small network that is quantised by the exporters' tests."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from small_export import PREPROCESS, small_spec
from torch import nn

from zoo.data.image import normalise
from zoo.exporter import Calibration, ExportSpec, Precision
from zoo_onnx.metadata import KEY_PRECISION, read
from zoo_onnx.network import ExportedNetwork, export_network


class Convolutions(nn.Module):
    """Depthwise and pointwise, with bounded activations; `spoilt`: one channel beside which all others vanish."""

    def __init__(self, spoilt: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 3)
        if spoilt:
            with torch.no_grad():
                self.pointwise.weight[0] *= 0
                assert self.pointwise.bias is not None
                self.pointwise.bias[0] = 1e5
                self.head.weight[:, 0] = 0
        with torch.no_grad():  # every class is somebody's
            self.head.bias.sub_(self(torch.from_numpy(normalise(photographs(64, 9), PREPROCESS))).mean(0) / 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pointwise(self.depthwise(self.stem(images))).mean((2, 3)))
        return logits * 8


def photographs(count: int, seed: int) -> np.ndarray:
    """Blots of colour, which random weights tell apart better than noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@cache
def exported(spoilt: bool) -> tuple[Convolutions, ExportedNetwork]:
    """The network, which no test changes, and its graph in fp32: converting begins where exporting ends."""
    model = Convolutions(spoilt).eval()
    return model, export_network(model, PREPROCESS.crop)


def spec_of(file: Path, kind: Precision, max_drop: float = 0.05, spoilt: bool = False) -> ExportSpec:
    """A spec whose labels are what the network says itself."""
    model, network = exported(spoilt)
    choices = photographs(64, 2)
    with torch.inference_mode():
        labels = model(torch.from_numpy(normalise(choices, PREPROCESS))).argmax(1).numpy()
    calibration = Calibration(ranges=photographs(128, 1), choices=choices, labels=labels)
    return replace(
        small_spec(file, model=model),
        kept={"network": network},
        precision=kind,
        calibration=calibration,
        max_drop=max_drop,
    )


def record(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(read(onnx.load(file))[KEY_PRECISION])
    return found
