"""Acceptance: what an experiment and its images must satisfy before anything is trained.

`zoo train`, `zoo plan` and `zoo study` ask this module, so that none accepts what another refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from zoo.config.choice import choose
from zoo.config.references import needs_validation
from zoo.data.decode_plan import decode_requests
from zoo.data.decoding import default_workers
from zoo.data.exclusion import exclude, read_exclusion, without
from zoo.data.folds import make_folds, pool, with_held_out
from zoo.data.groups import SharedGroup, shared_groups, told_groups
from zoo.data.image import BadImage, decode
from zoo.data.leakage import Leak, digests, find_leaks, leaks_by_role, told
from zoo.data.opening import open_images
from zoo.data.roles import Roles, assign_roles
from zoo.data.selection import OPTION as DROP
from zoo.data.selection import SeenBefore, Selection, is_leak, near_duplicate_leaks, select_images
from zoo.dataset import Images, Sample
from zoo.errors import UsageError, ZooError
from zoo.experiment import Experiment
from zoo.plugin import Plugins
from zoo.preprocess import Preprocess
from zoo.unknown import check_images

# A sign counts at the beginning of a name and behind a blank: the one of `10-19` is none
_NUMBER = re.compile(r"(?<!\S)[-\N{MINUS SIGN}]?\d+(?:[.,]\d+)?|\d+(?:[.,]\d+)?")
SHOWN = 12  # classes whose order is told


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The images of a run of one network, and what each is for."""

    selection: Selection
    roles: Roles


def _without_seen(selection: Selection, roles: Roles, seen: SeenBefore) -> tuple[Selection, Roles]:
    """Leave images that were seen before out of those that training sets aside for validation.

    Raises:
        ZooError: a class has none left.
    """
    aside = replace(selection.images, splits={"val": roles.choose})
    gone = {sample.id for sample, digest in digests(roles.choose) if digest in seen.sha256}
    kept = without(aside, gone, DROP).splits["val"]
    notes = (*roles.notes, seen.note(gone)) if gone else roles.notes
    dropped = tuple(sorted({*selection.dropped, *gone}))
    return replace(selection, dropped=dropped), replace(roles, choose=kept, notes=notes)


@dataclass(frozen=True, kw_only=True)
class FoldDivision:
    """The images of a run of folds.

    Attributes:
        images: The data without what is left out, in the splits that they have.
        folds: All of them that are not in `test`, by fold.
        exclusion: JSON values about `--exclude` for `run.json`. None: it was not given.
        listed: The bytes of the list of `--exclude`. None: it was not given.
    """

    images: Images
    folds: tuple[Sequence[Sample], ...]
    exclusion: dict[str, Any] | None = None
    listed: bytes | None = None

    @property
    def parts(self) -> Mapping[str, Sequence[Sample]]:
        """What must not share any image or group: each fold, and `test`."""
        found = {f"fold {number}": fold for number, fold in enumerate(self.folds, start=1)}
        return {**found, "test": self.images.splits["test"]} if "test" in self.images.splits else found


def accept(
    experiment: Experiment, plugins: Plugins, *, final: bool = False, look: bool = True, seen: SeenBefore | None = None
) -> Accepted:
    """Open the images of a run of one network, and assign their roles.

    Args:
        experiment: All settings.
        plugins: Loaded plugins.
        final: Whether it is a final run, which needs no image to score.
        look: Whether near duplicates are searched for, if the experiment asks for that.
        seen: Images that `--on-leak drop` leaves out of what is scored.

    Raises:
        UsageError, ZooError: as `select_images`, `assign_roles`, `order_note` and `check_unknown`; or no image is held
            out.
    """
    selection = select_images(experiment, plugins, look=look, seen=seen)
    _check_held_out(selection.images, final=final)
    roles = assign_roles(selection.images, experiment, validated=needs_validation(experiment, plugins))
    if seen is not None and experiment.on_leak == "drop" and roles.choose and not selection.images.may_choose:
        selection, roles = _without_seen(selection, roles, seen)
    ordered = order_note(selection.images.classes, experiment, plugins)
    roles = replace(roles, notes=(*roles.notes, *ordered))
    check_unknown(selection.images, roles, len(selection.images.splits.get("val", ())), experiment)
    return Accepted(selection=selection, roles=roles)


def accept_folds(experiment: Experiment, plugins: Plugins) -> FoldDivision:
    """Open the images of a run of folds, and divide them; what any of the folds would be refused for is refused now.

    Raises:
        UsageError: settings exclude each other, or no image is held out.
        ZooError: the images cannot be divided, or a fold lacks a class.
    """
    assert experiment.folds is not None
    if experiment.on_leak == "drop":
        raise UsageError(
            "`--on-leak drop` has no meaning with `--folds`: each fold would drop other images",
            hint="leave them out with `--exclude`, for which `zoo doctor` writes a list",
        )
    whole = open_images(experiment.data, experiment.split_seed, plugins, group=experiment.group)
    _check_held_out(whole)
    order_note(whole.classes, experiment, plugins)
    folds = tuple(make_folds(pool(whole), experiment.folds, experiment.split_seed))
    exclusion = None if experiment.exclude is None else read_exclusion(experiment.exclude)
    validated = needs_validation(experiment, plugins)
    for number in range(1, len(folds) + 1):  # images are left out after the division, as each of the folds' runs does
        one = with_held_out(whole, folds, number)
        assign_roles(one if exclusion is None else exclude(one, exclusion)[0], experiment, validated=validated)
    if exclusion is None:
        return FoldDivision(images=whole, folds=folds)
    images, gone = exclude(whole, exclusion)
    return FoldDivision(
        images=images,
        folds=tuple(tuple(sample for sample in fold if sample.id not in gone) for fold in folds),
        exclusion=exclusion.to_json(gone),
        listed=exclusion.data,
    )


