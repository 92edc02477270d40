"""Roles of samples in a training run: training, validation, and the split that metrics are reported on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.data.splitting import hold_out, stratified_subset
from zoo.dataset import Images, Role, Sample
from zoo.errors import ZooError
from zoo.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What a training run uses each sample for.

    Attributes:
        fit: Samples that the network is trained on.
        choose: Samples for validation, on which early stopping, `--keep best` and schedules such as `plateau` decide.
            Empty: there is no validation.
        reported: The split that metrics are reported on. None: a final run, which reports nothing of its own.
        notes: Lines for the user about these decisions.
    """

    fit: Sequence[Sample]
    choose: Sequence[Sample]
    reported: Role | None
    notes: tuple[str, ...]


def assign_roles(images: Images, experiment: Experiment, *, validated: bool = False) -> Roles:
    """Assign roles so that nothing is chosen on the images of the final report.

    `val` is used for validation only where `test` remains for the report. Otherwise, if the experiment needs
    validation, a part of the training images is held out for it.

    Args:
        images: All images, by split.
        experiment: All settings.
        validated: Whether the schedule needs validation, see `needs_validation`; other settings are looked at here.

    Raises:
        ZooError: there are no images to train on, or to report on; or a class has too few to hold one out.
    """
    if images.whole:
        fit: Sequence[Sample] = images.splits["train"]
        note = f"final run: all {len(fit)} images that are not in `test` are trained on, and nothing is chosen on any"
        if experiment.fraction < 1:
            fit = stratified_subset(fit, experiment.fraction, experiment.split_seed)
        return Roles(fit=fit, choose=(), reported=None, notes=(note,))
    if "train" not in images.splits or len(images.splits) < 2:
        raise ZooError(
            f"`{images.name}` has {' '.join(images.splits)} alone", hint="training needs `train`, and `val` or `test`"
        )
    fit = images.splits["train"]
    choose: Sequence[Sample] = ()
    notes: tuple[str, ...] = ()
    if images.may_choose:
        choose = images.splits["val"]
    elif (
        experiment.chooses or validated
    ):  # before the fraction is taken: so all fractions are validated on the same images
        fit, choose = hold_out(fit, experiment.split_seed)
        notes = (
            f"metrics are reported on `{images.reported}`, so {len(choose)} of {len(fit) + len(choose)} training "
            "images are held out for validation",
        )
    if experiment.fraction < 1:
        count = len(fit)
        fit = stratified_subset(fit, experiment.fraction, experiment.split_seed)
        notes = (*notes, f"`--fraction {experiment.fraction:g}`: {len(fit)} of {count} training images")
    return Roles(fit=fit, choose=choose, reported=images.reported, notes=notes)
