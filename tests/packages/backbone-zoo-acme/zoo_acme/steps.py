"""An augmentation, a loss, an optimizer and a schedule."""

import torch


def grey(canvas, size, fill, share):
    """`(3, H, W)` uint8 to `(3, h, w)` uint8; random numbers come from torch's generator, which is seeded."""
    top, left = ((have - want) // 2 for have, want in zip(canvas.shape[1:], size))
    view = canvas[:, top : top + size[0], left : left + size[1]]
    if torch.rand(()) < share:
        view = view.float().mean(0).to(torch.uint8).expand_as(view).clone()
    return view


def distance(logits, targets, power):
    """Logits `(N, classes)` to a value for each image `(N,)`."""
    return (logits.softmax(1) - targets.shares).abs().pow(power).sum(1)


class Signs(torch.optim.Optimizer):
    """A step changes each weight by the rate, in the direction of the mean gradient."""

    def __init__(self, groups, beta):
        super().__init__(groups, {"beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["beta"])
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean.sign())


def falling(step, steps, power):
    """The share of the steps that are left, to a power."""
    return (1 - step / steps) ** power