def leaks_of_folds(division: FoldDivision, experiment: Experiment) -> tuple[list[Leak], list[SharedGroup]]:
    """Images and groups in two folds, or in a fold and in `test`; and images with two labels."""
    parts = division.parts
    leaks = _decodable(find_leaks({name: digests(samples) for name, samples in parts.items()}), experiment)
    if experiment.leak_check == "near":
        near = near_duplicate_leaks(parts, experiment.workers or default_workers())
        leaks += [leak for leak in near if is_leak(leak)]
    return [leak for leak in leaks if leak.roles != ("test",)], shared_groups(parts)


def leaks_of_files(accepted: Accepted, experiment: Experiment, preprocess: Preprocess) -> list[Leak]:
    """The leaks that a run will find when it decodes its images, from their files."""
    roles = accepted.roles
    requests = decode_requests(accepted.selection.images, roles, preprocess)
    parts = {name: digests(part.samples) for name, part in requests.items()}
    found = leaks_by_role(parts, roles.reported or "val")
    return [*_decodable(found, experiment), *accepted.selection.near]


def check_leaks(name: str, leaks: Sequence[Leak], shared: Sequence[SharedGroup], experiment: Experiment) -> None:
    """Check what must not be with `--on-leak fail`.

    Raises:
        ZooError: there are groups or images of the data `name` in two parts, or images with two labels.
    """
    if experiment.on_leak != "fail":
        return
    if shared:
        raise ZooError(
            f"`{name}`: {told_groups(shared)}", hint="move the images of each into one split, or pass `--on-leak warn`"
        )
    if leaks:
        instead = "`--on-leak warn`" if experiment.folds is not None else "`--on-leak drop` or `warn`"
        raise ZooError(f"`{name}`: {told(leaks)}", hint=f"delete all but one of each, or pass {instead}")


def check_unknown(images: Images, roles: Roles, count: int, experiment: Experiment) -> None:
    """Check that a threshold for unknown images can be set on the `count` images of `val`, if the experiment asks.

    Raises:
        ZooError: there is no `val`, or it has too few images.
    """
    if experiment.unknown_rate is None:
        return
    if roles.reported != "val":
        raise ZooError(
            f"`--unknown-rate` sets a threshold on the images of `val`, and `{images.name}` has none",
            hint="name a part of the training images `val`, such as by `--splits`, or leave `--unknown-rate` out",
        )
    check_images(count, experiment.unknown_rate, "val")


def order_note(classes: Sequence[str], experiment: Experiment, plugins: Plugins) -> tuple[str, ...]:
    """What a run says about the order of its classes: nothing, unless its loss depends on that.

    Raises:
        UsageError: the loss does, and the classes are numbers that are sorted as texts, such as 1, 10, 2.
    """
    loss = choose(experiment.loss, plugins.losses, plugins)
    if not loss.entry.value.ordered:
        return ()
    order = " < ".join(f"`{name}`" for name in classes[:SHOWN]) + (" < ..." if len(classes) > SHOWN else "")
    values = [_numbers(name) for name in classes]
    first = [found[0] for found in values if found]
    alike = [_NUMBER.split(one) == _NUMBER.split(other) for one, other in pairwise(classes)]
    if (len(first) == len(classes) and first != sorted(first)) or any(
        same and one > other for same, (one, other) in zip(alike, pairwise(values))
    ):
        raise UsageError(
            f"loss `{loss}` needs classes in order, and they are sorted as texts: {order}",
            hint="rename them so that they sort in order, such as 01, 02 and 10",
        )
    return (f"loss `{loss}` takes the classes in this order: {order}",)


def _numbers(name: str) -> list[float]:
    return [float(found.replace(",", ".").replace("\N{MINUS SIGN}", "-")) for found in _NUMBER.findall(name)]


def _check_held_out(images: Images, *, final: bool = False) -> None:
    """Check that there is an image to score, unless it is a final run.

    Raises:
        UsageError: there is none.
    """
    if images.whole and not final:
        raise UsageError(
            f"`{images.name}` holds no image out, so there is none to score",
            hint="`zoo train --final RUN` trains on all images, once another run has been scored",
        )


def _decodable(leaks: Sequence[Leak], experiment: Experiment) -> list[Leak]:
    """The leaks without those of files that are no images, which no run uses."""
    return [leak for leak in leaks if _can_be_decoded(leak.images[0][1], experiment)]


def _can_be_decoded(sample: Sample, experiment: Experiment) -> bool:
    try:
        decode(sample.source, 1, levels=experiment.levels)
    except (BadImage, OSError):
        return False
    return True
