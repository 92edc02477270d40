"""Laws of augmentations, losses, optimizers and schedules, which `zoo.testing` offers to the tests of a plugin."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence

import torch
from torch import nn

from zoo.config.choice import choose
from zoo.data.augmentation import BadView, draw_views, drawing_of, make_view
from zoo.errors import ZooError
from zoo.plugin import Plugins
from zoo.preprocess import Colour, ImageSize, height_width
from zoo.storage.files import json_text
from zoo.training.loss import BatchLoss
from zoo.training.lr_schedule import RateSchedule
from zoo.training.optimizer import ParameterGroup, make_optimizer, take_step
from zoo.training.optimizer_state import pack, unpack

CLASSES = 3
IMAGES = 9  # in batches of 4, one image remains and joins the batch before it
# Largest difference of a logit between two networks that compute the same, as a share of the largest logit (at least 1)
ROUNDING = 1e-3
STEPS = 6
RATE = 1e-2


def check_augmentation(
    augmentation: str, *, image_size: ImageSize = 32, fill: Colour | None = None, plugins: Plugins | None = None
) -> None:
    """Check an augmentation on canvases of noise, of one colour, and as large as the view.

    A view is `(3, h, w)` uint8. The same image and view give the same bits, whatever was drawn before; views differ if
    it is random, and are equal if it is not. The canvas is left as it was.

    Args:
        augmentation: Its text, as `--augment` takes it.
        image_size: Of the view, in pixels: a number, or height and width.
        fill: The colour around padded images. None: they are not padded.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    drawing = drawing_of(choose(augmentation, plugins.augmentations, plugins))
    make = make_view(drawing, image_size, fill)
    height, width = height_width(image_size)
    noise = torch.randint(0, 256, (4, 3, height + 8, width + 4), dtype=torch.uint8)
    for canvases in (noise, torch.full_like(noise, 128), noise[:, :, :height, :width].contiguous()):
        before = canvases.clone()
        asked = [(place, 0) for place in range(len(canvases))]
        try:
            first = draw_views(canvases, asked, make, 0)
            again = draw_views(canvases.flip(0), asked[::-1], make, 0).flip(0)
        except BadView as error:
            raise AssertionError(f"`{augmentation}` {error} for image {error.place}") from error
        require(torch.equal(canvases, before), f"`{augmentation}` changes the canvas that it is given")
        require(torch.equal(first, again), f"`{augmentation}`: a view depends on more than its image and number")
    views = [draw_views(noise, [(0, view)] * len(noise), make, 0) for view in range(16)]
    differ = any(not torch.equal(view, views[0]) for view in views)
    require(differ or not drawing.random, f"`{augmentation}`: 16 views of an image are equal")
    require(drawing.random or not differ, f"`{augmentation}` is not `random`, but its views differ")


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
        raise AssertionError(f"{where}: {error.message}") from error
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


def check_optimizer(optimizer: str, *, plugins: Plugins | None = None) -> None:
    """Check an optimizer on a small network with a kernel, a matrix, vectors and a number.

    It changes the parameters that it is given and no others, and none that has no gradient. A group at a tenth of the
    rate changes less, and weight decay has an effect. Steps lower a loss, and gradients of 0 leave finite weights. Its
    state, saved after any step and loaded into another optimizer, continues with the same bits.

    Args:
        optimizer: Its text, as `--optimizer` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    choice = choose(optimizer, plugins.optimizers, plugins)
    try:
        _check_changes(_Training(optimizer, plugins), optimizer)
        _check_groups(_Training(optimizer, plugins), optimizer)
        for saved in (1, STEPS // 2):
            _check_state(_Training(optimizer, plugins), saved, optimizer)
        still = _Training(optimizer, plugins)
        still.step(1, scale=0.0)
        still.step(2)
    except ZooError as error:
        raise AssertionError(error.message) from error
    finite = all(bool(value.isfinite().all()) for value in still.model.parameters())
    require(finite, f"`{choice}`: a step with gradients of 0 makes weights that are not finite")


def check_schedule(schedule: str, *, plugins: Plugins | None = None) -> None:
    """Check a schedule in phases of 1 to 1,000,000 steps, with and without a warm-up.

    Each factor is a finite number of 0 or more, the same whenever it is asked for, and one is above 0. If it follows
    the validation loss, so is the factor after each epoch, whether losses fall, rise or are not finite.

    Args:
        schedule: Its text, as `--schedule` takes it.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    choice = choose(schedule, plugins.schedules, plugins)
    try:
        for warmup in (0.0, 0.2, 0.9):
            given = RateSchedule(choice, warmup)
            for steps in (1, 2, 3, 10, 101, 1_000_000):
                asked = range(0, steps, max(steps // 101, 1))
                factors = [given.factor(step, steps) for step in (*asked, steps - 1)]
                again = [given.factor(step, steps) for step in reversed((*asked, steps - 1))]
                require(factors == again[::-1], f"`{schedule}`: a factor depends on more than the step")
                require(max(factors) > 0, f"`{schedule}` is 0 at all of {steps} steps")
        for losses in ([3.0, 2.0, 1.0, 0.5, 0.4], [1.0, 2.0, 3.0, 4.0, 5.0], [math.nan] * 5, [math.inf, 1.0, 1.0, 1.0]):
            lowered = [given.lowered(losses[:count]) for count in (1, 2, 3, 4, 3, 2, 1)]
            require(lowered == lowered[::-1], f"`{schedule}`: the factor depends on more than the losses")
    except ZooError as error:
        raise AssertionError(error.message) from error


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 4, 3)
        self.kernel = nn.Conv2d(4, 8, 3, bias=False)  # a norm takes any bias off
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.kernel(self.frozen(images))).relu().mean((2, 3))
        answer: torch.Tensor = self.head(self.scale * found)
        return answer


