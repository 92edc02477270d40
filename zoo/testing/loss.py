"""The laws of losses."""

from __future__ import annotations

import torch

from zoo.config.choice import choose
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.testing.law import CLASSES, IMAGES, ROUNDING, Violation, require
from zoo.training.loss import BatchLoss


def check_loss(loss: str, *, plugins: Plugins | None = None) -> None:
    """Check a loss for class indices and mixed labels, with and without smoothing and class weights.

    It gives one finite value for each image, also for large logits. The value of an image, and its finite gradient, do
    not depend on the other images. A label that is not mixed is the mixture of itself. A step against the gradient
    lowers it.

    Args:
        loss: Its text, as `--loss` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    choice = choose(loss, plugins.losses, plugins)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(IMAGES) % CLASSES
    whole = torch.nn.functional.one_hot(labels, CLASSES).float()
    for smoothing in (0.0, 0.1):
        for weights in (None, torch.tensor([0.5, 1.0, 2.0])):
            given = BatchLoss(choice, weights, smoothing)
            where = f"`{loss}` with a smoothing of {smoothing}{' and class weights' if weights is not None else ''}"
            for scale in (0.0, 1.0, 50.0):
                logits = (scale * torch.randn(IMAGES, CLASSES, generator=generator)).requires_grad_()
                for wanted in (labels, whole, (whole + whole.roll(1, 0)) / 2):
                    _check_loss(given, logits, wanted, where)
                alike = [float(given(logits, one).detach()) for one in (labels, whole)]
                require(
                    abs(alike[0] - alike[1]) <= ROUNDING * max(1.0, abs(alike[0])),
                    f"{where} gives {alike[0]:g} for labels and {alike[1]:g} for the same as shares",
                )


def _check_loss(loss: BatchLoss, logits: torch.Tensor, labels: torch.Tensor, where: str) -> None:
    try:
        total = loss(logits, labels)
        (gradient,) = torch.autograd.grad(total, logits)
        parts = [loss(logits[place : place + 1], labels[place : place + 1]) for place in range(len(logits))]
        alone = [torch.autograd.grad(part, logits)[0] for part in parts]
    except ZooError as error:
        raise Violation(f"{where}: {error.message}") from error
    require(bool(total.isfinite()), f"{where} is {float(total.detach())}")
    require(bool(gradient.isfinite().all()), f"{where} has a gradient that is not finite")
    require(
        bool(torch.allclose(total, torch.stack(parts).sum(), rtol=ROUNDING, atol=ROUNDING))
        and bool(torch.allclose(gradient, torch.stack(alone).sum(0), rtol=ROUNDING, atol=ROUNDING)),
        f"{where}: the value of an image depends on other images",
    )
    norm = float(gradient.norm())
    if norm > ROUNDING:
        lower = float(loss(logits - 1e-2 / norm * gradient, labels).detach())
        require(lower <= float(total.detach()), f"{where}: a step against its gradient raises it")
