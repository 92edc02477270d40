"""Trained networks: built as a run's record says, with the weights of its file; also several of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.backbone import Network
from zoo.config.grammar import parse
from zoo.errors import ZooError
from zoo.experiment import Experiment
from zoo.networks.building import build_network, read_state, spec_of
from zoo.networks.mean_network import MeanNetwork, Member
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.stage import HEAD, Anatomy, Stage


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a network is built from, apart from its weights.

    Attributes:
        backbone: Qualified name of the backbone.
        strategy: The strategy, whose permanent changes the network has.
        experiment: All settings of its run.
        classes: Number of classes.
        preprocess: Its preprocessing.
    """

    backbone: str
    strategy: str
    experiment: Experiment
    classes: int
    preprocess: Preprocess

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Architecture:
        """That of a run, or of a member of an ensemble, from its record."""
        return cls(
            backbone=str(record["backbone"]),
            strategy=str(record["strategy"]),
            experiment=Experiment.from_json(record["experiment"]),
            classes=len(record["classes"]),
            preprocess=Preprocess.from_json(record["preprocess"]),
        )

    def build(self, plugins: Plugins) -> Network:
        """The network with random weights.

        Raises:
            UsageError: the plugin of its backbone or strategy is not installed.
        """
        backbone = plugins.backbones.find(self.backbone).value
        network = build_network(
            backbone,
            classes=self.classes,
            dropout=self.experiment.dropout,
            drop_path=self.experiment.drop_path,
            image_size=self.experiment.image_size,
        )
        plan = parse(self.strategy, plugins.strategies)
        return plan.adapt(network, spec_of(backbone, self.experiment, self.classes, self.preprocess.crop))


def load_trained(record: Mapping[str, Any], file: Path, plugins: Plugins) -> Network:
    """The network of a run in eval mode, on the CPU, from the run's record and its file of weights.

    Raises:
        UsageError: the plugin of its backbone or strategy is not installed.
        ZooError: the file cannot be read, or does not fit the network.
    """
    members = (record.get("ensemble") or {}).get("members")
    if members is None:
        network = Architecture.of(record).build(plugins)
    else:
        parts = [Architecture.of(one) for one in members]
        classes = [one["classes"] for one in members]
        network = mean_of(parts, [one.build(plugins) for one in parts], classes, record["classes"])
    try:
        network.model.load_state_dict(read_state(file))
    except RuntimeError as error:
        raise ZooError(
            f"weights `{file}` do not fit `{record['backbone']}`: {str(error).splitlines()[-1].strip()}",
            hint="the file was replaced, or the backbone's plugin has changed; see `versions` in `run.json`",
        ) from error
    network.model.eval()
    return network


def mean_of(
    parts: Sequence[Architecture],
    networks: Sequence[Network],
    classes: Sequence[Sequence[str]],
    order: Sequence[str],
) -> Network:
    """Several networks as one, whose probabilities are the mean of theirs; its input is that of the first.

    Args:
        parts: What the networks were built from.
        networks: The networks.
        classes: Names of the classes of each.
        order: The same names, in the order of the whole.
    """
    first = parts[0].preprocess
    members = [
        Member(
            model=network.model,
            rows=[list(names).index(name) for name in order],
            scale=[ours / theirs for ours, theirs in zip(first.std, part.preprocess.std)],
            shift=[
                (ours - theirs) / spread
                for ours, theirs, spread in zip(first.mean, part.preprocess.mean, part.preprocess.std)
            ],
        )
        for part, network, names in zip(parts, networks, classes)
    ]
    model = MeanNetwork(members)
    anatomy = Anatomy(
        backbone=f"ensemble of {len(parts)}",
        stages=(Stage(name="members", parameters=tuple(name for name, _ in model.named_parameters())),),
        head=Stage(name=HEAD, parameters=()),  # the mean has no parameters
    )
    return Network(model, anatomy)


def last_linear(network: Network) -> nn.Linear | None:
    """The linear layer that computes the logits; None for a head that ends in another kind of layer."""
    from zoo.errors import UsageError
    from zoo.networks.head import find_head

    try:
        head = find_head(network)
    except UsageError:
        return None
    layer = head[-1] if isinstance(head, nn.Sequential) else head
    return layer if type(layer) is nn.Linear else None


def same_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a tensor that only one of two states has, or that differs in shape or type; None: they match."""
    for name in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(name), other.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return name
    return None
