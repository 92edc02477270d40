"""Assembling a network from a backbone's row: build, load a file of weights, check the stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from zoo.backbone import Backbone, BuildSpec, Network
from zoo.errors import ZooError
from zoo.stage import check_anatomy


def assemble(
    backbone: Backbone,
    build: Callable[[BuildSpec], Network],
    spec: BuildSpec,
    weights_file: Path | None,
) -> Network:
    """Build from a row; see `zoo.backbone.build_network`."""
    network = build(spec)
    if weights_file is not None:
        load_weights_file(network, weights_file, backbone.name)
    check_anatomy(network.anatomy, [name for name, _ in network.model.named_parameters()])
    return network


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a `.safetensors` file, or from a torch file read with `weights_only=True`.

    Raises:
        ZooError: the file cannot be read as either, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise _unreadable(file, error) from error
    except Exception as error:
        # pickle raises UnpicklingError and whatever a crafted stream makes it raise; none of it is executed
        raise _unreadable(file, error) from error
    if isinstance(state, dict):
        for key in ("state_dict", "model", "model_state_dict", "state_dict_ema"):  # the usual wrappers
            if isinstance(state.get(key), dict):
                state = state[key]
                break
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ZooError(f"`{file}` holds no state dict (tensors by name)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _unreadable(file: Path, error: Exception) -> ZooError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ZooError(
        f"`{file}` cannot be read as weights: {reason}",
        hint="weights are a `.safetensors` file, or a state dict saved by `torch.save`; pickled code is refused",
    )


def load_weights_file(network: Network, file: Path, backbone: str) -> None:
    """Load a file into a network, in place. A head of another number of classes is left at its start.

    Raises:
        ZooError: a tensor outside the head is missing or has another shape.
    """
    if not file.is_file():
        raise ZooError(f"there is no file of weights `{file}`", hint="see `zoo list backbones NAME --json` for tags")
    state = read_state(file)
    own = network.model.state_dict()
    head = set(network.anatomy.head.parameters)
    missing = [name for name in own if name not in state and name not in head]
    wrong = [
        name for name, value in own.items() if name in state and name not in head and state[name].shape != value.shape
    ]
    if missing or wrong:
        name = (missing or wrong)[0]
        what = "is missing from" if missing else f"has shape {tuple(state[name].shape)} in"
        raise ZooError(
            f"`{file}` does not fit `{backbone}`: `{name}` {what} the file "
            f"({len(missing)} missing, {len(wrong)} of another shape)",
            hint="the file must come from the same network; a head of other classes is fine",
        )
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    network.model.load_state_dict(fitting, strict=False)


def count_parameters(model: nn.Module) -> int:
    """How many numbers the parameters hold."""
    return sum(parameter.numel() for parameter in model.parameters())