class _Training:
    """A small network on images of noise, and an optimizer of all but a frozen layer."""

    def __init__(self, text: str, plugins: Plugins) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.model = _Network().to(memory_format=torch.channels_last)
            self.images = torch.randn(9, 3, 8, 8)
        self.model.frozen.requires_grad_(False)
        self.labels = torch.arange(9) % 3
        self.text, self.plugins = text, plugins
        self.optimizer = self._optimizer(self.model)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = (
            ParameterGroup(names=("kernel.weight",), lr=RATE / 10, weight_decay=0.01),
            ParameterGroup(names=("norm.weight", "norm.bias"), lr=RATE / 10, weight_decay=0.0),
            ParameterGroup(names=("head.weight",), lr=RATE, weight_decay=0.01),
            ParameterGroup(names=("head.bias", "scale", "unused"), lr=RATE, weight_decay=0.0),
        )
        return make_optimizer(model, groups, choose(self.text, self.plugins.optimizers, self.plugins))

    def loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.images), self.labels)

    def step(self, number: int, scale: float = 1.0) -> None:
        """Take a step, at a rate of its own, with gradients that are multiplied."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * number / STEPS
        self.optimizer.zero_grad(set_to_none=True)
        (scale * self.loss()).backward()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(number)
            take_step(self.optimizer, self.text)

    def reloaded(self) -> _Training:
        """A copy with the optimizer's state as a checkpoint has it."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = self._optimizer(other.model)
        tensors, described = pack(self.optimizer, self.text)
        kept = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        unpack(other.optimizer, kept, json.loads(json_text(described)), self.text)
        return other


def _check_changes(training: _Training, text: str) -> None:
    before, first = _weights(training.model), float(training.loss().detach())
    for number in range(1, 5 * STEPS):
        training.step(min(number, STEPS))
    after = _weights(training.model)
    given = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in training.model.named_parameters():
        changed = not torch.equal(before[name], after[name])
        if id(parameter) not in given:
            require(not changed, f"`{text}` changes a parameter that it is not given")
        elif parameter.grad is None:
            require(not changed, f"`{text}` changes a parameter without a gradient")
        else:
            require(changed, f"`{text}` does not change `{name}`, of shape {tuple(parameter.shape)}")
    last = float(training.loss().detach())
    require(last < first, f"`{text}`: after {5 * STEPS} steps the loss is {last:g}, and was {first:g} at first")


def _check_groups(training: _Training, text: str) -> None:
    """Three equal matrices with the same gradient: one as it is, one at a tenth of the rate, one with weight decay."""
    model = nn.Module()
    start, gradient = training.model.head.weight.detach(), torch.linspace(-1, 1, 24).reshape(3, 8)
    for name in ("plain", "slow", "decayed"):
        model.register_parameter(name, nn.Parameter(start.clone()))
    groups = (
        ParameterGroup(names=("plain",), lr=RATE, weight_decay=0.0),
        ParameterGroup(names=("slow",), lr=RATE / 10, weight_decay=0.0),
        ParameterGroup(names=("decayed",), lr=RATE, weight_decay=0.5),
    )
    optimizer = make_optimizer(model, groups, choose(text, training.plugins.optimizers, training.plugins))
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = gradient.clone()
        take_step(optimizer, text)
    moved = {name: value - start for name, value in _weights(model).items()}
    require(
        float(moved["slow"].norm()) < float(moved["plain"].norm()),
        f"`{text}`: a group at a tenth of the rate changes as much; it does not use the `lr` of its group",
    )
    require(not torch.equal(moved["decayed"], moved["plain"]), f"`{text}` does not use the `weight_decay` of its group")


def _check_state(training: _Training, saved: int, text: str) -> None:
    for number in range(1, saved + 1):
        training.step(number)
    other = training.reloaded()
    for number in range(saved + 1, STEPS + 1):
        for one in (training, other):
            one.step(number)
        same = _differing(training.model, other.model)
        require(not same, f"`{text}`: after its state is saved and loaded, {' '.join(same)} differ at the next steps")


def _differing(one: nn.Module, other: nn.Module) -> Sequence[str]:
    theirs = _weights(other)
    return [f"`{name}`" for name, value in _weights(one).items() if not torch.equal(value, theirs[name])]


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
