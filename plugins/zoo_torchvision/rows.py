"""Generates the catalogue from torchvision's registry and the metadata of its weights."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torchvision.models
from torchvision.models import get_model_builder, get_model_weights, list_models

from zoo.backbone import Backbone, Weights
from zoo.preprocess import Preprocess

# Licence of torchvision's code and of the weights that it trained or ported itself. The SWAG weights have a licence of
# their own, linked in their metadata: https://github.com/facebookresearch/SWAG/blob/main/LICENSE
LICENSE = "BSD-3-Clause"
SWAG_LICENSE = "CC-BY-NC-4.0"

# With weights, torchvision makes these two networks undo its ImageNet normalisation and then apply a mean and standard
# deviation of 0.5 (`transform_input`). Normalising with 0.5 in the first place is the same function.
REPLACES_NORMALISATION = ("inception_v3", "googlenet")


def generate_rows() -> list[Backbone]:
    """One entry for each classification network, with its default weights first."""
    return [_row(name) for name in list_models(module=torchvision.models)]


def _row(name: str) -> Backbone:
    published = get_model_weights(name)
    default = published.DEFAULT
    weights = [_weights(name, entry) for entry in sorted(published, key=lambda entry: entry is not default)]
    title, url = _paper(name)
    return Backbone(
        name=name,
        summary=title,
        build="zoo_torchvision.build:build",
        preprocess=weights[0].preprocess,
        weights=tuple(weights),
        license=LICENSE,
        source=url,
        # torchvision counts Inception's auxiliary head, which our network lacks; computed on demand instead
        parameters=None if name == "inception_v3" else default.meta["num_params"],
        gflops=default.meta["_ops"],  # multiply-adds / 1e9, as torchvision publishes them
    )


def _weights(name: str, entry: Any) -> Weights:
    transforms = entry.transforms()
    top1 = entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    halves = (0.5, 0.5, 0.5)
    replaces = name in REPLACES_NORMALISATION
    return Weights(
        tag=entry.name,
        preprocess=Preprocess(
            resize=transforms.resize_size[0],
            crop=transforms.crop_size[0],
            interpolation=transforms.interpolation.value,
            mean=halves if replaces else tuple(transforms.mean),
            std=halves if replaces else tuple(transforms.std),
        ),
        source=entry.url,
        file=PurePosixPath(urlsplit(entry.url).path).name,
        license=SWAG_LICENSE if "SWAG" in entry.name else LICENSE,
        # The VGG-16 features have no classifier, so torchvision gives NaN for their accuracy
        top1=None if top1 is None or math.isnan(top1) else round(top1 / 100, 6),
        at_hand="zoo_torchvision.download:is_at_hand",
    )


def _paper(name: str) -> tuple[str, str]:
    """Title and URL of the paper, from the first paragraph of the builder's docstring."""
    text = " ".join((inspect.getdoc(get_model_builder(name)) or "").split("\n\n")[0].split())
    link = re.search(r"<(https?://[^>]+)>", text)
    title = re.sub(r"\s*<https?://[^>]+>`_+|`", "", text).rstrip(". ")
    title = re.sub(r"^Constructs? (an? )?", "", title)
    title = re.sub(r"( model)?( architecture)? from (the )?", " from ", title).removesuffix(" paper")
    return title or f"{name} of torchvision", link.group(1) if link else "https://docs.pytorch.org/vision/stable/models"
