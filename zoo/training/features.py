"""Features: what enters the head, for every image of a part."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.errors import UsageError
from zoo.feature_cache.loader import Views
from zoo.feature_cache.manager import Cutter
from zoo.networks.head import find_head


@torch.no_grad()
def features(network: Network, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """What enters the head, in eval mode: batches of inputs `(N, 3, H, W)` to features `(N, D)`.

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


def kept_features(
    network: Network, late: Collection[str], views: Views, cutter: Cutter, title: str
) -> tuple[npt.NDArray[np.float32], dict[str, float]] | None:
    """The same for all images of a part, unaugmented, as the rows of a frozen prefix, which may be stored; and seconds.

    None where the network cannot be cut in front of the head.
    """
    cut = cutter.cut(network, late)
    if cut is None or [len(end.shape) for end in cut.ends] != [1]:
        return None
    plain = views.plain()
    rows = cutter.rows(cut, plain, epochs=0, views=1, title=title)
    rows.prepare(0)
    count = len(plain.part.labels)
    found: npt.NDArray[np.float32] = rows.take(np.arange(count), [0] * count)[0].float().cpu().numpy()
    spent = {"data": plain.drawing, "prefix": rows.spent.prefix, "store": rows.spent.store}
    return found, {name: round(seconds, 3) for name, seconds in spent.items()}
