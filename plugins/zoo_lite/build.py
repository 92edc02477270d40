"""Building EfficientNet-Lite: timm's network, with weights from a file that names the same tensors differently."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from zoo.backbone import BuildSpec, Network
from zoo.networks.building import load_state, read_state
from zoo_lite.package import checked_file
from zoo_timm.build import create
from zoo_timm.stages import cut_network


def build(spec: BuildSpec) -> Network:
    """Build an EfficientNet-Lite with a new head, and load the packaged weights into all layers but the head.

    Raises:
        UsageError: the network does not support a setting.
        ZooError: the package with the weights is missing or damaged.
    """
    model = create(replace(spec, backbone=f"tf_{spec.backbone}", weights=None))

    def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename_in_order(state, model)

    network = Network(model, cut_network(spec.backbone, model), translate)
    if spec.weights is not None:
        state = translate(read_state(checked_file(spec.backbone, spec.weights)))
        load_state(network, state, f"`{spec.weights.file}`", fresh_head=True)
    return network


def rename_in_order(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give the file's tensors timm's names: both list the same layers in the same order (296, 386, 386 tensors).

    The state of a file with timm's names, or of another network, is returned unchanged.
    """
    own = model.state_dict()
    if set(own) <= set(state) or [_kind(name) for name in state] != [_kind(name) for name in own]:
        return state
    return dict(zip(own, state.values(), strict=True))


def _kind(name: str) -> str:
    """The last part of a tensor's name: `weight`, `bias`, `running_mean`, ..."""
    return name.rpartition(".")[2]
