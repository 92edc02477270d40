"""Probing: how well a network's features separate the classes after each stage, by linear probes on stage outputs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network
from zoo.training.held_out_folds import held_out, held_out_folds

PENALTIES = tuple(float(value) for value in np.logspace(-1, 5, 13))
WIDEST = 2048  # most features of a stage; more are averaged in groups: VGG has 25,088 before its classifier


class StageRecorder:
    """Hooks that keep the outputs of each stage, averaged over positions, inside a `with` block."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.kept: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in network.anatomy.names}
        self._last: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> StageRecorder:
        modules = dict(self.network.model.named_modules())
        for stage in self.network.anatomy.stages:
            whole = modules.get(stage.name)
            # the output of a stage is that of the module of its name, or else that of its last layer that runs
            paths = {name.rpartition(".")[0] for name in stage.parameters}
            for module in [whole] if whole is not None else [modules[path] for path in paths]:
                self._handles.append(module.register_forward_hook(self._hook(stage.name)))
        return self

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, (tuple, list)):
                output = next((one for one in output if isinstance(one, torch.Tensor)), None)
            if isinstance(output, torch.Tensor):
                self._last[name] = output

        return keep

    @torch.no_grad()
    def record(self, batch: torch.Tensor) -> None:
        """Run the network on inputs `(N, 3, H, W)` and keep the outputs of its stages."""
        self._last.clear()
        self.network.model(batch)
        for name, value in self._last.items():
            self.kept[name].append(pooled(value, len(batch)).cpu().numpy())

    def features(self) -> dict[str, npt.NDArray[np.float64]]:
        """Features `(N, D)` of each stage that had outputs, from input to output."""
        return {name: np.concatenate(rows).astype(np.float64) for name, rows in self.kept.items() if rows}

    def __exit__(self, *details: object) -> None:
        for handle in self._handles:
            handle.remove()


def pooled(value: torch.Tensor, count: int) -> torch.Tensor:
    """Outputs of a stage for `count` images, averaged over positions: `(N, D)`.

    Maps are `(N, D, H, W)`; they are taken as `(N, H, W, D)` where the second and third dimension are equal and the
    last is not. Tokens are `(N, L, D)`. Where the first dimension holds several windows of an image, they are averaged.
    """
    value = value.float()
    if value.ndim == 4:
        last = value.shape[1] == value.shape[2] != value.shape[3]
        value = value.mean((1, 2)) if last else value.mean((2, 3))
    elif value.ndim == 3:
        value = value.mean(1)
    elif value.ndim != 2:
        value = value.flatten(1)
    if len(value) != count:
        value = value.view(count, -1, value.shape[-1]).mean(1)
    if value.shape[1] > WIDEST:
        value = nn.functional.adaptive_avg_pool1d(value, WIDEST)
    return value


def probe(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    seed: int = 0,
    groups: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which images a linear probe classifies correctly when they are held out, in `zoo.solver.held_out_folds`.

    Returns a value for each image that is held out in one of the folds, in order: `(N,)`, or fewer where a class has
    one image, which never is.

    The probe is ridge regression on one-hot labels. Its penalty is chosen within each fold by leave-one-out validation
    (Golub et al. 1979). Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".

    Args:
        features: features `(N, D)`.
        labels: class indices `(N,)`; two classes at least have two images.
        seed: of the division into folds.
        groups: numbers `(N,)`; images of one group are in one fold. None: each is alone.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds, _ = held_out_folds(labels, seed, groups)
    right: npt.NDArray[np.bool_] = np.zeros(len(labels), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about features that are constant in a fold
        for fit, held in folds:
            fitted = make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES)).fit(features[fit], labels[fit])
            right[held] = fitted.predict(features[held]) == labels[held]
    return right[held_out(folds)]
