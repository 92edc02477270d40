"""Roles: which samples are fitted, which may be chosen on, and which are reported."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.data.splitting import carve, stratified_subset
from zoo.dataset import Images, Role, Sample
from zoo.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which samples are fitted, which may be chosen on, and which are reported."""

    fit: tuple[Sample, ...]
    choose: tuple[Sample, ...]  # empty: nothing is chosen, and nothing is watched
    reported: Role
    notes: tuple[str, ...]


def assign_roles(images: Images, experiment: Experiment) -> Roles:
    """Honest roles: `val` chooses only where `test` remains; else what must be chosen is carved from train."""
    fit, choose = images.splits["train"], tuple[Sample, ...]()
    notes: tuple[str, ...] = ()
    if experiment.fraction < 1:
        fit = stratified_subset(fit, experiment.fraction, experiment.split_seed)
        notes = (f"`--fraction {experiment.fraction:g}`: {len(fit)} of {len(images.splits['train'])} training images",)
    if images.may_choose:
        choose = images.splits["val"]
    elif experiment.chooses:
        fit, choose = carve(fit, experiment.split_seed)
        notes = (
            *notes,
            f"`{images.reported}` is what is reported, so {len(choose)} of {len(fit) + len(choose)} training images "
            "are set aside to choose on",
        )
    return Roles(fit=fit, choose=choose, reported=images.reported, notes=notes)
