"""Building EfficientNet-Lite: timm's network, and a file whose tensors stand in the same order under other names."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from zoo.backbone import BuildSpec, Network
from zoo.networks.building import load_state, read_state
from zoo_lite.package import checked_file
from zoo_timm.build import create
from zoo_timm.stages import cut_network


def build(spec: BuildSpec) -> Network:
    """Build an EfficientNet-Lite with a fresh head, and load the packaged weights into all but the head.

    Raises:
        UsageError: the network cannot honour a setting.
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
    """The file's tensors under timm's names: both list the same layers in the same order (296, 386, 386 tensors).

    A file with timm's names, or of another network, is returned as it is.
    """
    own = model.state_dict()
    if set(own) <= set(state) or [_kind(name) for name in state] != [_kind(name) for name in own]:
        return state
    return dict(zip(own, state.values(), strict=True))


def _kind(name: str) -> str:
    """`weight`, `bias`, `running_mean`, ...: what a tensor is, whatever its layer is called."""
    return name.rpartition(".")[2]
