"""Experiment: every setting of one training run."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zoo.errors import UsageError, did_you_mean
from zoo.preprocess import Colour, FitSetting, ImageSize, as_size, colour_of, levels_of
from zoo.storage.paths import data_text
from zoo.strategy import NORMS, Norm

Balance = Literal["none", "loss", "sample"]
Keep = Literal["last", "best"]
TrainingPrecision = Literal["auto", "fp32", "bf16"]
Cache = Literal["auto", "on", "off"]
Engine = Literal["auto", "torch", "torch-compile", "onnxruntime", "openvino"]
OnBadImage = Literal["skip", "fail"]
OnLeak = Literal["warn", "fail", "drop"]
LeakCheck = Literal["exact", "near"]

# Epochs of a strategy that names no count; chosen together with the default learning rate
DEFAULT_EPOCHS = 5

# Bounds of a learning rate: of `--lr`, and of its product with a phase's factor
LR_BOUNDS = (1e-12, 1e3)

# Pixels of each side of the input
SIZE_BOUNDS = (8, 4096)

# Rates of false alarms: the score is measured from the median of `val`, so the threshold must be well above it
UNKNOWN_RATES = (1e-6, 0.2)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every setting of one training run. The defaults serve all data; `docs/explanation/strategies.md`
    explains how they were chosen.

    Attributes:
        data: Images to train on: a folder, or `NAME:ARGUMENT` of a dataset.
        backbone: Network to fine-tune, such as `resnet50` or `timm/convnext_tiny`.
        strategy: Which layers to train, such as `linear`, `partial:2` or `linear,epochs=2+full,lr=0.1`.
        weights: Weights to start from: the backbone's `default`, `none` (random), one of its published tags, or a file.
        from_run: Finished run whose weights to start from, with new images or new classes: its head's rows are matched
            by class name. Backbone and preprocessing are those of the run. None: start from `weights`.
        epochs: Number of passes over the training images. None: 5, or the strategy's own.
        batch_size: Number of images in each training step.
        lr: Peak learning rate of the head; strategies scale it for other layers. `find` chooses it by a range test.
        accumulate: Number of parts in which to compute each batch: more parts take less memory, with the same gradient.
        optimizer: Optimizer, with its options: `adamw`, `sgd:0.9`, `lion` or that of a plugin.
        weight_decay: Weight decay; not applied to biases and normalisation layers.
        schedule: Learning-rate schedule, with its options, such as `one-cycle`, `cosine` or `step:5`; it starts anew in
            each phase of the strategy.
        warmup: Fraction of each phase's steps in which the learning rate rises, 0 to 0.9.
        augment: Random augmentation of training images, with its options, such as `light`, `rand:5` or `none`. `light`
            flips, crops and changes brightness and contrast.
        loss: Loss of optimiser steps, with its options: `cross-entropy`, `focal:2`, `bce` or that of a plugin.
        dropout: Dropout rate before the head. None: the backbone's own.
        drop_path: Stochastic-depth rate: the chance that a residual branch is skipped. None: the backbone's own.
        label_smoothing: Share of each label spread evenly over all classes in the loss; 0 turns it off.
        class_balance: How to compensate for rare classes: weight them in the `loss`, or `sample` their images more
            often.
        clip: Gradient clipping: the largest norm of all gradients together; 0 turns it off.
        norm: Running statistics of batch norms: keep them (`frozen`), update them in trainable stages (`train`), or
            compute them anew on the training images at the start of each phase (`recalibrate`). None: the strategy's.
        fraction: Fraction of the training images of each class to train on, up to 1.
        early_stopping: Patience: end a phase after this many epochs in a row without a lower validation loss. Each
            phase keeps the weights of its best epoch, whether it ends early or not. None: never.
        keep: Epoch whose weights to keep: the `last`, or the `best` of all phases by validation loss. For data with
            only two splits, `best`, early stopping and the schedule `plateau` set 15 % of the training images aside for
            validation.
        image_size: Size of the network's input in pixels: 224 for a square, 160x320 for height x width. None: the
            backbone's own.
        fit: How an image becomes that size. `crop` resizes it to cover the input and cuts off what is beyond; `squash`
            resizes both sides, which changes its shape; `pad` resizes it to fit in, and fills the rest. None: the
            backbone's own, which is `crop` for nearly all.
        fill: Red, green and blue, 0 to 255, that `--fit pad` fills with. None: the mean colour of the backbone's
            preprocessing.
        levels: Grey levels that become black and white, in grey images of more than 8 bits; 0 and 4095 are those of 12
            bits. None: those of the type, 0 to 65535 for 16 bits and 0 to 1 for floats.
        workers: Threads that decode images. None: one per core, at most 8.
        seed: Seed of the head's first weights, the order of images, augmentation and dropout.
        split_seed: Seed of the split into train, val and test, for data that are not split yet, and of folds.
        group: What images share that must stay in one split, such as a patient: the column of a table, or a regular
            expression that is matched with the path of each image; the group is its first pair of parentheses, or all
            of it. None: the groups that come with the data, if any.
        folds: Number of folds: train once for each, without its images, and score them; so every image that is not in
            the test split is scored once by a network that has not seen it. None: train once, and score one split.
        device: Device to compute on; `auto` takes CUDA if it can be used, else the CPU.
        precision: Number format of the training steps; `auto` takes bf16 (by autocast) on hardware where it is faster.
        compile: Compile the trainable part of the network with torch.compile.
        views: Number of random views of each image, used in rotation. None: the square root of the epochs if the first
            stages are frozen, else a new view each epoch.
        cache: Whether to compute the features of frozen stages once and store them, for later epochs and runs; `auto`
            does if that saves time. Results are the same.
        engine: What computes frozen stages: `torch`, the same compiled (`torch-compile`), `onnxruntime` or `openvino`,
            all on the CPU; `auto` takes what is expected to finish first, by a measurement. Whatever it is, it is
            compared with torch first, and labels that are reported are torch's.
        on_bad_image: What to do with a file that cannot be read as an image: leave it out with a warning (`skip`), or
            `fail`.
        exclude: Images to leave out: a CSV file with a column `id`, such as the `doctor.csv` of `zoo doctor`, of which
            the rows count that say `yes` in the column `exclude`. None: none.
        on_leak: What to do where an image is in two of train, val and test, has two labels, or is scored though a run
            of `--from` or `distill=` was trained on it: `warn`, `fail`, or `drop` it from the training images (a
            validation image that is also in test from the validation images, and what an earlier run was trained on
            from all that is scored). Of groups in two splits it is said too, and they `fail`.
        leak_check: What counts as the same image: equal content (`exact`), or also a copy that was resized, cut,
            compressed, mirrored, turned or brightened (`near`), which takes about as long as decoding does.
        unknown_rate: Share of images of the known classes, such as 0.01, that may be called unknown by mistake: the run
            and its exported files then score how strange an image is, with a threshold set on the images of `val`.
            None: no score.
        time_budget: Stop training after this time, in seconds; the run is then scored and saved as usual. None: no
            limit.
        save_every: Seconds between checkpoints. None: 30, more if saving took over 2 % of the time.
        callback: What observes the run, with its options, such as the trackers `tensorboard`, `mlflow` and `wandb`; may
            be given several times. It changes nothing of the run, and nothing is sent anywhere unless it is asked to.
    """

    data: str
    backbone: str
    strategy: str
    weights: str = "default"
    from_run: str | None = None
    epochs: int | None = None
    batch_size: int = 32
    lr: float | Literal["find"] = 5e-3
    accumulate: int = 1
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    schedule: str = "one-cycle"
    warmup: float = 0.2
    augment: str = "light"
    loss: str = "cross-entropy"
    dropout: float | None = None
    drop_path: float | None = None
    label_smoothing: float = 0.1
    class_balance: Balance = "none"
    clip: float = 1.0
    norm: Norm | None = None
    fraction: float = 1.0
    early_stopping: int | None = None
    keep: Keep = "last"
    image_size: ImageSize | None = None
    fit: FitSetting | None = None
    fill: Colour | None = None
    levels: tuple[float, float] | None = None
    workers: int | None = None
    seed: int = 0
    split_seed: int = 0
    group: str | None = None
    folds: int | None = None
    device: str = "auto"
    precision: TrainingPrecision = "auto"
    compile: bool = False
    views: int | None = None
    cache: Cache = "auto"
    engine: Engine = "auto"
    on_bad_image: OnBadImage = "skip"
    exclude: str | None = None
    on_leak: OnLeak = "warn"
    leak_check: LeakCheck = "exact"
    unknown_rate: float | None = None
    time_budget: float | None = None
    save_every: float | None = None
    callback: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value; all problems are reported at once.

        Raises:
            UsageError: naming each option and its bounds.
        """
        problems = []
        fields = self.__dataclass_fields__
        for name in ("data", "backbone", "strategy", "weights", "optimizer", "schedule", "augment", "loss", "device"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                # Python callers may pass a `Path`
                object.__setattr__(self, name, data_text(Path(value)) if name == "data" else os.fspath(value))
            elif not isinstance(value, str) or not value or "\0" in value:
                problems.append(f"`--{name} {value!r}` is not a name or a path")
        problems += self._check_preprocessing()
        given: Any = (self.callback,) if isinstance(self.callback, str) else self.callback
        if not isinstance(given, (list, tuple)) or not all(
            isinstance(one, str) and one.strip() and "\0" not in one for one in given
        ):
            problems.append(f"`--callback {self.callback!r}` is not a name, or a list of names")
        else:
            object.__setattr__(self, "callback", tuple(given))
        for name in ("exclude", "from_run"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
            elif value is not None and (not isinstance(value, str) or not value or "\0" in value):
                problems.append(f"`{option_of(name)} {value!r}` is not a path")
        if self.group is not None and (not isinstance(self.group, str) or not self.group or "\0" in self.group):
            problems.append(f"`--group {self.group!r}` is not a column or a regular expression")
        if not isinstance(self.compile, bool):
            problems.append(f"`compile={self.compile!r}` is not True or False")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                problems.append(
                    f"`--{name.replace('_', '-')} {getattr(self, name)}`: known are {' '.join(get_args(kind))}"
                )
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if (value is None and fields[name].default is None) or (name == "lr" and value == "find"):
                continue
            whole = name in _WHOLE
            number: Any = value  # mypy knows no order of `numbers.Real`
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                problems.append(f"`--{name.replace('_', '-')} {value}` is not a {'whole ' if whole else ''}number")
            elif value != value or value in (math.inf, -math.inf):
                problems.append(f"`--{name.replace('_', '-')} {value}` is not a number")
            elif not low <= number <= high:
                form = ",.0f" if whole else "g"
                above = f"{low:{form}} to {high:{form}}" if high < math.inf else f"{low:{form}} or more"
                shown = f"{value:g}" if abs(number) < 1e300 else f"{str(value)[:10]}..."  # more digits than a float has
                problems.append(f"`--{name.replace('_', '-')} {shown}` is outside {above}")
            else:
                object.__setattr__(self, name, _plain(value, whole))
        for name, known in (("norm", NORMS), ("fit", get_args(FitSetting))):
            if getattr(self, name) is not None and getattr(self, name) not in known:
                problems.append(f"`--{name} {getattr(self, name)}`: known are {' '.join(known)}")
        if self.unknown_rate is not None and self.folds is not None:
            problems.append("`--unknown-rate` sets a threshold on the images of `val`, and `--folds` has none")
        if problems:
            raise UsageError("; ".join(problems), hint="see `zoo train --help`")

    def _check_preprocessing(self) -> list[str]:
        """Give image size, colour and levels the types of their fields; returns what is wrong with them."""
        problems = []
        readers: tuple[tuple[str, Callable[[Any], Any]], ...] = (
            ("image_size", lambda found: as_size(found, *SIZE_BOUNDS)),
            ("fill", colour_of),
            ("levels", levels_of),
        )
        for name, read in readers:
            if getattr(self, name) is None:
                continue
            try:
                object.__setattr__(self, name, read(getattr(self, name)))
            except ValueError as error:
                problems.append(f"`--{name.replace('_', '-')}`: {error}")
        if self.fill is not None and self.fit != "pad":
            problems.append("`--fill` is the colour of `--fit pad`, and has no effect without it")
        return problems

    @property
    def for_steps(self) -> tuple[str, ...]:
        """Options that differ from their defaults and apply only to optimiser steps, as typed on the command line."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        found = [name for name in _FOR_STEPS if values[name][0] != values[name][1]]
        found += ["norm"] if self.norm == "train" else []
        given = [(name, values[name][0]) for name in found]
        # a solver uses no augmentation anyway
        return tuple(f"--{name.replace('_', '-')} {value}" for name, value in given if value != "none")

    @property
    def chooses(self) -> bool:
        """Whether early stopping or `--keep best` needs validation images; a schedule may need some, too."""
        return self.keep == "best" or self.early_stopping is not None

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "callback": list(self.callback)}  # as it is read again

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Experiment:
        """Read what `to_json` wrote.

        Raises:
            UsageError: a key is not a setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in data:
            if key not in known:
                raise UsageError(f"unknown setting `{key}`", hint=did_you_mean(key, known, "see `zoo train --help`"))
        return cls(**data)


def option_of(name: str) -> str:
    """The option of the command line for a setting, such as `--batch-size` for `batch_size`."""
    return "--from" if name == "from_run" else f"--{name.replace('_', '-')}"  # `from` is a keyword of Python


_FOR_STEPS = (
    "epochs",
    "lr",
    "accumulate",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "augment",
    "loss",
    "views",
    "dropout",
    "drop_path",
    "label_smoothing",
    "class_balance",
    "clip",
    "early_stopping",
    "keep",
)

_WHOLE = (
    "epochs",
    "batch_size",
    "accumulate",
    "early_stopping",
    "workers",
    "seed",
    "split_seed",
    "folds",
    "views",
)

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 1_000_000),
    ("batch_size", 1, 1_000_000),
    ("accumulate", 1, 1_000_000),
    ("lr", *LR_BOUNDS),
    ("weight_decay", 0, 1e3),
    ("warmup", 0, 0.9),
    ("dropout", 0, 0.99),
    ("drop_path", 0, 0.99),
    ("label_smoothing", 0, 0.99),
    ("clip", 0, math.inf),
    ("fraction", 1e-6, 1),
    ("early_stopping", 1, 1_000_000),
    ("workers", 1, 256),
    ("views", 1, 1_000_000),
    ("seed", 0, 2**31 - 1),
    ("split_seed", 0, 2**31 - 1),
    ("folds", 2, 1000),
    ("unknown_rate", *UNKNOWN_RATES),
    ("time_budget", 1, math.inf),
    ("save_every", 0, math.inf),
)


def _plain(value: Any, whole: bool) -> int | float:
    """A number as one of Python, which JSON can hold; numpy's are converted."""
    return int(value) if whole else value if type(value) is int else float(value)


def attribute_docs(kind: type) -> dict[str, str]:
    """The description of each attribute in the section `Attributes:` of a class's docstring, on one line each."""
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Attributes:") + 1 :] if "Attributes:" in lines else ():
        if not line.startswith("    "):
            break
        start = re.match(r"    (\w+): (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += f" {line.strip()}"
    return found
