"""One step: parts, memory that runs out, mixed images, the pull towards the start."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo import Experiment, Group, Loss, Phase, ZooError
from zoo.catalogue import Entry
from zoo.config.choice import Choice, choose
from zoo.errors import Diverged
from zoo.plugin import Plugins
from zoo.progress import Silent
from zoo.system.device import choose_device
from zoo.training.loss import BatchLoss
from zoo.training.sampler import class_weights, preserved_generators, seed_step
from zoo.training.step import Stepper, is_out_of_memory

E = Experiment(data="x", backbone="x", strategy="x", device="cpu", label_smoothing=0.0, clip=0.0)
PLUGINS = Plugins()
LOSS = choose("cross-entropy", PLUGINS.losses, PLUGINS)
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
        loss=LOSS,
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


@pytest.mark.parametrize(("images", "room", "seen"), [(5, 1, [1] * 5), (7, 1, [1] * 7), (3, 2, [2, 1])])
def test_a_batch_of_any_size_is_cut_down_to_single_images(images: int, room: int, seen: list[int]) -> None:
    model, progress = net(room), Warned()
    it = stepper(model.eval(), progress)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    it.step(model, (IMAGES[:images],), LABELS[:images], optimizer, PHASE, epoch=0, batch=0, start={})
    assert model.seen[-len(seen) :] == seen
    assert f"a batch of {images} is now computed in {len(seen)} parts" in progress.warnings[0]


def test_each_part_draws_its_own_dropout() -> None:
    masks: list[torch.Tensor] = []
    model = net().train()
    model.drop.register_forward_hook(lambda _module, _inputs, output: masks.append(output == 0))
    take(model, stepper(model, accumulate=4))
    assert len({mask.numpy().tobytes() for mask in masks}) == 4


def test_what_follows_the_parts_is_told_when_memory_runs_out() -> None:
    model, progress = net(room=4).train(), Warned()
    take(model, stepper(model, progress), replace(PHASE, norm="train"))
    model.drop = nn.Dropout(0.5)
    take(model, stepper(model, progress))
    model.drop = nn.Dropout(0.0)
    take(model, stepper(model, progress))
    take(model, stepper(model, progress), replace(PHASE, bss=0.1))
    assert [text.split("; ")[1] for text in progress.warnings] == [
        "the gradient is the same, but batch norms see the parts and dropout draws for each part",
        "the gradient is the same, but dropout draws for each part",
        "the result is the same",
        "the gradient is the same, but `bss=` sees the parts",
    ]


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


def test_a_pass_that_failed_leaves_no_trace_in_what_is_drawn_at_random() -> None:
    """Dropout draws before memory runs out, and the step is that of a batch in two parts from the beginning."""

    class Drawn(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.drop(x))

    found = []
    for room, accumulate in ((4, 1), (100, 2)):
        torch.manual_seed(0)
        model = Drawn(room).train()
        it = stepper(model, accumulate=accumulate)
        take(model, it)
        assert it.parts == 2
        found.append(model.fc.weight.detach())
    assert torch.equal(*found)


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


class Small(nn.Module):
    """Three classes, a body that is pulled and a head that is not; no layer whose result depends on other images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3 * 4 * 4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.flatten(1)).tanh())  # type: ignore[no-any-return]


RARE = np.array(
    [0, 0, 0, 0, 1, 1, 0, 2, 0]
)  # a batch, of data with other shares: the weights do not add up to its size
DATA = np.array([0] * 10 + [1] * 7 + [2] * 4)
PAIRED: dict[str, tuple[Any, Any]] = {
    "class_balance": ("none", "loss"),
    "label_smoothing": (0.0, 0.3),
    "mixup": (None, 0.7),
    "cutmix": (None, 0.7),
    "accumulate": (1, 4),
    "clip": (0.0, 0.05),
    "pull": (0.0, 0.4),
}


def parameters(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone().to(dtype) for name, value in model.named_parameters()}


