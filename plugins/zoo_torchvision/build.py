"""Building torchvision's networks: with a new head, one output tensor, and an error for unsupported settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model_builder, get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops import StochasticDepth

from zoo.backbone import BuildSpec, Network
from zoo.errors import UsageError
from zoo.networks.building import load_state
from zoo.preprocess import height_width, pixels_text
from zoo_torchvision.download import fetch_state
from zoo_torchvision.stages import cut_network, head_path

# EfficientNet's nominal rate of stochastic depth, which torchvision does not store: its last block has a lower rate
EFFICIENTNET_DROP_PATH = 0.2


class DroppedLinear(nn.Linear):
    """A linear layer with dropout on its input, for heads without dropout; parameters keep their names."""

    def __init__(self, linear: nn.Linear, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, self.dropout, self.training))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout={self.dropout}"


def build(spec: BuildSpec) -> Network:
    """Build a torchvision network with a new head, and load published weights into all layers but the head.

    Raises:
        UsageError: the network does not support a setting.
        ZooError: the weights are not available.
    """
    options, translate = _options(spec)
    try:
        model: nn.Module = get_model_builder(spec.backbone)(weights=None, num_classes=spec.classes, **options)
    except ValueError as error:  # MaxViT: the image size is not a multiple of its window size
        raise UsageError(
            f"`{spec.backbone}` cannot be built for {pixels_text(spec.image_size or 0)} pixels: {_one_line(error)}",
            hint="pass an `--image-size` that is a multiple of 224" if spec.backbone == "maxvit_t" else None,
        ) from error
    if spec.dropout is not None:
        set_dropout(model, spec.dropout)
    if spec.drop_path is not None:
        set_drop_path(spec.backbone, model, spec.drop_path)
    network = Network(model, cut_network(spec.backbone, model), translate)
    if spec.weights is not None:
        state = fetch_state(spec.backbone, spec.weights)
        if translate is not None:
            state = translate(state)
        if spec.weights.tag == "IMAGENET1K_FEATURES":
            # The published VGG-16 features have a classifier of NaN; its hidden layers keep their random weights
            own = model.state_dict()
            state = {name: own[name] if name.startswith("classifier.") else value for name, value in state.items()}
        load_state(network, state, f"`{spec.weights.file}`", fresh_head=True)
    return network


Translate = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _options(spec: BuildSpec) -> tuple[dict[str, Any], Translate | None]:
    """The arguments of the constructor, and a function that adapts published tensors to the network, if needed."""
    name = spec.backbone
    default = get_model_weights(name).DEFAULT
    native = spec.weights.preprocess.crop if spec.weights is not None else default.transforms().crop_size[0]
    size, tall = spec.image_size or native, height_width(spec.image_size or native)[0]
    if name in ("inception_v3", "googlenet"):
        # Auxiliary heads help only training from scratch; without them there is one output tensor in train and eval.
        # The initialisation takes half a second and is needed only if no weights are loaded.
        return {
            "aux_logits": False,
            "transform_input": False,
            "init_weights": spec.weights is None,
        }, None
    if isinstance(size, tuple) and name.startswith(("vit_", "maxvit")):
        what = "position embeddings" if name.startswith("vit_") else "attention windows"
        raise UsageError(
            f"`{name}` cannot take images of {pixels_text(size)} pixels: its {what} are of a square grid",
            hint="pass a square `--image-size`; convolutional networks and most of `timm/` take rectangles",
        )
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        if tall % patch:
            raise UsageError(
                f"`{name}` needs an image size that is a multiple of {patch} pixels, not {tall}",
                hint=f"pass `--image-size` {max(tall // patch, 1) * patch} or {(tall // patch + 1) * patch}",
            )
        return {"image_size": tall}, lambda state: dict(interpolate_embeddings(tall, patch, _ordered(state)))
    if name.startswith("maxvit"):
        return {"input_size": (tall, tall)}, None
    if name.startswith("densenet"):
        return {}, _rename_dense_layers
    return {}, None


def _ordered(state: dict[str, Tensor]) -> Any:
    """A copy, because torchvision modifies its argument."""
    return dict(state)


def _rename_dense_layers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename DenseNet's tensors: files have `norm.1` where modules, whose names cannot have dots, have `norm1`."""
    old = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
    return {old.sub(r"\1\2", name): value for name, value in state.items()}


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Set the dropout rate before the head; if the network has no dropout there, add one."""
    path = head_path(model)
    parent = model.get_submodule(path.rpartition(".")[0]) if "." in path else None
    own = getattr(model, "dropout", None)  # Inception and GoogLeNet
    drops = [module for module in parent.children() if isinstance(module, nn.Dropout)] if parent is not None else []
    if isinstance(own, nn.Dropout):
        drops.append(own)
    for drop in drops:
        drop.p = dropout
    if not drops:
        head = model.get_submodule(path)
        assert isinstance(head, nn.Linear), f"the head of {type(model).__name__} is not a linear layer"
        setattr(parent if parent is not None else model, path.rpartition(".")[2], DroppedLinear(head, dropout))


def set_drop_path(name: str, model: nn.Module, drop_path: float) -> None:
    """Scale the rates of stochastic depth, which rise from 0 at the input, so that they end at `drop_path`.

    Raises:
        UsageError: the network has no stochastic depth.
    """
    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    top = max((layer.p for layer in layers), default=0.0)
    if not top:
        if drop_path == 0:
            return
        raise UsageError(
            f"`{name}` has no stochastic depth, so `--drop-path {drop_path:g}` cannot be set",
            hint="leave out the option; ConvNeXt, EfficientNet, MaxViT and Swin have stochastic depth",
        )
    if type(model).__name__ == "EfficientNet":
        top = EFFICIENTNET_DROP_PATH
    for layer in layers:
        layer.p = layer.p * drop_path / top


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
