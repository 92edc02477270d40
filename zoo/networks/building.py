"""Building: a network from a backbone's row in the catalogue, with its weights loaded and its stages checked."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from zoo.backbone import Backbone, BuildSpec, Network, Weights
from zoo.errors import UsageError, ZooError, first_line
from zoo.experiment import Experiment
from zoo.networks.head import place_of, start_head
from zoo.preprocess import ImageSize, height_width, pixels_text
from zoo.stage import check_anatomy
from zoo.system.lazy_compiler import without_compiler
from zoo.target import load_target

_SQUARE = "pass a square, or multiples of 32; networks with a fixed grid of positions or windows take no rectangles"


def build_network(
    backbone: Backbone,
    *,
    classes: int,
    weights: Weights | None = None,
    weights_file: Path | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    image_size: ImageSize | None = None,
) -> Network:
    """Build a backbone with a fresh head for `classes`, and check that its stages cover it.

    Args:
        backbone: its row in the catalogue.
        classes: width of the head.
        weights: published weights to start from; None: random ones.
        weights_file: a file of weights, loaded last.
        dropout: in front of the head; None: as published.
        drop_path: rate of stochastic depth; None: as published.
        image_size: pixels; checked with one image. None: the network's own size.

    Raises:
        UsageError: the network cannot take images of `image_size`.
        ZooError: the weights are not available, or the file does not fit.
        ValueError: the plugin's stages do not cover its parameters exactly once.
    """
    with without_compiler():
        build = load_target(backbone.build)
    spec = BuildSpec(
        backbone=backbone.name,
        classes=classes,
        weights=weights,
        dropout=dropout,
        drop_path=drop_path,
        image_size=image_size,
    )
    try:
        network: Network = build(spec)
    except TypeError as error:  # a builder that knows no rectangles
        if not isinstance(image_size, tuple):
            raise
        raise UsageError(
            f"`{backbone.name}` cannot be built for {pixels_text(image_size)} pixels: {first_line(error)}",
            hint=_SQUARE,
        ) from error
    if not isinstance(network, Network):
        raise ZooError(f"backbone `{backbone.name}` builds a {type(network).__name__}, not a `zoo.Network`")
    check_anatomy(network.anatomy, [name for name, _ in network.model.named_parameters()])
    start_head(network)
    if weights_file is not None:
        load_weights_file(network, weights_file)
    if image_size is not None:
        try_image_size(network, image_size)
    return network


def spec_of(backbone: Backbone, experiment: Experiment, classes: int, image_size: ImageSize) -> BuildSpec:
    """The settings of the build, for `Strategy.adapt` and `Strategy.attach`."""
    return BuildSpec(
        backbone=backbone.name,
        classes=classes,
        dropout=experiment.dropout,
        drop_path=experiment.drop_path,
        image_size=image_size,
    )


def try_image_size(network: Network, size: ImageSize) -> None:
    """Pass one black image of `size` pixels through, so that a wrong size is found before any work.

    Raises:
        UsageError: the network cannot take images of that size.
    """
    model = network.model
    training = model.training
    model.eval()
    try:
        # not inference_mode: a network may store a table for the size, and an inference tensor could not be trained
        with torch.no_grad():
            model(torch.zeros(1, 3, *height_width(size), device=place_of(model)))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"`{network.anatomy.backbone}` cannot take images of {pixels_text(size)} pixels: {first_line(error)}",
            hint=_SQUARE
            if isinstance(size, tuple)
            else "leave `--image-size` out for the network's own size, or try a multiple of 32",
        ) from error
    finally:
        model.train(training)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a `.safetensors` file, or from a torch file read with `weights_only=True`.

    Raises:
        ZooError: the file cannot be read as either, or holds something other than tensors by name.
    """
    try:
        if file.suffix.lower() == ".safetensors":
            return dict(load_file(file))
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # a crafted pickle can raise any error; nothing in it is executed
        raise _unreadable(file, error) from error
    if isinstance(state, dict):
        for key in ("state_dict", "model", "model_state_dict", "state_dict_ema"):  # the usual wrappers
            if isinstance(state.get(key), dict):
                state = state[key]
                break
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ZooError(f"`{file}` holds no state dict (tensors by name)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _unreadable(file: Path, error: Exception) -> ZooError:
    return ZooError(
        f"`{file}` cannot be read as weights: {_why_unreadable(file, error)}",
        hint="weights are a `.safetensors` file, or a state dict saved by `torch.save`; pickled code is refused",
    )


def _why_unreadable(file: Path, error: Exception) -> str:
    """Why a file cannot be read. torch's own message would advise reading an untrusted file without `weights_only`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, SafetensorError):
        return first_line(error)
    if file.stat().st_size == 0:
        return "it is empty"
    with file.open("rb") as opened:
        zipped = opened.read(4) == b"PK\x03\x04"  # torch has written zip files since 1.6
    if isinstance(error, pickle.UnpicklingError) and (zipped or "Unsupported global" in str(error)):
        return "it holds pickled objects, not only tensors"
    return "it is damaged" if zipped else "it is not a file of weights"


def load_weights_file(network: Network, file: Path) -> None:
    """Load a file into a network, in place; a head for another number of classes keeps its initial values.

    Raises:
        ZooError: there is no such file, it cannot be read, or a tensor outside the head is missing or has another
            shape.
    """
    if file.is_dir():
        raise ZooError(f"`{file}` is a folder, not a file of weights", hint="pass the file in it")
    if not file.is_file():
        raise ZooError(f"there is no file of weights `{file}`", hint="see `zoo list backbones NAME --json` for tags")
    state = read_state(file)
    if network.translate is not None:
        try:
            state = network.translate(state)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ZooError(
                f"`{file}` does not fit `{network.anatomy.backbone}`: {first_line(error)}",
                hint="the file must come from the same network; a head of other classes is fine",
            ) from error
    load_state(network, state, f"`{file}`")


def load_state(network: Network, state: dict[str, torch.Tensor], source: str, *, fresh_head: bool = False) -> None:
    """Load tensors by name into a network, in place; tensors that it does not have (auxiliary heads) are ignored.

    Args:
        network: where they are loaded.
        state: tensors by name.
        source: their name in error messages.
        fresh_head: keep the initial head always, not only where its shape differs.

    Raises:
        ZooError: a tensor outside the head is missing or has another shape.
    """
    backbone = network.anatomy.backbone
    own = network.model.state_dict()
    head = set(network.anatomy.head.parameters)
    # files of 2018 lack batch counters, which matter only to batch norms without momentum
    missing = [
        name for name in own if name not in state and name not in head and not name.endswith("num_batches_tracked")
    ]
    wrong = [
        name for name, value in own.items() if name in state and name not in head and state[name].shape != value.shape
    ]
    if missing or wrong:
        name = (missing or wrong)[0]
        what = "is missing from" if missing else f"has shape {tuple(state[name].shape)} in"
        raise ZooError(
            f"{source} does not fit `{backbone}`: `{name}` {what} the file "
            f"({len(missing)} missing, {len(wrong)} of another shape)",
            hint="the file must come from the same network; a head of other classes is fine",
        )
    fitting = {
        name: state[name]
        for name in own
        if name in state and state[name].shape == own[name].shape and not (fresh_head and name in head)
    }
    network.model.load_state_dict(fitting, strict=False)


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of normalisation layers: of every module whose class name contains `Norm`."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }


def count_parameters(model: nn.Module) -> int:
    """The number of values in all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
