"""Features: the head's input for every image of a part."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.feature_cache.loader import AugmentedViews
from zoo.feature_cache.manager import FeatureCache
from zoo.networks.head import find_head


@torch.no_grad()
def features(network: Network, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """The head's input `(N, D)`, in eval mode, for batches of inputs `(N, 3, H, W)`.

    Raises:
        UsageError: the head is not one module over vectors.
    """
    found: list[npt.NDArray[np.float32]] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0].float().cpu().numpy())

    handle = find_head(network).register_forward_pre_hook(keep)
    network.model.eval()
    try:
        for batch in batches:
            network.model(batch)
    finally:
        handle.remove()
    if found[0].ndim != 2:
        raise UsageError(
            f"the head of `{network.anatomy.backbone}` works on maps of features, not on one vector an image",
            hint="train it by steps: `linear,solver=sgd`",
        )
    return np.concatenate(found)


def cached_features(
    network: Network, trainable: Collection[str], views: AugmentedViews, cache: FeatureCache, title: str
) -> tuple[npt.NDArray[np.float32], dict[str, float]] | None:
    """The head's input for all images without augmentation, from the feature cache, and the seconds spent.

    None where the network cannot be split in front of the head.
    """
    split = cache.split(network, trainable)
    if split is None or [len(tensor.shape) for tensor in split.boundary] != [1]:
        return None
    plain = views.plain()
    outputs = cache.outputs(split, plain, epochs=0, views=1, title=title)
    outputs.prepare(0)
    count = len(plain.part.labels)
    found: npt.NDArray[np.float32] = outputs.take(np.arange(count), [0] * count)[0].float().cpu().numpy()
    spent = {"data": plain.drawing, "prefix": outputs.spent.prefix, "store": outputs.spent.store}
    return found, {name: round(seconds, 3) for name, seconds in spent.items()}
