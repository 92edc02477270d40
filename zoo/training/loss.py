"""The loss of a batch: what the chosen loss gives for each image, checked, weighted and summed."""

from __future__ import annotations

import torch

from zoo.config.choice import Choice
from zoo.errors import Diverged, ZooError, first_line
from zoo.loss import Targets

MEND = "the plugin must be mended; `zoo plugins` names its distribution"
# Logits so small cannot make a right loss infinite
SMALL = 1e4


class BatchLoss:
    """The summed loss of a batch.

    Args:
        choice: the loss.
        class_weights: `(classes,)` on the device; None: all 1.
        smoothing: share of each label that is spread evenly over all classes.
    """

    def __init__(self, choice: Choice, class_weights: torch.Tensor | None, smoothing: float) -> None:
        self.choice = choice
        self.class_weights = class_weights
        self.smoothing = smoothing
        self._function = choice.function(2)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of logits `(N, classes)`, summed over images.

        Args:
            logits: float32.
            labels: `(N,)` class indices, or `(N, classes)` shares of mixed labels.

        Raises:
            Diverged: it is not finite although the logits are small.
            ZooError: the loss fails, or gives something other than one differentiable value for each image.
        """
        targets = Targets(
            labels=labels, classes=logits.shape[1], smoothing=self.smoothing, class_weights=self.class_weights
        )
        try:
            values = self._function(logits, targets)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if "can't allocate memory" in str(error):
                raise
            raise ZooError(
                f"loss `{self.choice}` failed: {type(error).__name__}: {first_line(error)}", hint=MEND
            ) from error
        if not isinstance(values, torch.Tensor) or values.shape != logits.shape[:1]:
            shape = tuple(values.shape) if isinstance(values, torch.Tensor) else f"a `{type(values).__name__}`"
            raise ZooError(
                f"loss `{self.choice}` gives {shape} for {len(logits)} images, not one value for each", hint=MEND
            )
        if values.is_complex():
            raise ZooError(f"loss `{self.choice}` gives complex numbers", hint=MEND)
        if logits.requires_grad and not values.requires_grad:
            raise ZooError(f"loss `{self.choice}` has no gradient", hint=MEND)
        if self.class_weights is not None and not self.choice.entry.value.weighted:
            values = values * targets.weights
        return values.sum()

    def check(self, value: float, logits: torch.Tensor) -> None:
        """Check whether a `value` that is not finite is the fault of the loss.

        Raises:
            Diverged: the logits `(N, classes)` are small, so that it is.
        """
        if float(logits.detach().abs().max()) < SMALL:  # False for NaN
            raise Diverged(f"loss `{self.choice}` is {value} although all logits are small", hint=MEND)