def every_three_meet(places: tuple[int, ...]) -> bool:
    """Whether a choice is of the 16 in which any three settings meet in all ways: the design 2^(7-3), resolution IV."""
    a, b, c, d, e, f, g = places
    return (e, f, g) == (a ^ b ^ c, b ^ c ^ d, a ^ c ^ d)


# All 128 in `slow`
STEPS = [
    pytest.param(
        tuple(values[place] for values, place in zip(PAIRED.values(), places)),
        marks=() if every_three_meet(places) else pytest.mark.slow,
    )
    for places in product((0, 1), repeat=len(PAIRED))
]


@pytest.mark.parametrize("asked", STEPS, ids=str)
def test_all_settings_of_the_loss_together_take_the_step_of_their_definitions(asked: tuple[Any, ...]) -> None:
    """One step against the definitions, written out in double precision, image by image and class by class."""
    wanted = dict(zip(PAIRED, asked))
    model = Small()
    settings = {name: wanted[name] for name in ("class_balance", "label_smoothing", "accumulate", "clip")}
    experiment = replace(E, batch_size=9, **settings)
    phase = replace(PHASE, mixup=wanted["mixup"], cutmix=wanted["cutmix"], pull=wanted["pull"])
    it = Stepper(
        model,
        experiment=experiment,
        device=choose_device("cpu", "fp32"),
        classes=3,
        loss=LOSS,
        class_weights=class_weights(DATA, experiment),
        progress=Silent(),
    )
    images, labels = torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.from_numpy(RARE)
    inputs, targets = images, nn.functional.one_hot(labels, 3).double()
    if phase.mixup or phase.cutmix:  # what is mixed is chance, and tested by itself
        with preserved_generators():
            seed_step(experiment.seed, 3, 1)
            inputs, mixed = it._mix(images, labels, phase)
        targets = mixed.double()
        assert targets.shape == (9, 3) and not torch.equal(inputs, images)
    pulled = [name for name in parameters(model) if name.startswith("body")]
    start = {name: torch.full_like(value, 0.1) for name, value in parameters(model).items() if name in pulled}

    before = parameters(model, torch.double)
    double = Small().double()
    shares = double(inputs.double()).log_softmax(1)
    weights = [21 / (3 * count) if experiment.class_balance == "loss" else 1.0 for count in (10, 7, 4)]
    smoothing, total, divisor = experiment.label_smoothing, torch.zeros((), dtype=torch.double), 0.0
    for image in range(9):
        for k in range(3):
            smoothed = (1 - smoothing) * -shares[image, k] + smoothing * -shares[image].mean()
            total = total + targets[image, k] * weights[k] * smoothed
            divisor += float(targets[image, k]) * weights[k]
    (total / divisor).backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in double.named_parameters() if value.grad is not None}
    for name in pulled if phase.pull else ():
        gradients[name] += phase.pull * (before[name] - start[name].double())
    norm = float(torch.cat([value.flatten() for value in gradients.values()]).norm())
    assert norm > 0.05
    scale = min(1.0, experiment.clip / norm) if experiment.clip else 1.0

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with preserved_generators():
        loss, _ = it.step(
            model, (images,), labels, optimizer, phase, epoch=3, batch=1, start=start if phase.pull else {}
        )
    assert loss == pytest.approx(float(total.detach()) / divisor, rel=1e-5)
    for name, value in parameters(model, torch.double).items():
        assert torch.allclose(value, before[name] - 0.5 * scale * gradients[name], atol=2e-6), name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.floats(0, 0.9),
    st.integers(0, 1000),
)
def test_a_weight_is_worth_as_many_copies_of_the_image(
    labels: list[int], weights: tuple[int, int, int], smoothing: float, seed: int
) -> None:
    found = torch.tensor(labels)
    logits = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    counts = torch.tensor(weights)
    copies = counts[found]
    weighted = BatchLoss(LOSS, counts.double(), smoothing)(logits, found)
    repeated = BatchLoss(LOSS, None, smoothing)(logits.repeat_interleave(copies, 0), found.repeat_interleave(copies))
    assert float(weighted) == pytest.approx(float(repeated))
    # a label that is not mixed is the mixture of itself
    whole = nn.functional.one_hot(found, 3).double()
    assert float(BatchLoss(LOSS, counts.double(), smoothing)(logits, whole)) == pytest.approx(float(weighted))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_that_can_be_separated_are_separated_however_rare_one_is(smoothing: float) -> None:
    labels = np.array([0] * 80 + [1] * 2)
    inputs = torch.randn(82, 4, generator=torch.Generator().manual_seed(0)) * 0.3
    inputs[:, 0] += torch.from_numpy(np.where(labels, 2.0, -2.0)).float()
    experiment = replace(E, batch_size=82, class_balance="loss", label_smoothing=smoothing)
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    it = Stepper(
        model,
        experiment=experiment,
        device=choose_device("cpu", "fp32"),
        classes=2,
        loss=LOSS,
        class_weights=class_weights(labels, experiment),
        progress=Silent(),
    )
    optimizer, right = torch.optim.SGD(model.parameters(), lr=0.5), 0
    for batch in range(100):
        _, right = it.step(model, (inputs,), torch.from_numpy(labels), optimizer, PHASE, epoch=0, batch=batch, start={})
    assert right == 82


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_and_bce_are_their_definitions_with_every_setting(mixed: bool, weighted: bool, smoothing: float) -> None:
    """Image by image and class by class; a mixed image is the sum of its labels, each with its class's weight."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.double)
    labels = torch.tensor([0, 1, 2, 1, 0])
    shares = torch.rand(5, 3, generator=generator).softmax(1) if mixed else nn.functional.one_hot(labels, 3).float()
    weights = torch.tensor([0.5, 1.0, 2.5]) if weighted else None
    focal = bce = 0.0
    for row, image in zip(shares.double().tolist(), logits):
        p, q = image.softmax(0).tolist(), image.sigmoid().tolist()
        for label, share in enumerate(row):
            counts = share * (float(weights[label]) if weights is not None else 1.0)
            for k in range(3):
                wanted = (1 - smoothing) * (k == label) + smoothing / 3
                focal += counts * wanted * (1 - p[k]) ** 1.5 * -math.log(p[k])
                bce -= counts * (wanted * math.log(q[k]) + (1 - wanted) * math.log(1 - q[k]))
    for text, expected in (("focal:1.5", focal), ("bce", bce)):
        loss = BatchLoss(choose(text, PLUGINS.losses, PLUGINS), weights, smoothing)
        assert float(loss(logits.float(), shares if mixed else labels)) == pytest.approx(expected, rel=1e-5), text


def wrong(give: Any) -> BatchLoss:
    row = Loss(name="mine", summary="x", target=lambda logits, targets: give(logits))
    return BatchLoss(Choice(entry=Entry("acme", row), noun="loss", values={}), None, 0.0)


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda logits: logits.mean(), r"gives \(\) for 8 images"),
        (lambda logits: logits.mean(0), r"gives \(2,\) for 8 images"),
        (lambda logits: None, "gives a `NoneType`"),
        (lambda logits: logits.detach().sum(1), "has no gradient"),
        (lambda logits: logits.no_such, "failed: AttributeError"),
    ],
)
def test_a_wrong_loss_is_named(give: Any, told: str) -> None:
    with pytest.raises(ZooError, match=f"loss `acme/mine` {told}"):
        wrong(give)(torch.zeros(8, 2, requires_grad=True), LABELS)


def test_a_loss_that_is_not_a_number_is_told_from_divergence() -> None:
    model = net()
    it = stepper(model)
    it.loss = wrong(lambda logits: logits.sum(1) * float("nan"))
    with pytest.raises(Diverged, match="loss `acme/mine` is nan although all logits are small"):
        take(model, it)
