"""Features: the head's input for every image of a split."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.data.decoding import allocate
from zoo.errors import UsageError
from zoo.feature_cache.loader import AugmentedViews
from zoo.feature_cache.manager import FeatureCache
from zoo.networks.head import find_head

BLOCK = 4096  # images whose features are read from the store at a time


@torch.no_grad()
def features(network: Network, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """The head's input `(N, D)`, in eval mode, for batches of inputs `(N, 3, H, W)`.

    Raises:
        UsageError: the head is not one module that takes one vector per image.
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
            f"the head of `{network.anatomy.backbone}` takes maps of features, not one vector per image",
            hint="train it by optimiser steps: `linear,solver=sgd`",
        )
    return np.concatenate(found)


def allocate_features(count: int, width: int) -> npt.NDArray[np.float32]:
    """An uninitialised array `(count, width)`: in memory up to 256 MiB, else mapped to an unnamed temporary file.

    In memory as well where no file has room.
    """
    found = allocate((count, width * np.dtype(np.float32).itemsize))
    return np.empty((count, width), np.float32) if found is None else found.view(np.float32)


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
    found = allocate_features(count, split.boundary[0].shape[0])
    for start in range(0, count, BLOCK):
        indices = np.arange(start, min(start + BLOCK, count))
        found[start : start + BLOCK] = outputs.take(indices, [0] * len(indices))[0].float().cpu().numpy()
    spent = {"data": plain.drawing, "prefix": outputs.spent.prefix, "store": outputs.spent.store}
    return found, {name: round(seconds, 3) for name, seconds in spent.items()}
