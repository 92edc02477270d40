"""Losses: what an optimiser step lowers, as one value for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.option import Option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss that a plugin registers.

    Attributes:
        name: What `--loss` takes.
        summary: One line for `zoo list losses`.
        target: `(logits, targets, **options) -> values`, as a callable or as `"module:function"`. Logits are `(N,
            classes)` float32, targets a `zoo.loss.Targets`, values `(N,)`. The gradient is that of their mean.
        options: Options, which the function receives by name.
        weighted: Whether the function itself counts each label with the weight of its class, by
            `Targets.weighted_shares`. Otherwise each image's value is multiplied by its weight.
        ordered: Whether classes that follow each other are closer than others. A run then says in which order it takes
            them, and refuses numbers that are out of order.
    """

    name: str
    summary: str
    target: str | Callable[..., Any] = field(repr=False)
    options: tuple[Option, ...] = ()
    weighted: bool = False
    ordered: bool = False


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the logits of a batch should be.

    Attributes:
        labels: `(N,)` class indices, or `(N, classes)` shares of the labels of mixed images, before smoothing.
        classes: Number of classes.
        smoothing: Share of each label that is spread evenly over all classes.
        class_weights: `(classes,)`, from `--class-balance loss`. None: all 1.
    """

    labels: torch.Tensor
    classes: int
    smoothing: float = 0.0
    class_weights: torch.Tensor | None = None

    @property
    def mixed(self) -> bool:
        """Whether images are mixed, so that `labels` are shares."""
        return self.labels.ndim == 2

    @property
    def shares(self) -> torch.Tensor:
        """Smoothed shares of the classes `(N, classes)`; each row adds up to 1."""
        return self._smoothed(self._whole())

    @property
    def weighted_shares(self) -> torch.Tensor:
        """Smoothed shares `(N, classes)`, each label counted with its class's weight; a row adds up to the weight."""
        whole = self._whole()
        return self._smoothed(whole if self.class_weights is None else whole * self.class_weights)

    @property
    def weights(self) -> torch.Tensor:
        """The weight of each image `(N,)`: that of its class, or the mean of those that it is mixed of."""
        if self.class_weights is None:
            return self.labels.new_ones(len(self.labels), dtype=self._dtype)
        return self.labels @ self.class_weights if self.mixed else self.class_weights[self.labels]

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return torch.float32 if self.class_weights is None else self.class_weights.dtype

    def _whole(self) -> torch.Tensor:
        from torch.nn.functional import one_hot

        return self.labels if self.mixed else one_hot(self.labels, self.classes).to(self._dtype)

    def _smoothed(self, shares: torch.Tensor) -> torch.Tensor:
        spread = self.smoothing / self.classes * shares.sum(1, keepdim=True)
        return (1 - self.smoothing) * shares + spread
