"""The laws of backbones."""

from __future__ import annotations

import copy

import torch

from zoo.backbone import Network
from zoo.networks.building import build_network
from zoo.plugin import Plugins
from zoo.preprocess import ImageSize, height_width
from zoo.stage import check_anatomy
from zoo.testing.law import CLASSES, Violation, require


def check_backbone(backbone: str, *, image_size: ImageSize | None = None, plugins: Plugins | None = None) -> None:
    """Check a backbone.

    Its stages hold every parameter exactly once. Its logits are `(N, classes)` in train and in eval mode. Gradients
    reach every stage and are finite.

    Args:
        backbone: Its name.
        image_size: Of the input, in pixels: a number, or height and width. None: the backbone's own.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
    """
    row = (plugins or Plugins()).backbones.find(backbone).value
    torch.manual_seed(0)
    network = build_network(row, classes=CLASSES, image_size=image_size)
    size = image_size or row.preprocess.crop
    check_coverage(network)
    check_logits(network, size)
    network.model.train()
    network.model(torch.randn(4, 3, *height_width(size))).square().sum().backward()
    gradients = {name: value.grad for name, value in network.model.named_parameters() if value.grad is not None}
    for stage in (*network.anatomy.stages, network.anatomy.head):
        if not stage.parameters:
            continue
        reached = [gradients[name] for name in stage.parameters if name in gradients]
        require(reached != [], f"no gradient reaches stage `{stage.name}`")
        require(all(bool(value.isfinite().all()) for value in reached), f"a gradient of `{stage.name}` is not finite")


def check_coverage(network: Network) -> None:
    """Check that stages and head hold every parameter exactly once."""
    names = [name for name, _ in network.model.named_parameters()]
    try:
        check_anatomy(network.anatomy, names)
    except ValueError as error:
        raise Violation(str(error)) from error
    if all(stage.parameters == () for stage in network.anatomy.stages):  # fixed features, such as histograms
        return
    for stage in network.anatomy.stages:
        require(stage.parameters != (), f"stage `{stage.name}` holds no parameter")


def check_logits(network: Network, size: ImageSize) -> None:
    """Check the shape of logits in train and in eval mode, for batches of several sizes."""
    for training, count in ((True, 4), (False, 1), (False, 3)):
        network.model.train(training)
        state = copy.deepcopy(network.model.state_dict())
        with torch.no_grad():
            logits = network.model(torch.randn(count, 3, *height_width(size)))
        network.model.load_state_dict(state)
        mode = "train" if training else "eval"
        require(
            isinstance(logits, torch.Tensor) and logits.shape == (count, CLASSES),
            f"in {mode} mode, {count} images give {getattr(logits, 'shape', type(logits).__name__)} instead of "
            f"({count}, {CLASSES})",
        )
        require(bool(logits.isfinite().all()), f"in {mode} mode, a logit is not finite")
