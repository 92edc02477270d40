"""Depth: what a network knows of photographs after each of its stages, by a linear probe on what comes out of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zoo.backbone import Network

FOLDS = 5
PENALTIES = tuple(float(value) for value in np.logspace(-1, 5, 13))
WIDEST = 2048  # features of a stage; more are averaged in groups: VGG's last map has 25,088 before its classifier


class Watch:
    """Hooks on a network that keep what comes out of each stage, averaged over places, while images pass through."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.kept: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in network.anatomy.names}
        self._last: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        modules = dict(self.network.model.named_modules())
        for stage in self.network.anatomy.stages:
            whole = modules.get(stage.name)
            # a stage that is one module is what that module gives; else what the last of its layers gives
            paths = {name.rpartition(".")[0] for name in stage.parameters}
            for module in [whole] if whole is not None else [modules[path] for path in paths]:
                self._handles.append(module.register_forward_hook(self._keeper(stage.name)))
        return self

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, (tuple, list)):
                output = next((one for one in output if isinstance(one, torch.Tensor)), None)
            if isinstance(output, torch.Tensor):
                self._last[name] = output

        return keep

    @torch.no_grad()
    def see(self, batch: torch.Tensor) -> None:
        """Pass inputs `(N, 3, H, W)` through."""
        self._last.clear()
        self.network.model(batch)
        for name, value in self._last.items():
            self.kept[name].append(pooled(value, len(batch)).cpu().numpy())

    def features(self) -> dict[str, npt.NDArray[np.float64]]:
        """What was kept, `(N, D)`, of each stage that gave anything, input to output."""
        return {name: np.concatenate(rows).astype(np.float64) for name, rows in self.kept.items() if rows}

    def __exit__(self, *details: object) -> None:
        for handle in self._handles:
            handle.remove()


def pooled(value: torch.Tensor, count: int) -> torch.Tensor:
    """What a stage gives, averaged over places: `(N, D)`.

    Maps are `(N, D, H, W)`, or `(N, H, W, D)` where the two in the middle are alike and the last is not; tokens are
    `(N, L, D)`; windows of one image that stand in the first dimension are averaged as well.
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


def probe(features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], *, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which images a linear probe gets right when they are held out, `(N,)`: ridge regression on one-hot labels.

    Its penalty is chosen inside each of five folds, by leaving one out (Golub et al. 1979).
    Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, int(np.bincount(labels).min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are constant in a fold
        said = cross_val_predict(
            make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES)),
            features,
            labels,
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        )
    right: npt.NDArray[np.bool_] = said == labels
    return right
