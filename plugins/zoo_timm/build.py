"""Building timm's networks: with a new head, one output tensor, and an error for settings that have no effect."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from zoo.backbone import BuildSpec, Network
from zoo.errors import UsageError, ZooError, first_line
from zoo.preprocess import height_width, pixels_text
from zoo_timm.download import check_reachable, local_file, unavailable
from zoo_timm.rows import UNTAGGED
from zoo_timm.stages import cut_network, head_parameters

# timm's name of each setting, and its name in our messages
SETTINGS = {"drop_rate": "dropout", "drop_path_rate": "drop path", "img_size": "image size"}


def build(spec: BuildSpec) -> Network:
    """Build a timm network with a new head, and load published weights into all layers but the head.

    Raises:
        UsageError: the network has no head, or does not support a setting.
        ZooError: the weights are not available.
    """
    model = create(spec)
    return Network(model, cut_network(spec.backbone, model), _translation(model))


def create(spec: BuildSpec) -> nn.Module:
    """Build the torch module; see `build`."""
    if spec.backbone.endswith("_enc"):
        raise UsageError(
            f"`{spec.backbone}` is an encoder without a classifier",
            hint=f"use `{spec.backbone.removesuffix('_enc')}`, the same network with a classifier",
        )
    tag = spec.weights.tag if spec.weights is not None else None
    name = spec.backbone if tag in (None, UNTAGGED) else f"{spec.backbone}.{tag}"
    config = get_pretrained_cfg(name)
    assert config is not None, f"timm has no `{name}`"
    options: dict[str, Any] = {"drop_rate": spec.dropout, "drop_path_rate": spec.drop_path}
    native = min(config.input_size[-2:])
    size = spec.image_size or native
    # Only networks with a fixed input size take `img_size`; others work with any size, and many reject the argument
    if config.fixed_input_size and height_width(size) != tuple(config.input_size[-2:]):
        options["img_size"] = size
    if spec.weights is not None:
        file = local_file(spec.weights)
        if file is None:
            check_reachable(spec.backbone, spec.weights)
        else:
            # A cached file is loaded without asking the hub whether it has changed. A custom loader is needed only for
            # files in their authors' layout; it is a string (`hf`) if the hub has those
            loader = config.custom_load if isinstance(config.custom_load, str) else False
            options["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": loader}
    model = _create(name, spec, options)
    if spec.weights is not None and config.num_classes == spec.classes:
        # timm keeps a published head of the same width; ours is always new
        _renew_head(model, _create(name, spec, options, scratch=True))
    _check_settings(spec, model)
    return model


def _create(name: str, spec: BuildSpec, options: dict[str, Any], *, scratch: bool = False) -> nn.Module:
    given = {key: value for key, value in options.items() if value is not None}
    try:
        with _quiet():
            model: nn.Module = timm.create_model(
                name, pretrained=spec.weights is not None and not scratch, num_classes=spec.classes, **given
            )
    except TypeError as error:
        refused = next((key for key in given if f"'{key}'" in str(error) and "argument" in str(error)), None)
        if refused is None:
            raise
        if given[refused] == 0:  # a rate of 0 is met by a network without dropout
            return _create(name, spec, {**options, refused: None}, scratch=scratch)
        raise _cannot(spec.backbone, refused, given[refused]) from error
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        if "img_size" in given:
            raise _cannot(spec.backbone, "img_size", given["img_size"]) from error
        raise
    except Exception as error:
        # The hub's client, urllib, ssl and file readers raise some two dozen unrelated types
        if spec.weights is None or scratch:
            raise
        if "img_size" in given and "size mismatch" in str(error):
            raise _cannot(spec.backbone, "img_size", given["img_size"]) from error
        file = local_file(spec.weights)
        if file is not None:
            raise ZooError(
                f"`{file}` cannot be read as the weights `{spec.weights.tag}` of `{spec.backbone}`: "
                f"{first_line(error)}",
                hint="delete it to download it again",
            ) from error
        raise unavailable(spec.backbone, spec.weights, error) from error
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the hub's progress bars, and redirect torch.hub's messages from stdout to stderr."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if not were:
            enable_progress_bars()


def _renew_head(model: nn.Module, fresh: nn.Module) -> None:
    started = dict(fresh.named_parameters())
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name in head_parameters(model):
            own[name].copy_(started[name])


def _cannot(backbone: str, setting: str, value: Any) -> UsageError:
    said = pixels_text(value) if setting == "img_size" else f"{value:g}"
    return UsageError(
        f"`{backbone}` cannot be built with {SETTINGS[setting]} {said}",
        hint="leave out the option to use the network's own value, or choose another backbone",
    )


def _check_settings(spec: BuildSpec, model: nn.Module) -> None:
    """Check that the settings had an effect: timm ignores some of them silently."""
    if spec.dropout and not _has_dropout(model, spec.dropout):
        raise _cannot(spec.backbone, "drop_rate", spec.dropout)
    if spec.drop_path and not any(isinstance(m, DropPath) and m.drop_prob for m in model.modules()):
        raise _cannot(spec.backbone, "drop_path_rate", spec.drop_path)


def _has_dropout(model: nn.Module, rate: float) -> bool:
    """Whether there is a dropout module of this rate, or the attribute that timm's functional dropouts read."""
    return any(
        (isinstance(module, nn.Dropout) and module.p == rate) or getattr(module, "drop_rate", None) == rate
        for module in model.modules()
    )


def _translation(model: nn.Module) -> Any:
    """timm's filter for files in their authors' layout, for instance with position embeddings of another size."""
    filter_checkpoint = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_checkpoint is None:
        return None

    def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
        translated: dict[str, Tensor] = filter_checkpoint(state, model)
        return translated

    return translate
