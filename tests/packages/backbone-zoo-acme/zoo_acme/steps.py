"""An augmentation and a loss."""

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
