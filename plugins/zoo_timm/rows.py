"""Generates the catalogue from timm's registry and the configurations of its weights."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

from timm.models import get_pretrained_cfg, list_models
from timm.models._registry import _model_to_module, _model_with_tags

from zoo.backbone import Backbone, Weights
from zoo.preprocess import Fit, Interpolation, Preprocess

LICENSE = "Apache-2.0"  # of timm's code; weights have licences of their own

# The tag for weights without one, which timm's registry allows; timm 1.0 has none
UNTAGGED = "untagged"

# timm's `border` pads an image to a square; `shorter` crops it instead. Six sets of weights use `border`
FITS: dict[str, Fit] = {"center": "shorter", "squash": "squash", "border": "shorter"}


def generate_rows() -> list[Backbone]:
    """One entry for each network, with timm's default weights first."""
    top1 = json.loads(files("zoo_timm").joinpath("top1.json").read_text(encoding="utf-8"))["top1"]
    return [_row(name, top1) for name in list_models()]


def _row(name: str, top1: dict[str, tuple[float, int]]) -> Backbone:
    default = get_pretrained_cfg(name)
    weights = []
    for full in _model_with_tags.get(name, []):  # the default first, as timm registers them
        config = get_pretrained_cfg(full)
        if config is not None and config.has_weights:
            weights.append(_weights(full, config, top1))
    module = _model_to_module[name]
    preprocess = weights[0].preprocess if weights else _preprocess(default)
    return Backbone(
        name=name,
        summary=f"{module} of timm, {preprocess.crop} pixels",
        build="zoo_timm.build:build",
        preprocess=preprocess,
        weights=tuple(weights),
        license=LICENSE,
        source=f"https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/{module}.py",
    )


def _weights(full: str, config: Any, top1: dict[str, tuple[float, int]]) -> Weights:
    preprocess = _preprocess(config)
    url = config.url[0] if isinstance(config.url, (tuple, list)) else config.url
    accuracy, size = top1.get(full, (None, 0))
    return Weights(
        tag=config.tag or UNTAGGED,
        preprocess=preprocess,
        source=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else url or "",
        file=config.hf_hub_filename or ("model.safetensors" if config.hf_hub_id else (url or "").rpartition("/")[2]),
        license=config.license or "unknown",
        # an accuracy is valid only for the image size at which it was measured
        top1=round(accuracy / 100, 6) if accuracy is not None and size == preprocess.crop else None,
        at_hand="zoo_timm.download:is_at_hand",
    )


def _preprocess(config: Any) -> Preprocess:
    # Five networks expect upright images (1024 x 768); we use squares of the shorter side
    crop = min(config.input_size[-2:])
    return Preprocess(
        resize=math.floor(crop / config.crop_pct),
        crop=crop,
        interpolation=_interpolation(config.interpolation),
        fit=FITS[config.crop_mode],
        mean=_three(config.mean),
        std=_three(config.std),
    )


def _interpolation(name: str) -> Interpolation:
    # No published weights use timm's other names (`random`, `lanczos`, `hamming`); bicubic is the closest
    return "bilinear" if name == "bilinear" else "bicubic"


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
