"""Backbone: a network to fine-tune, as a row of data. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, did_you_mean
from zoo.preprocess import Preprocess
from zoo.stage import Anatomy
from zoo.target import lazy_attributes, load_target

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published set of weights of a backbone."""

    tag: str
    preprocess: Preprocess
    source: str = ""  # where it is downloaded from: a URL, a hub id, a distribution
    file: str = ""  # the file's name in the download cache, for `--weights FILE` advice
    license: str = "unknown"
    top1: float | None = None  # ImageNet-1k accuracy in 0..1, as published
    at_hand: str | Callable[..., bool] | None = None  # target `(backbone, weights) -> bool`: usable without network

    def to_json(self) -> dict[str, Any]:
        """JSON values; `at_hand` must be a `"module:function"` string."""
        assert self.at_hand is None or isinstance(self.at_hand, str)
        return {**vars(self), "preprocess": self.preprocess.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Weights:
        return cls(**{**data, "preprocess": Preprocess.from_json(data["preprocess"])})


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """What a builder is asked for. Fields may be added; builders read those they know."""

    backbone: str
    classes: int
    weights: Weights | None = None  # None: random initialisation
    dropout: float | None = None  # probability before the head; None: the network's own default
    drop_path: float | None = None  # stochastic depth; None: the network's own default
    image_size: int | None = None  # pixels; None: the preprocess's crop (a strategy is always told a number)


@dataclass(frozen=True)
class Network:
    """A built network: `model` maps `(N, 3, H, W)` float to logits `(N, classes)` in train and eval alike."""

    model: nn.Module
    anatomy: Anatomy
    # From the tensors of a published file to those of `model`: old names, another input size. None: they are the same
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A row of the catalogue. `build` is `(BuildSpec) -> Network`, as a callable or as `"module:function"`.

    `weights` holds the published sets, the default first; without any, the network starts from scratch or from
    `--weights FILE`.
    """

    name: str
    summary: str
    build: str | Callable[[BuildSpec], Network] = field(repr=False)
    preprocess: Preprocess = field(default_factory=Preprocess)  # without weights
    weights: tuple[Weights, ...] = ()
    license: str = "unknown"  # of the code
    source: str = ""  # the paper, or where the code lives
    parameters: int | None = None  # with the published head; None: not known without building
    gflops: float | None = None  # multiply-adds / 1e9 of one image at the native size; None: not known

    def to_json(self) -> dict[str, Any]:
        """JSON values; `build` and `at_hand` must be `"module:function"` strings."""
        assert isinstance(self.build, str)
        return {
            **vars(self),
            "preprocess": self.preprocess.to_json(),
            "weights": [weights.to_json() for weights in self.weights],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backbone:
        preprocess = Preprocess.from_json(data["preprocess"])
        weights = tuple(Weights.from_json(row) for row in data["weights"])
        return cls(**{**data, "preprocess": preprocess, "weights": weights})

    def find_weights(self, tag: str) -> Weights | None:
        """The weights for `default`, `none` or a published tag.

        Raises:
            UsageError: no such tag, or `default` of a backbone that has none.
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


def is_at_hand(backbone: Backbone, weights: Weights) -> bool:
    """Whether the weights can be used without a network: shipped by pip, or in the download cache."""
    if weights.at_hand is None:
        return False
    answer: Any = load_target(weights.at_hand)(backbone, weights)
    return bool(answer)


__getattr__ = lazy_attributes(__name__, {"build_network": "zoo.networks.building:build_network"})
