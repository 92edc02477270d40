"""The strategy `ia3`. This module imports neither torch nor peft; `adapters.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zoo import Anatomy, Group, Phase, Strategy
from zoo.stage import HEAD
from zoo_lora.low_rank import with_adapters

if TYPE_CHECKING:
    from zoo import BuildSpec, Network

# As of `norm` and `bitfit`: factors of outputs are as few as scales of normalisation layers, and start at one too
IA3_LR = 1.0


@dataclass(frozen=True)
class Scales(Strategy):
    """Train a factor of each output of every linear and convolutional layer, and the head; the layers stay frozen.

    Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning" (IA3).
    The paper scales keys, values and the hidden units of feed-forward blocks. Networks for images often compute keys
    and values in one layer with queries, or have neither, so here every layer is scaled: the second linear layer of a
    feed-forward block at its inputs, which are the hidden units, and all others at their outputs. The factors are
    merged into the layers when training ends.
    """

    name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "train factors of the outputs of layers and the head (extra `lora`)"

    def attach(self, network: Network, spec: BuildSpec) -> Network:
        from zoo_lora.adapters import attach_scales

        return attach_scales(network, spec, self.name)

    def merge(self, network: Network) -> Network:
        from zoo_lora.adapters import merge

        return merge(network)

    def phases(self, anatomy: Anatomy) -> tuple[Phase, ...]:
        groups = (Group(stages=with_adapters(anatomy), lr=IA3_LR, only="added", decays=False), Group(stages=(HEAD,)))
        return (Phase(name="ia3", groups=groups, norm="frozen"),)
