"""Profile: parameters and multiply-adds of a network, measured on demand and cached.

Building all of timm's networks takes minutes, so only those that a query matches are measured. They are built on
torch's `meta` device, which computes nothing and takes no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.backbone import Backbone, BuildSpec
from zoo.storage.cache import read_memo, write_memo
from zoo.target import load_target

# A network takes 0.2 to 2 seconds to measure; a listing with more unknown ones than this would take minutes
MOST = 40

# Nearly all published heads have as many classes, so the figures can be compared
CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class NetworkProfile:
    """Size and cost of a network; None where they could not be measured.

    Attributes:
        parameters: with a head of 1000 classes.
        gflops: multiply-adds / 1e9 of one image at the native size, as papers and torchvision count.
    """

    parameters: int | None
    gflops: float | None


def profile_network(backbone: Backbone) -> NetworkProfile:
    """Size and cost of one network: from its row, else from the cache, else measured by building it."""
    return profile_networks([backbone])[0]


def profile_networks(backbones: Sequence[Backbone], *, most: int = MOST) -> list[NetworkProfile]:
    """Size and cost of several networks, in order; if more than `most` are unknown, those are not measured."""
    kept = _read()
    found: list[NetworkProfile | None] = []
    for backbone in backbones:
        if backbone.parameters is not None and backbone.gflops is not None:
            found.append(NetworkProfile(parameters=backbone.parameters, gflops=backbone.gflops))
        else:
            found.append(_decode(kept.get(_cache_key(backbone))))
    unknown = [position for position, known in enumerate(found) if known is None]
    if len(unknown) <= most:
        for position in unknown:
            measured = measure(backbones[position])
            found[position] = measured
            key = _cache_key(backbones[position])
            if key:
                kept[key] = [measured.parameters, measured.gflops]
        if unknown:
            write_memo("facts", _library_versions(), kept)
    return [
        known or NetworkProfile(parameters=backbone.parameters, gflops=backbone.gflops)
        for backbone, known in zip(backbones, found, strict=True)
    ]


def measure(backbone: Backbone) -> NetworkProfile:
    """Build a network on the `meta` device, and count its parameters and the multiply-adds of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from zoo.networks.building import count_parameters

    parameters: int | None = None
    try:
        build = load_target(backbone.build)
        with torch.device("meta"):
            model = build(BuildSpec(backbone=backbone.name, classes=CLASSES)).model.eval()
            parameters = count_parameters(model)
            image = torch.empty(1, 3, *backbone.preprocess.input_size)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(image)
    except Exception:
        # some networks read a tensor's values while they are built or run, and `meta` tensors have none; a listing
        # shows `-` for those
        return NetworkProfile(parameters=backbone.parameters or parameters, gflops=backbone.gflops)
    # torch counts a multiplication and an addition as two operations
    return NetworkProfile(
        parameters=backbone.parameters or parameters,
        gflops=backbone.gflops or round(counter.get_total_flops() / 2 / 1e9, 3),
    )


def _read() -> dict[str, Any]:
    kept = read_memo("facts", _library_versions())
    return kept if isinstance(kept, dict) else {}


def _decode(kept: Any) -> NetworkProfile | None:
    match kept:
        case [int() | None as parameters, int() | float() | None as gflops]:
            return NetworkProfile(parameters=parameters, gflops=gflops)
    return None


def _library_versions() -> str:
    return " ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm"))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _cache_key(backbone: Backbone) -> str:
    """The key of a network's profile, which changes with the file that builds it; empty: it is not cached."""
    if not isinstance(backbone.build, str):
        return ""
    spec = find_spec(backbone.build.partition(":")[0])
    if spec is None or spec.origin is None:
        return ""
    try:
        changed = Path(spec.origin).stat().st_mtime_ns
    except OSError:
        return ""
    return f"{backbone.build} {backbone.name} {backbone.preprocess.crop} {changed}"
