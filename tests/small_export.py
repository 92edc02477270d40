"""The small network that the exporters' tests write to files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from zoo.exporter import ExportSpec
from zoo.preprocess import Preprocess

CLASSES = ("ants", "bees", "wasps")
PREPROCESS = Preprocess(resize=40, crop=32, interpolation="bicubic")


class SmallNet(nn.Module):
    """Convolution, batch norm with statistics of its own, attention: what the exporters must get right."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.dtype == torch.float32:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
            assert self.norm.running_var is not None
            self.norm.running_var.abs_().add_(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.act(self.norm(self.stem(images)))  # N x 16 x 8 x 8
        tokens = features.flatten(2).transpose(1, 2)  # N x 64 x 16
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        logits: torch.Tensor = self.head(self.drop((tokens + mixed).mean(1)))
        return logits


def small_spec(file: Path, preprocess: Preprocess = PREPROCESS, model: nn.Module | None = None) -> ExportSpec:
    return ExportSpec(
        model=(model or SmallNet()).eval(),
        preprocess=preprocess,
        classes=CLASSES,
        metadata={"backbone": "small", "strategy": "linear", "metrics": {"accuracy": 0.5}, "license": "Apache-2.0"},
        file=file,
    )
