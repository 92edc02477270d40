"""One step: parts, memory that runs out, mixed images, the pull towards the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zoo import Experiment, Group, Phase, ZooError
from zoo.progress import Silent
from zoo.system.device import choose_device
from zoo.training.sampler import preserved_generators, seed_step
from zoo.training.step import Stepper, is_out_of_memory

E = Experiment(data="x", backbone="x", strategy="x", device="cpu", label_smoothing=0.0, clip=0.0)
PHASE = Phase(name="p", groups=(Group(stages=("head",)),), norm="frozen")


class Warned(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Net(nn.Module):
    """Runs out of memory above `room` images."""

    def __init__(self, room: int = 100) -> None:
        super().__init__()
        self.room, self.seen = room, []  # type: ignore[var-annotated]
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        x = self.norm(x)
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.fc(self.drop(x.flatten(1)))  # type: ignore[no-any-return]


def stepper(model: Net, progress: Any = None, **settings: Any) -> Stepper:
    return Stepper(
        model,
        experiment=replace(E, **settings),
        device=choose_device("cpu", "fp32"),
        classes=2,
        class_weights=None,
        progress=progress or Silent(),
    )


def net(room: int = 100) -> Net:
    torch.manual_seed(0)
    return Net(room)


IMAGES = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1] * 4)


def take(model: Net, it: Stepper, phase: Phase = PHASE, start: dict[str, torch.Tensor] | None = None) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return it.step(model, (IMAGES,), LABELS, optimizer, phase, epoch=3, batch=1, start=start or {})[0]


def test_out_of_memory_doubles_the_parts_and_warns_once() -> None:
    whole, small, progress = net(), net(room=2), Warned()
    for model in (whole, small):
        model.eval()  # without dropout, whose masks differ by the batch's shape
    first = take(whole, stepper(whole))
    it = stepper(small, progress)
    assert take(small, it) == pytest.approx(first, rel=1e-6)
    assert small.seen == [8, 4, 2, 2, 2, 2] and it.parts == 4
    assert progress.warnings == ["out of memory: a batch of 8 is now computed in 4 parts; the result is the same"]
    assert torch.allclose(small.fc.weight, whole.fc.weight, atol=1e-7)
    take(small, it)
    assert small.seen[6:] == [2, 2, 2, 2] and len(progress.warnings) == 1


def test_a_pass_that_failed_leaves_no_trace_in_the_statistics() -> None:
    phase = replace(PHASE, norm="train")
    counts = {}
    for room in (100, 4):
        model = net(room).train()
        it = stepper(model, accumulate=2)
        take(model, it, phase)
        counts[room] = (
            model.get_buffer("norm.num_batches_tracked").item(),
            model.get_buffer("norm.running_mean").clone(),
        )
    failed = net(room=4).train()
    it = stepper(failed)  # begins in one part, fails once
    take(failed, it, phase)
    assert counts[4][0] == failed.get_buffer("norm.num_batches_tracked").item() == 2
    assert torch.equal(counts[4][1], failed.get_buffer("norm.running_mean"))


@pytest.mark.parametrize(("norm", "words"), [("frozen", "one image at a time does"), ("train", "two images")])
def test_one_image_that_does_not_fit_is_told(norm: Any, words: str) -> None:
    model = net(room=0)
    with pytest.raises(ZooError, match=words) as error:
        take(model, stepper(model), replace(PHASE, norm=norm))
    assert "--image-size" in str(error.value.hint)


def test_other_errors_do_not_count_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shapes differ"))
    model = net()
    model.fc = nn.Linear(5, 2)
    with pytest.raises(RuntimeError, match="shapes"):
        take(model, stepper(model))


def test_the_pull_is_the_gradient_of_the_squared_distance() -> None:
    free, pulled = net().eval(), net().eval()
    start = {"fc.weight": torch.ones_like(free.fc.weight)}
    before = free.fc.weight.detach().clone()
    take(free, stepper(free))
    take(pulled, stepper(pulled), replace(PHASE, pull=0.5), start)
    expected = free.fc.weight - 0.1 * 0.5 * (before - start["fc.weight"])
    assert torch.allclose(pulled.fc.weight, expected, atol=1e-7)
    assert torch.equal(pulled.fc.bias, free.fc.bias)


@pytest.mark.parametrize("word", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_labels(word: str) -> None:
    model = net()
    asked: dict[str, Any] = {word: 1.0}
    phase = replace(PHASE, **asked)
    it = stepper(model)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    mixed, targets = it._mix(images, LABELS, phase)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    assert targets.shape == (8, 2) and torch.allclose(targets.sum(1), torch.ones(8))
    assert ((targets > 0.01) & (targets < 0.99)).any()
    single, label = it._mix(IMAGES[:1], LABELS[:1], phase)
    assert torch.equal(single, IMAGES[:1]) and torch.equal(label, LABELS[:1])


def test_mixup_and_cutmix_are_drawn_at_random() -> None:
    it = stepper(net())
    both = replace(PHASE, mixup=1.0, cutmix=1.0)
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed, _ = it._mix(IMAGES, LABELS, both)
        whole = (mixed == IMAGES).flatten(1).any(1) | (mixed == IMAGES.roll(1, 0)).flatten(1).any(1)
        kinds.add("cutmix" if whole.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_randomness_of_a_step_depends_on_its_position() -> None:
    def draws(*place: int) -> list[float]:
        seed_step(*place)
        return [float(torch.rand(1)), float(np.random.rand())]

    with preserved_generators():
        first = draws(0, 1, 2)
        torch.rand(100), np.random.rand(5)
        assert draws(0, 1, 2) == first
        others = [draws(1, 1, 2), draws(0, 2, 2), draws(0, 1, 3), draws(0, 2, 1)]
    assert all(other[0] != first[0] and other[1] != first[1] for other in others)


def test_training_leaves_the_generators_as_they_were() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = (float(torch.rand(1)), float(np.random.rand()))
    torch.manual_seed(7)
    np.random.seed(7)
    with preserved_generators():
        seed_step(1, 2, 3)
    assert (float(torch.rand(1)), float(np.random.rand())) == expected
