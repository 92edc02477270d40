"""Facts: how large a network is and what one image costs it, found out on demand and remembered.

Building all of timm's networks takes minutes, so only those that a query matched are looked at, on torch's `meta`
device, where nothing is computed and no memory is taken.
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

# A network takes 0.2 to 2 seconds; a listing of more than this many unknown ones would take minutes
MOST = 40

# The published heads of nearly all networks, so that figures compare
CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a network without training it; None where it could not be found out."""

    parameters: int | None  # with a head of 1000 classes
    gflops: float | None  # multiply-adds / 1e9 of one image at the native size, as papers and torchvision count


def facts(backbone: Backbone) -> Facts:
    """Size and cost of one network: from its row, else remembered, else found out by building it."""
    return all_facts([backbone])[0]


def all_facts(backbones: Sequence[Backbone], *, most: int = MOST) -> list[Facts]:
    """Facts of several networks, in order; where more than `most` are unknown, those stay None."""
    kept = _read()
    found: list[Facts | None] = []
    for backbone in backbones:
        if backbone.parameters is not None and backbone.gflops is not None:
            found.append(Facts(parameters=backbone.parameters, gflops=backbone.gflops))
        else:
            found.append(_decode(kept.get(_entry(backbone))))
    unknown = [position for position, known in enumerate(found) if known is None]
    if len(unknown) <= most:
        for position in unknown:
            measured = measure(backbones[position])
            found[position] = measured
            entry = _entry(backbones[position])
            if entry:
                kept[entry] = [measured.parameters, measured.gflops]
        if unknown:
            write_memo("facts", _key(), kept)
    return [
        known or Facts(parameters=backbone.parameters, gflops=backbone.gflops)
        for backbone, known in zip(backbones, found, strict=True)
    ]


def measure(backbone: Backbone) -> Facts:
    """Build a network on the `meta` device, count its parameters, and pass one image of the native size through."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from zoo.networks.building import count_parameters

    parameters: int | None = None
    try:
        build = load_target(backbone.build)
        with torch.device("meta"):
            model = build(BuildSpec(backbone=backbone.name, classes=CLASSES)).model.eval()
            parameters = count_parameters(model)
            image = torch.empty(1, 3, backbone.preprocess.crop, backbone.preprocess.crop)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(image)
    except Exception:
        # some networks look at values while they are built or run (a shape from a tensor), which `meta` has not; a
        # listing shows `-` for those rather than fail
        return Facts(parameters=backbone.parameters or parameters, gflops=backbone.gflops)
    # torch counts a multiplication and an addition as two
    return Facts(
        parameters=backbone.parameters or parameters,
        gflops=backbone.gflops or round(counter.get_total_flops() / 2 / 1e9, 3),
    )


def _read() -> dict[str, Any]:
    kept = read_memo("facts", _key())
    return kept if isinstance(kept, dict) else {}


def _decode(kept: Any) -> Facts | None:
    match kept:
        case [int() | None as parameters, int() | float() | None as gflops]:
            return Facts(parameters=parameters, gflops=gflops)
    return None


def _key() -> str:
    return " ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm"))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _entry(backbone: Backbone) -> str:
    """What a network is remembered under; it changes with the file that builds it. Empty: not remembered."""
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
