"""Backbones: networks that can be fine-tuned, described as data. Nothing here imports torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, did_you_mean
from zoo.preprocess import ImageSize, Preprocess
from zoo.stage import Anatomy
from zoo.target import lazy_attributes, load_target

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published set of weights of a backbone.

    Attributes:
        tag: Name of the set, as `--weights` takes it.
        preprocess: The preprocessing that the weights were trained with.
        source: Where they are downloaded from: a URL, a hub id, or a distribution.
        file: Name of their file in the download cache.
        license: Licence of the weights.
        top1: Published top-1 accuracy on ImageNet-1k, in 0..1. None: not known.
        at_hand: `(backbone, weights) -> bool | Path | None`: whether they can be used without an internet connection,
            best as the path of their file, whose SHA-256 a run then records. A callable or `"module:function"`. None:
            they cannot.
    """

    tag: str
    preprocess: Preprocess
    source: str = ""
    file: str = ""
    license: str = "unknown"
    top1: float | None = None
    at_hand: str | Callable[..., bool | Path | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `at_hand` must be a `"module:function"` string."""
        assert self.at_hand is None or isinstance(self.at_hand, str)
        return {**vars(self), "preprocess": self.preprocess.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Weights:
        """Read what `to_json` wrote."""
        return cls(**{**data, "preprocess": _preprocess(data["preprocess"])})


def _preprocess(data: Mapping[str, Any]) -> Preprocess:
    """As `Preprocess.from_json`. Thousands of weights share a few, and checking each takes longer than reading all."""
    return _checked_preprocess(
        tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in data.items())
    )


@functools.lru_cache(maxsize=1024)
def _checked_preprocess(items: tuple[tuple[str, Hashable], ...]) -> Preprocess:
    return Preprocess.from_json({name: list(value) if isinstance(value, tuple) else value for name, value in items})


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """The settings that a network is built with.

    Later versions may add fields; a builder reads those that it knows.

    Attributes:
        backbone: Name of the backbone.
        classes: Number of classes, which is the width of the head.
        weights: Published weights to load. None: random initialisation.
        dropout: Dropout probability in front of the head. None: the network's own default.
        drop_path: Stochastic depth probability. None: the network's own default.
        image_size: Size of the input in pixels: a number for a square, else height and width; see
            `zoo.preprocess.height_width`. None: `crop` of the preprocessing. A strategy never receives None.
    """

    backbone: str
    classes: int
    weights: Weights | None = None
    dropout: float | None = None
    drop_path: float | None = None
    image_size: ImageSize | None = None


@dataclass(frozen=True)
class Network:
    """A network that was built, and its stages.

    Attributes:
        model: Maps normalised images `(N, 3, H, W)` float to logits `(N, classes)`, in train and in eval mode.
        anatomy: Its stages and its head.
        translate: Converts the tensors of a published file to those of `model`, where names are old or the input size
            differs. None: the tensors are the same.
    """

    model: nn.Module
    anatomy: Anatomy
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network that a plugin registers, with its published weights and what is known about it.

    Attributes:
        name: Short name, unique within the plugin.
        summary: One line for `zoo list backbones`.
        build: `(BuildSpec) -> Network`, as a callable or as `"module:function"`.
        preprocess: Preprocessing where the network starts without published weights.
        weights: Published sets of weights, the default first. Without any, the network starts from random weights or
            from `--weights FILE`.
        license: Licence of the code.
        source: The paper, or the place of the code.
        parameters: Number of parameters, with the published head. None: known only after building.
        gflops: Multiply-adds of one image at the native input size, divided by 1e9. None: not known.
    """

    name: str
    summary: str
    build: str | Callable[[BuildSpec], Network] = field(repr=False)
    preprocess: Preprocess = field(default_factory=Preprocess)
    weights: tuple[Weights, ...] = ()
    license: str = "unknown"
    source: str = ""
    parameters: int | None = None
    gflops: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `build` and `at_hand` must be `"module:function"` strings."""
        assert isinstance(self.build, str)
        return {
            **vars(self),
            "preprocess": self.preprocess.to_json(),
            "weights": [weights.to_json() for weights in self.weights],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backbone:
        """Read what `to_json` wrote."""
        preprocess = _preprocess(data["preprocess"])
        weights = tuple(Weights.from_json(row) for row in data["weights"])
        return cls(**{**data, "preprocess": preprocess, "weights": weights})

    def find_weights(self, tag: str) -> Weights | None:
        """The weights that `default`, `none` or a published tag names; None for `none`.

        Raises:
            UsageError: there is no such tag, or it is `default` and the backbone has no published weights.
        """
        if tag == "none":
            return None
        if tag == "default":
            if not self.weights:
                raise UsageError(
                    f"backbone `{self.name}` has no published weights",
                    hint="pass `--weights none` to start from scratch, or `--weights FILE`",
                )
            return self.weights[0]
        for weights in self.weights:
            if weights.tag == tag:
                return weights
        tags = [weights.tag for weights in self.weights]
        raise UsageError(
            f"backbone `{self.name}` has no weights `{tag}`",
            hint=did_you_mean(tag, tags, f"known are: default none {' '.join(tags)}, or the path of a file"),
        )

    @property
    def ready(self) -> bool:
        """Whether it can be used without an internet connection: its default weights are on this machine."""
        try:
            return not self.weights or is_at_hand(self, self.weights[0])
        except Exception:  # a plugin may raise anything, and a hint is no place to tell it
            return False


def is_at_hand(backbone: Backbone, weights: Weights) -> bool:
    """Whether weights can be used without an internet connection: shipped by pip, or in the download cache."""
    if weights.at_hand is None:
        return False
    answer: Any = load_target(weights.at_hand)(backbone, weights)
    return bool(answer)


def published_file(backbone: Backbone, weights: Weights) -> Path | None:
    """The file of published weights on this machine; None if it is not there, or its plugin does not tell."""
    answer: Any = None if weights.at_hand is None else load_target(weights.at_hand)(backbone, weights)
    return answer if isinstance(answer, Path) and answer.is_file() else None


__getattr__ = lazy_attributes(
    __name__,
    {
        **{
            name: f"zoo.networks.building:{name}"
            for name in ("build_network", "load_state", "norm_parameters", "read_state")
        },
        "without_compiler": "zoo.system.lazy_compiler:without_compiler",
    },
)
